"""The shipped pocket model: it loads, it draws what it is told, and it turns when it is told. On the CPU."""

import numpy as np
import pytest
import torch

from everscene_engine.errors import ConfigError, PromptRejected
from everscene_engine.live import LiveEngine
from everscene_engine.load import load
from everscene_engine.pocket import WEIGHTS, PocketModel, best_dtype, load_pocket
from everscene_engine.port import FrameBlock
from everscene_engine.training.world.captions import SYNONYMS, VOCABULARY, tokenize
from everscene_engine.training.world.names import SUBJECT_COLOURS, Attributes
from tests.judges.plays import Play
from tests.judges.reader import WINDOW
from tests.judges.reader import load as load_judges
from tests.judges.sources import Generated

FIRST = [
    Attributes(setting="harbour", time="day", weather="clear", subject="fox", colour="red"),
    Attributes(setting="city", time="dusk", weather="rain", subject="balloon", colour="green"),
    Attributes(setting="desert", time="day", weather="snow", subject="robot", colour="blue"),
]
THEN = [
    Attributes(setting="harbour", time="night", weather="clear", subject="fox", colour="red"),
    Attributes(setting="city", time="dusk", weather="fog", subject="balloon", colour="green"),
    Attributes(setting="desert", time="dawn", weather="snow", subject="robot", colour="blue"),
]


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket(torch.device("cpu"), best_dtype(torch.device("cpu")))


@pytest.fixture
def engine() -> LiveEngine:
    return load("pocket", seed=3)


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 30_000_000


def test_the_model_knows_the_documented_vocabulary(model: PocketModel) -> None:
    later = {
        word
        for phrase, (attribute, value) in SYNONYMS.items()
        if attribute == "colour" and value not in SUBJECT_COLOURS
        for word in tokenize(phrase)
    }
    assert set(VOCABULARY) - later <= set(model.text.config.vocabulary) <= set(VOCABULARY)


def test_pictures_show_the_prompt_and_turn_within_a_second_of_another(model: PocketModel) -> None:
    judges = load_judges()
    pairs = zip(FIRST, THEN, strict=True)
    source = Generated(model, [Play(seed=5, changes=((0, first), (4, then))) for first, then in pairs])
    for wanted, chunks in ((FIRST, 4), (THEN, 2)):
        for _ in range(chunks):
            source.advance()
        for reading, asked in zip(judges.read(source.frames()[:, -WINDOW:]), wanted, strict=True):
            assert (reading.setting, reading.time, reading.weather) == (asked.setting, asked.time, asked.weather)


def test_the_live_engine_gives_rgba_frames_in_order(engine: LiveEngine) -> None:
    engine.steer("a red fox in the harbour by day", "recache")
    blocks = []
    for _ in range(2):
        chunk = engine.generate()
        assert chunk is not None
        parts: list[FrameBlock] = []
        blocks.append(engine.decode(chunk, parts.append))
        assert [part.latent_frame_of for part in parts] == [
            (frame,) * 4 for frame in sorted({*blocks[-1].latent_frame_of})
        ]
        assert (np.concatenate([part.pixels for part in parts]) == blocks[-1].pixels).all()
    info = engine.info
    assert blocks[0].pixels.shape == (info.frames_per_chunk, info.height, info.width, 4)
    assert blocks[0].pixels.dtype.name == "uint8" and (blocks[0].pixels[..., 3] == 255).all()
    assert blocks[0].latent_frame_of + blocks[1].latent_frame_of == tuple(f for f in range(4) for _ in range(4))


def test_the_same_seed_and_prompts_give_the_same_pixels() -> None:
    pixels = []
    for _ in range(2):
        engine = load("pocket", seed=8)
        engine.steer("a green fox in the forest at night", "recache")
        first = engine.generate()
        engine.steer("a green fox in the forest at night, storm", "recache")
        second = engine.generate()
        assert first is not None and second is not None
        pixels.append([engine.decode(chunk).pixels for chunk in (first, second)])
    assert (pixels[0][0] == pixels[1][0]).all() and (pixels[0][1] == pixels[1][1]).all()


def test_rollback_takes_the_decoder_back_too(engine: LiveEngine) -> None:
    engine.steer("a red fox in the harbour by day", "recache")
    chunks = [engine.generate() for _ in range(3)]
    blocks = [engine.decode(chunk) for chunk in chunks if chunk is not None]
    engine.rollback(4)
    again = engine.generate()
    assert again is not None and again.first_latent_frame == 4
    pixels = engine.decode(again).pixels.astype(int)
    assert abs(pixels - blocks[2].pixels).mean() < 2  # bf16 keys of a rebuilt window round otherwise


def test_rollback_inside_a_chunk_goes_on_from_its_kept_frame(engine: LiveEngine) -> None:
    engine.steer("a red fox in the harbour by day", "recache")
    for _ in range(3):
        chunk = engine.generate()
        assert chunk is not None
        engine.decode(chunk)
    engine.rollback(5)
    again = engine.generate()
    assert again is not None
    assert engine.decode(again).latent_frame_of == (5, 5, 5, 5, 6, 6, 6, 6)


def test_an_unknown_word_is_refused_and_the_prompt_stays(engine: LiveEngine) -> None:
    engine.steer("a red fox in the harbour", "recache")
    with pytest.raises(PromptRejected, match="no such word: 'dragonn'"):
        engine.steer("a red dragonn", "recache")
    chunk = engine.generate()
    assert chunk is not None and chunk.prompt == "a red fox in the harbour"


def test_an_unknown_model_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no such model: 'pockett'"):
        load("pockett")
