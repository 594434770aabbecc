"""The models that Everscene runs, as data: sizes, how they stream, and where their published weights lie.

The weights of the large models are not ours and have licences of their own: `pull` shows the licence of every file that
it fetches. A revision or a hash that we do not know for certain is None, and `pull` then writes down what it found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from everscene_engine.config import POCKET_STREAM, POCKET_TRANSFORMER, WAN_1_3B, WAN_5B, StreamConfig, TransformerConfig
from everscene_engine.errors import ConfigError

HOME = Path.home() / ".cache" / "everscene" / "models"  # a folder of converted weights for each preset

Family = Literal["pocket", "wan2.1", "wan2.2"]


@dataclass(frozen=True)
class Source:
    """A published file, or with a path that ends in / a folder, of a Hugging Face repository.

    part: what it becomes: transformer-Nstep (N steps), text, tokenizer, vae, lightvae, lightvae2. lora_alpha: when the
    file holds low-rank weights, their strength times their rank; `onto` is then the file that they are added to.
    revision: a commit, or None. sha256: as others published it, or None; `pull` compares and reports.
    """

    part: str
    repo: str
    path: str
    licence: str
    revision: str | None = None
    sha256: str | None = None
    lora_alpha: float | None = None
    onto: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Preset:
    """A model. sources: its published files; none for a model whose weights come with the package."""

    name: str
    about: str
    family: Family
    transformer: TransformerConfig
    stream: StreamConfig
    step_choices: tuple[int, ...]
    sources: tuple[Source, ...] = ()

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return not self.sources

    def transformer_part(self, steps: int | None = None) -> str:
        """The part that holds the weights made for so many steps (None: the preset's own number).

        Raises ConfigError when the preset has none for them.
        """
        wanted = steps or self.stream.steps
        if wanted not in self.step_choices:
            known = ", ".join(map(str, self.step_choices))
            raise ConfigError(f"{self.name} has no weights for {wanted} steps; there are some for: {known}")
        return f"transformer-{wanted}step"

    def how_to_get(self, part: str) -> str:
        """The command that gets a part, for a message about one that is missing or damaged."""
        found = next((source for source in self.sources if source.part == part), None)
        if found is None:
            return f"`everscene models convert {self.name} FILE --part {part}` makes it of a published file"
        option = f" --extra {part}" if found.optional else ""
        for steps in self.step_choices:
            if part == self.transformer_part(steps) and steps != self.stream.steps:
                option = f" --steps {steps}"
        return f"`everscene models pull {self.name}{option}` fetches it"


NVIDIA_OPEN = "NVIDIA Open Model License"
NON_COMMERCIAL = "non-commercial use only (see the repository)"
APACHE = "Apache-2.0"

_WAN22 = "Wan-AI/Wan2.2-TI2V-5B"
_WAN22_REVISION = "921dbaf3f1674a56f47e83fb80a34bac8a8f203e"
_WAN21 = "Wan-AI/Wan2.1-T2V-1.3B"
_T5 = "models_t5_umt5-xxl-enc-bf16.pth"
_T5_SHA256 = "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d"
_LIGHT = "Skywork/Matrix-Game-3.0"

LONGLIVE2_STREAM = StreamConfig(
    latent_height=44,
    latent_width=80,
    chunk_frames=8,
    window_chunks=2,  # four slots in all: sink, two, and the chunk in work
    sink_reach=376,  # it was trained on 384 latent frames; up to there nothing differs from an unlimited reach
    steps=4,
    fps=24.0,
    spatial_stride=16,
    shot_sink=True,
    shot_offset=8,
)
LONGLIVE1_STREAM = StreamConfig(
    latent_height=60,
    latent_width=104,
    chunk_frames=3,
    window_chunks=2,
    sink_reach=237,  # it was trained on 240 latent frames
    steps=4,
    fps=16.0,
    sampler="renoise",
    recache="bidirectional",
)

PRESETS = (
    Preset(
        name="pocket",
        about="small, comes with the package, real time on a laptop without a GPU",
        family="pocket",
        transformer=POCKET_TRANSFORMER,
        stream=POCKET_STREAM,
        step_choices=tuple(range(1, 51)),
    ),
    Preset(
        name="longlive2-5b",
        about="LongLive 2.0 on Wan 2.2 TI2V 5B: 1280×704 at 24 fps, 4 or 2 steps; a large GPU",
        family="wan2.2",
        transformer=WAN_5B,
        stream=LONGLIVE2_STREAM,
        step_choices=(4, 2),
        sources=(
            Source(
                "transformer-4step",
                "Efficient-Large-Model/LongLive-2.0-5B",
                "model_bf16.pt",
                NVIDIA_OPEN,
                revision="8521079b863720a57c1a8d9b19c8d9e6ccb04c0f",
                sha256="ec9063a44ea3c91e8ff55edcdd58dba3f1bcf6ac9091249629cb57fcebe35fd8",
            ),
            Source(
                "transformer-2step", "Efficient-Large-Model/LongLive-2.0-5B-NVFP4-S2", "model_te.pt", NVIDIA_OPEN
            ),  # plain merged bf16 weights, whatever the name says
            Source("text", _WAN22, _T5, APACHE, _WAN22_REVISION, _T5_SHA256),
            Source("tokenizer", _WAN22, "google/umt5-xxl/", APACHE, _WAN22_REVISION),
            Source(
                "vae",
                _WAN22,
                "Wan2.2_VAE.pth",
                APACHE,
                _WAN22_REVISION,
                "20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36",
            ),
            Source("lightvae", _LIGHT, "MG-LightVAE.pth", APACHE, optional=True),
            Source("lightvae2", _LIGHT, "MG-LightVAE_v2.pth", APACHE, optional=True),
        ),
    ),
    Preset(
        name="longlive-1.3b",
        about="LongLive 1.0 on Wan 2.1 T2V 1.3B: 832×480 at 16 fps, 4 steps; a smaller GPU",
        family="wan2.1",
        transformer=WAN_1_3B,
        stream=LONGLIVE1_STREAM,
        step_choices=(4,),
        sources=(
            Source(
                "transformer-4step",
                "Efficient-Large-Model/LongLive-1.3B",
                "models/lora.pt",
                NON_COMMERCIAL,
                lora_alpha=256,
                onto="models/longlive_base.pt",
            ),
            Source("text", _WAN21, _T5, APACHE, sha256=_T5_SHA256),
            Source("tokenizer", _WAN21, "google/umt5-xxl/", APACHE),
            Source("vae", _WAN21, "Wan2.1_VAE.pth", APACHE),
        ),
    ),
)


def preset(name: str) -> Preset:
    """The preset of a name. Raises ConfigError."""
    for known in PRESETS:
        if known.name == name:
            return known
    raise ConfigError(f"no such model: {name!r}; there is: {', '.join(known.name for known in PRESETS)}")
