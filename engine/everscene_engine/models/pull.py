"""Fetch the published files of a preset and convert them.

Files come through huggingface_hub into its own cache, which resumes a broken download and shows progress. A source with
no revision of ours is fetched at the newest one, and the commit that this turned out to be is written into
`sources.json` beside the weights: from then on `pull` asks for that one. What was converted before from the same commit
is not fetched again, so a pull that was broken off goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models.convert import TOKENIZER, convert
from everscene_engine.models.presets import Preset, Source
from everscene_engine.models.verify import verify_part

LOCK = "sources.json"


class Hub(Protocol):
    """What is asked of a place that has published files."""

    def fetch(self, repo: str, path: str, revision: str | None) -> tuple[Path, str]:
        """A file, or a folder for a path that ends in /, on this machine; and the commit that it is of."""


class HuggingFace:
    """The Hugging Face hub. Raises CheckpointError with the hub's own words."""

    def fetch(self, repo: str, path: str, revision: str | None) -> tuple[Path, str]:
        """See `Hub`."""
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HTTPError,  # of the HTTP library that this version of the hub's client has
            LocalEntryNotFoundError,
        )

        try:
            commit = revision or str(HfApi().model_info(repo).sha)
            if path.endswith("/"):
                folder = snapshot_download(repo, revision=commit, allow_patterns=f"{path}*")
                return Path(folder) / path, commit
            return Path(hf_hub_download(repo, path, revision=commit)), commit
        except (HTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(f"cannot fetch {path} of {repo}: {error}") from error


@dataclass(frozen=True)
class Pulled:
    """A part that is now there. note: what a user should know, or empty."""

    part: str
    source: Source
    commit: str
    note: str


def chosen_sources(preset: Preset, steps: int | None, extras: tuple[str, ...] = ()) -> list[Source]:
    """The sources of a preset that are wanted: one transformer, what is not optional, and the extras by their part.

    Raises ConfigError for steps or extras that there are none for.
    """
    transformer = preset.transformer_part(steps)
    known = {source.part for source in preset.sources if source.optional}
    for extra in extras:
        if extra not in known:
            there_is = ", ".join(sorted(known)) or "nothing"
            raise ConfigError(f"{preset.name} has no {extra!r} to fetch; there is: {there_is}")
    return [
        source
        for source in preset.sources
        if source.part == transformer
        or source.part in extras
        or (not source.optional and not source.part.startswith("transformer-"))
    ]


def pull(
    preset: Preset, sources: list[Source], folder: Path, hub: Hub, told: Callable[[Source], None] = lambda _: None
) -> Iterator[Pulled]:
    """Fetch and convert the sources one after another into `folder`. told: called before each with what comes.

    Raises CheckpointError when a file cannot be fetched or is not what it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock_file = folder / LOCK
    lock: dict[str, Any] = json.loads(lock_file.read_text()) if lock_file.exists() else {}
    for source in sources:
        told(source)
        before = lock.get(source.part, {})
        revision = source.revision or before.get("commit")
        same = (before.get("repo"), before.get("path"), before.get("commit")) == (source.repo, source.path, revision)
        if same and _is_whole(preset, source.part, folder):
            yield Pulled(source.part, source, str(revision), "it was there already")
            continue
        path, commit = hub.fetch(source.repo, source.path, revision)
        base = hub.fetch(source.repo, source.onto, commit)[0] if source.onto else None
        note = _compare_hash(path, source)
        convert(preset, source.part, path, folder, onto=base, lora_alpha=source.lora_alpha)
        lock[source.part] = {"repo": source.repo, "path": source.path, "commit": commit, "licence": source.licence}
        lock_file.write_text(json.dumps(lock, indent=2) + "\n")
        yield Pulled(source.part, source, commit, note)


def _is_whole(preset: Preset, part: str, folder: Path) -> bool:
    """Whether a part that was pulled before is still there, as its headers tell."""
    if part == TOKENIZER:
        return (folder / TOKENIZER).is_dir()
    try:
        verify_part(preset, part, folder)
    except CheckpointError:
        return False
    return True


def _compare_hash(path: Path, source: Source) -> str:
    """A note when a file is not the one that others published a hash of: it may be newer, or it may be wrong."""
    if source.sha256 is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == source.sha256:
        return ""
    return f"its sha256 is {found}; the one that others have published is {source.sha256}"
