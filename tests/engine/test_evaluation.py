"""The evaluation of the pocket model: that clips side by side are live streams, and that figures are what was read."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.checkpoint import low_rank_for
from everscene_engine.config import POCKET_STREAM, StreamConfig, TransformerConfig
from everscene_engine.decoder import PocketDecoder
from everscene_engine.pocket import WEIGHTS, PocketModel
from everscene_engine.stored_linear import format_of
from everscene_engine.stream import LatentStream
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.training.world.captions import VOCABULARY, parse_attributes
from everscene_engine.training.world.names import HELD_OUT_SUBJECTS, MOMENTS, Attributes
from everscene_engine.transformer import WanTransformer
from tests.judges import plays as ask
from tests.judges.conditions import conditions
from tests.judges.distance import chunks_from_noise, past_of, perceptual_distance, psnr
from tests.judges.evaluate import Examiner, Size, add_options, model_of
from tests.judges.figures import Tally, over_time, table
from tests.judges.formats import DequantizedCache, in_precision
from tests.judges.networks import AttributeReader
from tests.judges.plays import CHUNKS_BEFORE, Play
from tests.judges.questions import ask_moments, ask_series, ask_steady, ask_switches
from tests.judges.reader import Judges, Reading
from tests.judges.sources import Generated, Rendered


@pytest.fixture
def model() -> PocketModel:
    """A pocket model of random weights and few layers, of the real sizes elsewhere."""
    torch.manual_seed(0)
    size = TransformerConfig(dim=32, ffn_dim=64, layers=2, heads=2, channels=24, text_dim=192, freq_dim=16)
    stream = StreamConfig(
        latent_height=18, latent_width=32, chunk_frames=2, window_chunks=2, sink_reach=8, steps=1, fps=16.0
    )
    text = PocketTextEncoder(PocketTextConfig(VOCABULARY)).eval()
    return PocketModel(WanTransformer(size).eval(), text, Autoencoder().eval(), stream)


def two_worlds() -> list[Play]:
    first, second = Attributes(), Attributes("desert", "night", "clear", "normal", "robot", "white")
    return [Play(0, ((0, first), (4, replace(first, time="dusk")))), Play(0, ((0, second), (4, second)))]


def show(name: str, frames: Tensor) -> None:
    """Look at nothing."""


# Sources


def test_frames_looked_at_now_and_then_are_those_of_a_whole_stream(model: PocketModel) -> None:
    for block in model.autoencoder.modules():  # a fresh block is the identity, and would hide what memory does
        if isinstance(block, torch.nn.Conv2d):
            torch.nn.init.normal_(block.weight, std=0.05)
    source = Generated(model, two_worlds())
    text = model.text.encode(ask.prompts(two_worlds(), 0))
    stream = LatentStream(model.transformer, model.stream, 0, clips=2)
    stream.steer(model.transformer.condition(text))
    decoder = PocketDecoder(model.autoencoder)
    for number in range(12):
        if number == 4:
            stream.steer(model.transformer.condition(model.text.encode(ask.prompts(two_worlds(), 4))))
        made = stream.generate()
        assert made is not None
        whole = decoder.feed(made.latents) * 0.5 + 0.5
        source.advance()
        if number in (0, 1, 5, 10, 11):
            torch.testing.assert_close(source.frames(), whole.clamp(0, 1), rtol=0, atol=1e-5)  # of other batches


def test_without_a_sink_the_first_chunk_leaves_the_cache(model: PocketModel) -> None:
    for sink in (True, False):
        source = Generated(model, two_worlds(), sink=sink)
        for _ in range(6):
            source.advance()
        residents = source._stream._cache.table.residents
        assert (0 in {resident.chunk for resident in residents}) == sink
        assert len(residents) == 4


def test_renders_show_what_is_asked_for_before_and_after_a_change() -> None:
    source = Rendered(two_worlds(), 6, 8, torch.device("cpu"))
    seen = {}
    for number in range(6):
        source.advance()
        if number in (3, 5):
            seen[number] = source.frames()
    assert seen[3].shape == (2, 8, 3, 144, 256)
    darker = seen[3].mean((1, 2, 3, 4)) - seen[5].mean((1, 2, 3, 4))
    assert darker[0] > 0.05 > abs(float(darker[1]))


# Formats


def test_a_cache_through_nvfp4_gives_attention_what_the_nvfp4_cache_does(model: PocketModel) -> None:
    play = two_worlds()[:1]
    text = model.transformer.condition(model.text.encode(ask.prompts(play, 0)))
    other = model.transformer.condition(model.text.encode(ask.prompts(play, 4)))
    real = LatentStream(model.transformer, model.stream, 0, kv="nvfp4")
    ours = LatentStream(model.transformer, model.stream, 0)
    ours._cache = DequantizedCache.like(ours._cache)
    for stream in (real, ours):
        stream.steer(text)
    for number in range(9):  # the sink is presented later than it was made from the sixth chunk on
        if number == 6:
            for stream in (real, ours):
                stream.steer(other, "recache")
        a, b = real.generate(), ours.generate()
        assert a is not None and b is not None
        torch.testing.assert_close(b.latents, a.latents, rtol=0, atol=1e-5)


def test_a_model_is_put_into_a_precision(model: PocketModel) -> None:
    assert format_of(in_precision(model, "bf16").transformer) is None
    assert format_of(in_precision(model, "nvfp4").transformer) == "nvfp4"


def test_the_same_model_makes_the_same_chunk_from_the_same_noise(model: PocketModel) -> None:
    plays = two_worlds()
    past = past_of(model, plays, 1)
    for before in (None, past):
        first = chunks_from_noise(model, plays, 1, "bf16", before)
        torch.testing.assert_close(chunks_from_noise(model, plays, 1, "bf16", before), first, rtol=0, atol=0)
        assert (chunks_from_noise(model, plays, 1, "nvfp4", past) - first).abs().max() > 0


def test_distances_are_nothing_for_the_same_and_grow_with_noise() -> None:
    trunk = AttributeReader().eval().trunk
    frames = torch.rand(2, 4, 3, 36, 64, generator=torch.Generator().manual_seed(0))
    worse = (frames + 0.1).clamp(0, 1)
    assert psnr(frames, frames).tolist() == [100.0, 100.0]
    assert 19 < psnr(frames, worse).min() < 24
    assert perceptual_distance(trunk, frames, frames).abs().max() == 0
    assert perceptual_distance(trunk, frames, worse).min() > 0


# Figures


def test_a_figure_is_the_mean_of_seeds_with_the_standard_error_of_it() -> None:
    tally = Tally()
    for seed, values in ((0, (1, 1)), (1, (1, 0)), (2, (0, 0))):
        tally.add_all("right", [seed] * 2, values)
    figure = tally.figures()["right"]
    assert figure.mean == 0.5
    assert figure.seeds == (1.0, 0.5, 0.0)
    assert figure.error == pytest.approx(0.5 / 3**0.5)


def test_one_seed_has_no_error() -> None:
    tally = Tally()
    tally.add("frames until it is read", 4, 6)
    assert tally.figures()["frames until it is read"].error is None
    text = table({"recache": tally.figures(), "text": {}}, ["frames until it is read"])
    assert text.splitlines()[-1] == "| frames until it is read | 6.000 |  |"


def test_mean_and_least_over_time_are_of_all_readings() -> None:
    tallies = {}
    for second, values in (("2 s", (1, 0)), ("30 s", (0, 0))):
        tallies[second] = Tally()
        tallies[second].add_all("same subject", (0, 1), values)
    figures = over_time({second: tally.figures() for second, tally in tallies.items()})
    assert figures["mean"]["same subject"].seeds == (0.5, 0.0)
    assert figures["least"]["same subject"].mean == 0.0


def test_a_report_says_under_what_conditions_it_came_about(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--out", str(tmp_path), "--device", "cpu", "--wording", "varied", "--commit", "abc"])
    head = conditions(options, 4, None)
    (tmp_path / "text-1-of-1.safetensors").write_bytes(b"other")
    options.weights = tmp_path
    other = conditions(options, 4, 1)
    assert (head["commit"], head["wording"], head["recache_depth"]) == ("abc", "varied", "all")
    assert head["low_rank"] == low_rank_for(WEIGHTS, 4) and other["low_rank"] is None
    assert head["weights_sha256"] != other["weights_sha256"]
    assert head["processor"] and head["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(("given", "depth"), [([], POCKET_STREAM.recache_depth), (["--recache-depth", "0"], None)])
def test_the_model_is_recached_as_it_is_served_unless_said_otherwise(given: list[str], depth: int | None) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--out", "x", "--device", "cpu", *given])
    assert model_of(options).stream.recache_depth == depth


def test_shares_stand_in_per_cent() -> None:
    tally = Tally()
    for seed, value in ((0, 1.0), (1, 0.5)):
        tally.add("same subject", seed, value)
    assert "| 75.0 ± 25.0 % |" in table({"model": tally.figures()}, ["same subject"])


# Questions, of a source whose frames say what the judges are to read


class Scripted:
    """Frames that are the number of their chunk, and a judge that reads from a list."""

    def __init__(self, says: Sequence[Sequence[Reading]]) -> None:
        self._says, self._chunk = says, -1

    def advance(self) -> None:
        self._chunk += 1

    def frames(self) -> Tensor:
        return torch.full((len(self._says[0]), 8, 3, 2, 2), self._chunk / 1000)

    def read(self, windows: Tensor) -> list[Reading]:
        return list(self._says[round(float(windows[0, -1, 0, 0, 0]) * 1000)])


def reading(attributes: Attributes, subject: bool = True, moments: tuple[str, ...] = ()) -> Reading:
    kind, colour = (attributes.subject, attributes.colour) if subject else (None, None)
    return Reading(attributes.setting, attributes.time, attributes.weather, moments, kind, colour)


def judges_of(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> Judges:
    monkeypatch.setattr(Judges, "read", lambda self, windows: script.read(windows))
    return Judges(AttributeReader(), None, None)  # type: ignore[arg-type]


def test_a_switch_that_takes_two_chunks_is_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = ask.switches(0, 1)
    (_, before), (_, after) = plays[0].changes
    script = Scripted([[reading(before if n < CHUNKS_BEFORE + 1 else after)] for n in range(40)])
    figures = ask_switches(script, judges_of(script, monkeypatch), plays, (0.5, 1.0, 10.0), show)
    assert figures["old attribute read before the switch"].mean == 1
    assert figures["chunks until the changed attribute is read"].mean == 2
    assert figures["frames until the changed attribute is read"].mean == 10
    assert figures["seen: new attribute of any kind 0.5 s"].mean == 0
    assert figures["seen: new attribute of any kind 1 s"].mean == 1
    assert figures["seen: same subject 10 s"].mean == 1
    assert figures["largest change from frame to frame"].mean == pytest.approx(0.001, rel=1e-3)


def test_a_moment_counts_while_it_lasts_and_before_it_is_a_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = ask.moments(0, 4)
    calm = plays[0].at(0)
    says = [[reading(calm)] * 4 for _ in range(20)]
    says[CHUNKS_BEFORE - 1][3] = reading(calm, moments=("birds",))
    says[CHUNKS_BEFORE + 2] = [reading(calm, moments=("lightning",))] * 4
    says[CHUNKS_BEFORE + 4] = [reading(calm, moments=("meteor",))] * 4  # too late
    script = Scripted(says)
    figures = ask_moments(script, judges_of(script, monkeypatch), plays, show)
    assert [figures[f"{name} seen while it lasts"].mean for name in MOMENTS] == [1, 0, 0, 0]
    assert figures["another moment seen meanwhile"].mean == 0.75
    assert figures["a moment seen where there is none"].mean == 0.25


def test_a_lost_subject_counts_in_a_series_and_in_a_steady_play(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = ask.series(0, 1, 2, named=False)
    script = Scripted([[reading(plays[0].at(n), subject=n < 24)] for n in range(36)])
    figures = ask_series(script, judges_of(script, monkeypatch), plays, 2, show)
    assert [figures[f"subject not named again: same after {n} changes"].mean for n in range(3)] == [1, 1, 0]
    assert figures["subject not named again: weather read"].mean == 1
    steady = ask.steady(0, 1)
    script = Scripted([[reading(steady[0].at(n), subject=n < 24)] for n in range(70)])
    by_second = ask_steady(script, judges_of(script, monkeypatch), steady, 30.0, show)
    assert {second: figures["subject there"].mean for second, figures in by_second.items()} == {"2 s": 1, "30 s": 0}


def test_prompts_of_a_series_name_the_subject_once_or_always() -> None:
    for named in (True, False):
        play = ask.series(3, 1, 2, named)[0]
        assert play.at(0).subject in play.prompt(0)
        assert (play.at(20).subject in play.prompt(20)) == named


def test_held_out_subjects_are_asked_for_equally_often() -> None:
    for make in (ask.held_out_switches, ask.held_out_subject_switches):
        pairs = Counter((play.at(0).subject, play.at(0).colour) for play in make(0, 18))
        assert pairs == dict.fromkeys(HELD_OUT_SUBJECTS, 6)


def test_held_out_subjects_are_asked_for_in_seen_scenes_too() -> None:
    for play in ask.held_out_subject_switches(2, 18):
        assert play.group == ask.HELD_OUT_SUBJECT
        assert not any(attributes.scene_held_out for _, attributes in play.changes)


def test_each_held_out_pair_has_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = ask.held_out_subject_switches(0, 3)
    script = Scripted([[reading(p.at(n), subject=k > 0) for k, p in enumerate(plays)] for n in range(40)])
    figures = ask_switches(script, judges_of(script, monkeypatch), plays, (1.0,), show)
    rows = {name: figure.mean for name, figure in figures.items() if "same subject, " in name}
    group = "held-out subject, seen scene: same subject"
    assert rows == {f"{group}, blue fox 1 s": 0, f"{group}, yellow robot 1 s": 1, f"{group}, green balloon 1 s": 1}


def asked_by(question: str, varied: bool) -> list[Play]:
    """The plays that an examiner puts to its source."""
    asked: list[Play] = []

    def source(plays: Sequence[Play], *_: object) -> Scripted:
        asked.extend(plays)
        raise LookupError

    size = Size((0, 1), 4, 3, 4, 4, 2, 2, 30.0, (1.0,), varied)
    with pytest.raises(LookupError):
        getattr(Examiner(None, size, source, lambda way: show), question)("recache")  # type: ignore[arg-type]
    return asked


@pytest.mark.parametrize("varied", [False, True])
def test_a_series_that_does_not_name_the_subject_again_is_else_the_same(varied: bool) -> None:
    asked = asked_by("series", varied)
    named = [play for play in asked if play.named]
    assert [replace(play, named=True) for play in asked if not play.named] == named
    assert [play.seed for play in named] == [0, 0, 1, 1]


def test_varied_words_say_the_same_whole_subject_included() -> None:
    plays = ask.varied(ask.switches(0) + ask.held_out_switches(0, 18))
    asked = [(play.prompt(n), play.at(n)) for play in plays for n in (0, CHUNKS_BEFORE)]
    for prompt, wanted in asked:
        read = parse_attributes(prompt)
        assert all(getattr(wanted, name) == value for name, value in read.items())
        assert {"setting", "time", "subject", "colour"} <= set(read)
    assert {parse_attributes(prompt).get("intensity") for prompt, _ in asked} == {None, "light", "heavy"}
    assert plays[0].prompt(0) == plays[0].prompt(CHUNKS_BEFORE - 1)


def test_every_ordered_pair_is_asked_for() -> None:
    pairs = {(p.attribute, p.at(0), p.at(CHUNKS_BEFORE)) for p in ask.switches(1)}
    named = {(field, getattr(a, field), getattr(b, field)) for field, a, b in pairs}
    assert len(named) == 20 + 12 + 20
    assert [p.changes for p in ask.switches(1)] == [p.changes for p in ask.switches(1)]
