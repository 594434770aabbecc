"""A large preset end to end on small random weights in the real layout: folder to frames, with every decoder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everscene_engine import live
from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.live import LiveEngine
from everscene_engine.load import load
from everscene_engine.models.presets import PRESETS, Preset, preset
from everscene_engine.picture import fitted, to_png
from everscene_engine.port import FrameBlock
from everscene_engine.start_image import as_tensor
from tests.engine.published import write_preset

DECODERS = ("vae", "lightvae2", "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("longlive2-5b")


@pytest.fixture(scope="module")
def small(folder: Path) -> Preset:
    return write_preset(folder)


@pytest.fixture
def loaded(small: Preset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`load` with the preset made small, in float32 so that equal means equal."""
    monkeypatch.setattr("everscene_engine.load.preset", lambda name: small if name == small.name else preset(name))
    monkeypatch.setattr("everscene_engine.load.best_dtype", lambda device: torch.float32)
    yield lambda **options: load(small.name, **{"device": "cpu", "weights": folder, **options})


def chunk(engine: LiveEngine) -> FrameBlock:
    made = engine.generate()
    assert made is not None
    return engine.decode(made)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_prompt_becomes_frames(decoder: str, loaded: Any) -> None:
    engine = loaded(decoder=decoder)
    engine.steer("a red fox", "recache")
    first, second = chunk(engine), chunk(engine)
    assert first.pixels.shape == (5, 64, 64, 4) and second.pixels.shape == (8, 64, 64, 4)
    assert first.latent_frame_of == (0, 1, 1, 1, 1) and second.latent_frame_of == (2, 2, 2, 2, 3, 3, 3, 3)
    assert first.pixels[..., :3].std() > 3
    assert engine.info.frames_per_latent_frame == 4 and engine.info.steps == 4


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("frame", [1, 2, 3, 4])
def test_after_a_rollback_every_decoder_goes_on_as_if_nothing_had_been(decoder: str, frame: int, loaded: Any) -> None:
    engine, other = loaded(decoder=decoder), loaded(decoder=decoder)
    for one, chunks in ((engine, 4), (other, (frame + 1) // 2)):
        one.steer("a red fox", "recache")
        blocks = [chunk(one) for _ in range(chunks)]
        assert blocks
        one.rollback(frame)
        one.steer("a storm", "recache")
    assert np.array_equal(chunk(engine).pixels, chunk(other).pixels)


def test_a_cut_puts_its_sentence_before_the_first_chunk_of_the_shot_alone(loaded: Any) -> None:
    engine = loaded(decoder="tiny")
    engine.steer("a red fox", "recache")
    chunk(engine)
    engine.steer("a storm", "cut")
    chunk(engine), chunk(engine)
    assert engine._stream._past.shot == 1
    assert [resident.chunk for resident in engine._stream._cache.table.pinned] == [0, 1]
    assert list(engine._conditionings) == ["a red fox", "a storm", "The scene transitions. a storm"]
    assert engine._stream._text is engine._conditionings["a storm"]


def test_a_snapshot_of_a_large_model_goes_on_from_the_same_picture(loaded: Any) -> None:
    engine, fresh = loaded(), loaded()
    engine.steer("a red fox", "recache")
    for place in range(4):
        if place == 2:
            engine.steer("a storm", "cut")
        chunk(engine)
    state = engine.snapshot(7)
    assert [shot for _, _, shot in state.facts["chunks"]] == [0, 1, 1]
    engine.rollback(7)
    fresh.restore(state)
    for one in (engine, fresh):
        one.steer("a storm", "recache")
    far = chunk(engine).pixels.astype(int) - chunk(fresh).pixels
    assert np.abs(far).max() <= 3  # the shot sink was made anew, without the window that it saw the first time


def test_the_two_step_weights_are_one_number_away(loaded: Any) -> None:
    four, two = loaded(decoder="tiny"), loaded(decoder="tiny", steps=2)
    assert two.info.steps == 2
    same = [
        torch.equal(a, b) for a, b in zip(four._transformer.parameters(), two._transformer.parameters(), strict=True)
    ]
    assert not all(same)
    with pytest.raises(ConfigError, match="no weights for 3 steps; there are some for: 4, 2"):
        loaded(steps=3)


def test_the_text_encoder_is_not_loaded_for_a_prompt_that_is_on_disk(loaded: Any) -> None:
    loaded(decoder="tiny").steer("a harbour", "recache")
    engine = loaded(decoder="tiny", unload_text=True)
    engine.steer("a harbour", "recache")
    assert not engine._text.loaded  # nothing came after the load, and the prompt was there
    engine.steer("a red harbour", "recache")
    assert not engine._text.loaded  # it was loaded and let go


@pytest.mark.parametrize(
    ("missing", "options", "command"),
    [
        ("transformer-4step", {}, "`everscene models pull longlive2-5b` fetches it"),
        ("transformer-2step", {"steps": 2}, "`everscene models pull longlive2-5b --steps 2` fetches it"),
        ("text", {}, "`everscene models pull longlive2-5b` fetches it"),
        ("vae", {}, "`everscene models pull longlive2-5b` fetches it"),
        ("lightvae", {"decoder": "lightvae"}, "`everscene models pull longlive2-5b --extra lightvae` fetches it"),
        ("tiny", {"decoder": "tiny"}, "`everscene models convert longlive2-5b FILE --part tiny` makes it"),
    ],
)
def test_a_missing_part_says_which_command_gets_it(
    missing: str, options: dict[str, Any], command: str, loaded: Any, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        if not path.name.startswith(f"{missing}-"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match=rf"no {missing} weights in .*; {command}"):
        loaded(weights=tmp_path, **options)


def test_a_decoder_of_another_name_is_refused(loaded: Any) -> None:
    with pytest.raises(ConfigError, match="no such decoder: 'best'"):
        loaded(decoder="best")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"decoder": "tiny"}, "pocket has one decoder; there is no 'tiny'"),
        ({"decoder_device": "cpu"}, "its decoder is on the device of the model, not on 'cpu'"),
        ({"text_device": "cuda"}, "its text encoder is on the CPU, not on 'cuda'"),
        ({"unload_text": True}, "its text encoder stays in memory; there is nothing to unload"),
    ],
)
def test_what_only_large_models_have_is_refused_for_the_pocket_model(option: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load("pocket", **option)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Wider than the stream: red left, green in the middle, blue right."""
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:80, 1] = pixels[:, 80:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "start.png")
    return tmp_path / "start.png"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_world_begins_with_the_start_image(decoder: str, loaded: Any, picture: Path) -> None:
    engine = loaded(decoder=decoder, start_image=picture)
    engine.steer("a red fox", "recache")
    made = engine.generate()
    latent = loaded()._decoder.encode_image(as_tensor(fitted(picture, 64, 64)))
    torch.testing.assert_close(made.latents[:, :1], latent, atol=1e-5, rtol=0)
    held = made.latents.clone()
    engine.rollback(0)
    engine.begin_with(fitted(picture.read_bytes(), 64, 64))
    assert torch.equal(engine.generate().latents, held)


def test_the_pocket_model_begins_with_a_start_image(picture: Path) -> None:
    plain, given = load("pocket", seed=1), load("pocket", seed=1, start_image=picture)
    for engine in (plain, given):
        engine.steer("a red fox in the harbour by day", "recache")
    target = np.asarray(Image.open(picture).crop((24, 0, 96, 40)).resize((256, 144)), dtype=np.float32)
    far, near = (np.abs(chunk(engine).pixels[0, ..., :3] - target).mean() for engine in (plain, given))
    assert near < 0.5 * far


def test_a_picture_is_cut_around_its_middle(picture: Path) -> None:
    pixels = as_tensor(fitted(picture, 32, 32))
    assert pixels.shape == (1, 3, 32, 32)
    green = torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(pixels[0, :, 16, 16], green)
    torch.testing.assert_close(pixels[0, :, 5, 27], green, atol=0.02, rtol=0)


def test_transparency_is_black_and_upright_is_up(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.save(tmp_path / "clear.png")
    assert (fitted(tmp_path / "clear.png", 8, 8) == 0).all()
    side = Image.new("RGB", (8, 8), "black")
    side.paste("white", (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a circle
    side.save(tmp_path / "turned.png", exif=exif)
    pixels = fitted(tmp_path / "turned.png", 8, 8)
    assert pixels[0, 0, 0] == 0 and pixels[7, 0, 0] == 255


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "start.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"start\.png cannot be read as a picture"):
        fitted(tmp_path / "start.png", 8, 8)
    with pytest.raises(ConfigError, match="the picture cannot be read"):
        fitted(b"", 8, 8)
    with pytest.raises(ConfigError, match=r"nowhere\.png cannot be read"):
        fitted(tmp_path / "nowhere.png", 8, 8)


def test_a_picture_that_was_written_down_comes_back_as_it_was(picture: Path) -> None:
    pixels = fitted(picture, 30, 20)
    assert np.array_equal(fitted(to_png(pixels), 30, 20), pixels)


def test_a_picture_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, picture: Path) -> None:
    monkeypatch.setattr("everscene_engine.picture.MAX_PIXELS", 100)
    with pytest.raises(ConfigError, match="is 120×40; the rule is at most 100 pixels"):
        fitted(picture, 8, 8)


def test_presets_have_the_published_sizes() -> None:
    sizes = {p.name: (p.stream.width, p.stream.height, p.stream.frame_tokens, p.stream.fps) for p in PRESETS}
    assert sizes["longlive2-5b"] == (1280, 704, 880, 24.0)
    assert sizes["longlive-1.3b"] == (832, 480, 1560, 16.0)


def test_a_large_decoder_state_is_kept_for_fewer_chunks(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = loaded()
    engine.steer("a red fox", "recache")
    blocks = [chunk(engine) for _ in range(3)]
    assert len(engine._decoded) == len(blocks)
    size = sum(tensor.nbytes for tensor in engine._decoded[-1].before.tensors)
    monkeypatch.setattr(live, "DECODER_STATES_BYTES", 3 * size + 100)
    for _ in range(3):
        chunk(engine)
    assert len(engine._decoded) == 3
    monkeypatch.setattr(live, "DECODER_STATES_BYTES", 0)
    chunk(engine)
    assert len(engine._decoded) == 2
    with pytest.raises(ConfigError):
        engine.rollback(3)


def test_stream_settings_of_the_presets_hold_their_own_rules() -> None:
    for known in PRESETS:
        assert replace(known.stream) == known.stream
        assert known.transformer_part(None) == f"transformer-{known.stream.steps}step"
