"""`everscene models`: a hub of our own stands in for the real one, everything else is what a user runs."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from typer.testing import CliRunner

from everscene_bridge import cli_models
from everscene_bridge.cli import app
from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import networks, packages
from everscene_engine.models import pull as pulling
from everscene_engine.models.layout import read_header
from everscene_engine.models.presets import PRESETS, Source, preset
from everscene_engine.models.pull import chosen_sources, pull
from everscene_engine.models.verify import verify
from tests.engine.published import PRESET, TEXT, VAE_22, filled, transformer_weights, write_preset

LORA = Source("transformer-4step", "someone/lora", "lora.pt", "MIT", lora_alpha=2, onto="base.pt")
SCENE = "name: bay\ntemplate: 'a {what}'\nslots: {what: fox}\nevents: {storm: {set: {what: storm}}}\n"


class Shelf:
    """A hub whose files lie in a folder; remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str | None]] = []

    def fetch(self, repo: str, path: str, revision: str | None) -> tuple[Path, str]:
        self.asked.append((repo, path, revision))
        if not (self.folder / path).exists():
            raise CheckpointError(f"cannot fetch {path} of {repo}: 404")
        return self.folder / path, revision or "newest"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every published file of the small preset."""
    folder = tmp_path_factory.mktemp("hub")
    torch.save({"generator": transformer_weights(0)}, folder / "model_bf16.pt")
    torch.save({"generator": transformer_weights(1)}, folder / "model_te.pt")
    text = filled(networks.text(TEXT)).state_dict()
    text.pop("encoder.embed_tokens.weight", None)
    torch.save(text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save(filled(networks.vae(VAE_22)).state_dict(), folder / "Wan2.2_VAE.pth")
    torch.save(filled(networks.vae({**VAE_22, "decoder_base_dim": 4})).state_dict(), folder / "MG-LightVAE_v2.pth")
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    (folder / "google" / "umt5-xxl" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def pulled(published: Path, tmp_path: Path) -> Path:
    list(pull(PRESET, chosen_sources(PRESET, None), tmp_path / PRESET.name, Shelf(published)))
    return tmp_path


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    """The command line over the small preset."""
    monkeypatch.setattr(cli_models, "preset", lambda name: PRESET if name == PRESET.name else preset(name))
    yield CliRunner()


def test_pull_fetches_converts_and_writes_down_what_it_fetched(published: Path, tmp_path: Path) -> None:
    hub = Shelf(published)
    done = list(pull(PRESET, chosen_sources(PRESET, 2, ("lightvae2",)), tmp_path, hub))
    assert [part.part for part in done] == ["transformer-2step", "text", "tokenizer", "vae", "lightvae2"]
    assert verify(PRESET, tmp_path).keys() == {"transformer-2step", "text", "vae", "lightvae2"}
    lock = json.loads((tmp_path / pulling.LOCK).read_text())
    assert lock["transformer-2step"]["commit"] == "newest"
    assert lock["vae"]["commit"] == "921dbaf3f1674a56f47e83fb80a34bac8a8f203e"


def test_pull_asks_for_the_commit_that_it_found_the_first_time(published: Path, tmp_path: Path) -> None:
    sources = [source for source in chosen_sources(PRESET, 2) if source.part == "transformer-2step"]
    list(pull(PRESET, sources, tmp_path, Shelf(published)))
    for path in tmp_path.glob("transformer-2step-*"):
        path.unlink()
    hub = Shelf(published)
    list(pull(PRESET, sources, tmp_path, hub))
    assert hub.asked == [(sources[0].repo, "model_te.pt", "newest")]


def test_pull_leaves_what_is_there_and_whole(published: Path, tmp_path: Path) -> None:
    sources = chosen_sources(PRESET, 2)
    list(pull(PRESET, sources, tmp_path, Shelf(published)))
    [torn] = tmp_path.glob("vae-1-of-1.safetensors")
    torn.write_bytes(torn.read_bytes()[:-100])
    hub = Shelf(published)
    done = list(pull(PRESET, sources, tmp_path, hub))
    assert [path for _, path, _ in hub.asked] == ["Wan2.2_VAE.pth"]
    assert [part.part for part in done if part.note == "it was there already"] == [
        "transformer-2step", "text", "tokenizer",
    ]  # fmt: skip
    verify(PRESET, tmp_path, deep=True)


def test_pull_says_when_a_file_is_not_the_one_others_have_seen(published: Path, tmp_path: Path) -> None:
    notes = {done.part: done.note for done in pull(PRESET, chosen_sources(PRESET, 4), tmp_path, Shelf(published))}
    assert "the one that others have published is ec9063a4" in notes["transformer-4step"]
    assert notes["tokenizer"] == ""


def test_pull_merges_low_rank_weights_onto_the_base_of_the_same_commit(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    shutil.copytree(published, folder)
    weights = transformer_weights()
    torch.save({"generator": weights}, folder / "base.pt")
    name = "blocks.0.ffn.0"
    pair = {f"{name}.lora_A.weight": torch.ones(2, 128), f"{name}.lora_B.weight": torch.ones(256, 2)}
    torch.save({"generator_lora": pair}, folder / "lora.pt")
    hub = Shelf(folder)
    list(pull(replace(PRESET, sources=(LORA,)), [LORA], tmp_path / "ours", hub))
    assert [path for _, path, _ in hub.asked] == ["lora.pt", "base.pt"]
    path = read_header(tmp_path / "ours", LORA.part).files[f"{name}.weight"]
    with safe_open(path, framework="pt") as file:
        found = file.get_tensor(f"{name}.weight")
    assert torch.equal(found, (weights[f"{name}.weight"].float() + 2).bfloat16())


def test_a_file_that_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot fetch model_bf16\.pt of Efficient-Large-Model/LongLive-2\.0-5B"):
        list(pull(PRESET, chosen_sources(PRESET, 4), tmp_path, Shelf(tmp_path)))


@pytest.mark.parametrize(("steps", "extras", "words"), [(3, (), "3 steps"), (4, ("lightvae9",), "no 'lightvae9'")])
def test_what_a_preset_does_not_have_is_refused(steps: int, extras: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen_sources(PRESET, steps, extras)


def test_list_prints_every_model_its_licences_and_what_is_here(runner: CliRunner, pulled: Path) -> None:
    result = runner.invoke(app, ["models", "list", "--home", str(pulled)])
    assert result.exit_code == 0
    for known in PRESETS:
        assert known.name in result.output
    assert "NVIDIA Open Model License: transformer-4step, transformer-2step" in result.output
    assert "here: transformer-4step, text, vae, tokenizer\n" in result.output
    assert "here: nothing; lacks transformer-4step, text, vae, tokenizer" in result.output


def test_verify_counts_the_tensors_of_every_part(runner: CliRunner, pulled: Path) -> None:
    result = runner.invoke(app, ["models", "verify", PRESET.name, "--deep", "--home", str(pulled)])
    assert result.exit_code == 0, result.output
    assert f"transformer-4step  {len(transformer_weights())} tensors" in result.output


def rewrite(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    """One bit of the last tensor's bytes turned over."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "words"), [(lambda content: content[:-64], "lies past the end"), (flipped, "its checksum differs")]
)
def test_verify_names_the_tensor_that_is_cut_off_or_damaged(
    change: Any, words: str, runner: CliRunner, pulled: Path
) -> None:
    path = pulled / PRESET.name / "transformer-4step-1-of-1.safetensors"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    header.pop("__metadata__")
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    rewrite(path, change)
    result = runner.invoke(app, ["models", "verify", PRESET.name, "--deep", "--home", str(pulled)])
    assert result.exit_code == 1
    assert f"tensor '{last}'" in result.output and words in result.output


