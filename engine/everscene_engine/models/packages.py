"""What the large models need that the package does not install by itself."""

from importlib.util import find_spec

from everscene_engine.errors import ConfigError

PACKAGES = ("diffusers", "transformers", "huggingface_hub", "sentencepiece", "ftfy")


def check_packages() -> None:
    """Raise ConfigError naming the packages that are not installed."""
    lacking = [package for package in PACKAGES if find_spec(package) is None]
    if lacking:
        raise ConfigError(f'the large models need {", ".join(lacking)}: pip install "everscene[large]"')