def test_verify_says_what_is_lacking(runner: CliRunner, pulled: Path) -> None:
    (pulled / PRESET.name / "vae-1-of-1.safetensors").unlink()
    result = runner.invoke(app, ["models", "verify", PRESET.name, "--home", str(pulled)])
    assert result.exit_code == 1
    assert "lacks vae; `everscene models pull longlive2-5b` fetches what is missing" in result.output


def test_convert_writes_a_part_of_ones_own_file(runner: CliRunner, published: Path, tmp_path: Path) -> None:
    command = ["models", "convert", PRESET.name, str(published / "model_te.pt"), "--part", "transformer-2step"]
    result = runner.invoke(app, [*command, "--home", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert read_header(tmp_path / PRESET.name, "transformer-2step").shapes["head.head.bias"] == (192,)


@pytest.mark.parametrize("part", ["transformer", "sound"])
def test_convert_refuses_a_part_that_is_none_before_it_reads_the_file(
    part: str, runner: CliRunner, tmp_path: Path
) -> None:
    command = ["models", "convert", PRESET.name, str(tmp_path / "none.pt"), "--part", part, "--home", str(tmp_path)]
    result = runner.invoke(app, command)
    assert result.exit_code == 1
    assert f"no such part: '{part}'; there is: transformer-Nstep, tokenizer, text, vae" in result.output


def test_convert_says_when_a_part_cannot_be_written(runner: CliRunner, published: Path, tmp_path: Path) -> None:
    (tmp_path / PRESET.name).write_text("no folder")
    command = ["models", "convert", PRESET.name, str(published / "model_te.pt"), "--part", "transformer-2step"]
    result = runner.invoke(app, [*command, "--home", str(tmp_path)])
    assert result.exit_code == 1 and "transformer-2step cannot be written to" in result.output


def test_pull_says_when_its_folder_cannot_be_made(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, published: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(pulling, "HuggingFace", lambda: Shelf(published))
    (tmp_path / PRESET.name).write_text("no folder")
    result = runner.invoke(app, ["models", "pull", PRESET.name, "--yes", "--home", str(tmp_path)])
    assert result.exit_code == 1 and result.output.splitlines()[-1].startswith("everscene: ")


@pytest.mark.parametrize(
    "command", [["pull", "--yes"], ["verify"], ["convert", "x.pt", "--part", "tiny"], ["encode", "--scene", "x.yaml"]]
)
def test_what_is_not_installed_is_named(command: list[str], runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PACKAGES", ("torch", "everscene_nowhere"))
    result = runner.invoke(app, ["models", command[0], PRESET.name, *command[1:]])
    assert result.exit_code == 1
    assert 'the large models need everscene_nowhere: pip install "everscene[large]"' in result.output


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any, repo: str) -> None:
        raise HfHubHTTPError.__bases__[0]("connection refused")  # as the HTTP library of the hub would

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refused)
    with pytest.raises(CheckpointError, match=r"cannot fetch model_te\.pt of someone/weights: connection refused"):
        pulling.HuggingFace().fetch("someone/weights", "model_te.pt", None)


def test_pull_stops_when_the_licences_are_not_accepted(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, published: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(pulling, "HuggingFace", lambda: Shelf(published))
    command = ["models", "pull", PRESET.name, "--home", str(tmp_path)]
    refused = runner.invoke(app, command, input="n\n")
    assert refused.exit_code == 1 and not list(tmp_path.iterdir())
    accepted = runner.invoke(app, command, input="y\n")
    assert accepted.exit_code == 0, accepted.output
    assert "vae is there, of commit 921dbaf3" in accepted.output


def test_a_model_of_another_name_is_refused(runner: CliRunner) -> None:
    result = runner.invoke(app, ["models", "verify", "sora"])
    assert result.exit_code == 1
    assert "no such model: 'sora'; there is: pocket, longlive2-5b, longlive-1.3b" in result.output


def test_the_model_in_the_package_needs_nothing(runner: CliRunner) -> None:
    result = runner.invoke(app, ["models", "pull", "pocket"])
    assert result.exit_code == 0 and "comes with the package" in result.output


def test_encode_keeps_every_prompt_of_a_scene(runner: CliRunner, tmp_path: Path) -> None:
    write_preset(tmp_path / PRESET.name)
    (tmp_path / "scene.yaml").write_text(SCENE)
    command = ["models", "encode", PRESET.name, "--scene", str(tmp_path / "scene.yaml"), "--device", "cpu"]
    first = runner.invoke(app, [*command, "--home", str(tmp_path)])
    assert first.exit_code == 0, first.output
    assert "2 prompts; 4 embeddings are new" in first.output
    again = runner.invoke(app, [*command, "--home", str(tmp_path)])
    assert "2 prompts; 0 embeddings are new" in again.output


def test_encode_says_when_an_embedding_could_not_be_kept(runner: CliRunner, tmp_path: Path) -> None:
    write_preset(tmp_path / PRESET.name)
    (tmp_path / PRESET.name / "embeddings").write_text("no folder")
    (tmp_path / "scene.yaml").write_text(SCENE)
    command = ["models", "encode", PRESET.name, "--scene", str(tmp_path / "scene.yaml"), "--device", "cpu"]
    result = runner.invoke(app, [*command, "--home", str(tmp_path)])
    assert result.exit_code == 1 and "4 of 4 embeddings are not kept in" in result.output


def test_encode_refuses_a_device_that_is_none(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "scene.yaml").write_text(SCENE)
    command = ["models", "encode", PRESET.name, "--scene", str(tmp_path / "scene.yaml"), "--device", "gpu"]
    result = runner.invoke(app, command)
    assert result.exit_code == 1 and "there is no device 'gpu'" in result.output
