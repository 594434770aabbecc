"""The judges that read generated frames: what they are shown, what they say, and that they can learn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everscene_engine.training.world.names import MOMENTS, SETTINGS, TIMES, WEATHERS, Attributes
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import make_clip
from tests.judges.augment import augment, blur, shrink_and_grow
from tests.judges.moments import MomentWindows, render_moments, to_be_seen
from tests.judges.networks import AttributeReader, MomentReader, SubjectDetector, load_weights, save_weights
from tests.judges.reader import DETECTOR_FILE, MOMENTS_FILE, READER_FILE, WEIGHTS, Judges, load
from tests.judges.train import Training, detector_loss, moments_loss, reader_loss
from tests.judges.windows import Windows, render_windows, settled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untrained() -> Judges:
    torch.manual_seed(0)
    return Judges(AttributeReader(), SubjectDetector(), MomentReader()).to("cpu")


@pytest.mark.parametrize("judge", [AttributeReader(), SubjectDetector(), MomentReader()])
def test_a_judge_is_small(judge: torch.nn.Module, tmp_path: Path) -> None:
    assert sum(p.numel() for p in judge.parameters()) <= 600_000
    save_weights(judge, tmp_path / "judge.safetensors")
    assert (tmp_path / "judge.safetensors").stat().st_size <= 1_300_000


def test_saved_judges_say_the_same(tmp_path: Path) -> None:
    judges = untrained()
    save_weights(judges.reader, tmp_path / READER_FILE)
    save_weights(judges.detector, tmp_path / DETECTOR_FILE)
    save_weights(judges.moments, tmp_path / MOMENTS_FILE)
    load_weights(judges.reader, tmp_path / READER_FILE)  # rounded to bfloat16, as the file is
    load_weights(judges.detector, tmp_path / DETECTOR_FILE)
    load_weights(judges.moments, tmp_path / MOMENTS_FILE)
    windows = torch.rand(3, 4, 3, 36, 64, generator=generator())
    assert load(tmp_path).read(windows) == judges.read(windows)


def test_weights_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load(tmp_path)


def test_reading_takes_other_sizes_and_more_windows_than_fit_at_once() -> None:
    judges = untrained()
    windows = torch.rand(70, 4, 3, 18, 32, generator=generator())
    readings = judges.read(windows)
    assert len(readings) == 70
    assert judges.read(windows[69:])[0].setting == readings[69].setting
    assert all(r.setting in SETTINGS and r.time in TIMES and r.weather in WEATHERS for r in readings)
    assert all(set(r.moments) <= set(MOMENTS) for r in readings)


def test_subject_and_colour_are_named_together() -> None:
    readings = untrained().read(torch.rand(16, 4, 3, 36, 64, generator=generator()))
    for reading in readings:
        assert (reading.subject is None) == (reading.colour is None)


@pytest.mark.parametrize("shape", [(4, 3, 36, 64), (1, 3, 3, 36, 64), (1, 4, 4, 36, 64)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        untrained().read(torch.zeros(shape))


# Faults


def test_faults_keep_shape_and_range_and_differ_between_windows() -> None:
    one = torch.rand(1, 4, 3, 36, 64, generator=generator())
    worse = augment(one.expand(3, -1, -1, -1, -1), generator())
    assert worse.shape == (3, 4, 3, 36, 64)
    assert worse.min() >= 0 and worse.max() <= 1
    assert (worse[0] - worse[1]).abs().max() > 0.01


def test_blur_and_shrinking_keep_a_flat_picture_flat() -> None:
    flat = torch.full((2, 12, 36, 64), 0.3)
    torch.testing.assert_close(blur(flat), flat)
    torch.testing.assert_close(shrink_and_grow(flat, 3), flat)


def test_blur_softens() -> None:
    sharp = torch.rand(1, 3, 36, 64, generator=generator())
    assert blur(sharp).std() < 0.5 * sharp.std()


# What is true of a window


def test_a_window_in_the_middle_of_a_fade_is_left_out() -> None:
    clip = make_clip(7, [(1, {"weather": "storm"}), (2, {"time": "night"}), (3, {"setting": "city"})], chunks=5)
    for chunk, still in ((0, True), (1, False), (2, False), (3, False), (4, True)):
        assert settled(clip.tracks.frames(slice(8 * chunk, 8 * chunk + 4))).tolist() == [still], chunk


def painted_moment(age: float, moment: int) -> tuple[Tensor, Tensor]:
    """Four frames of a harbour by day with a moment that began so many seconds ago, and the same without it."""
    clip = make_clip(7, [], chunks=1)
    times, tracks = clip.times[:, :4], clip.tracks.frames(slice(0, 4))
    ages = tracks.moments.clone()
    ages[..., moment] = age + torch.arange(4) / 16
    with_it = render(clip.world, times, replace(tracks, moments=ages))
    return with_it, render(clip.world, times, tracks)


@pytest.mark.parametrize("moment", range(len(MOMENTS)), ids=MOMENTS)
def test_a_moment_is_seen_while_it_is_under_way(moment: int) -> None:
    assert to_be_seen(*painted_moment(0.75, moment)).tolist() == [1.0]


def test_a_moment_that_is_over_is_not_seen() -> None:
    assert to_be_seen(*painted_moment(5.0, MOMENTS.index("fireworks"))).tolist() == [0.0]


def test_a_faint_trace_of_a_moment_has_no_right_answer() -> None:
    without = torch.rand(1, 4, 3, 18, 32, generator=generator()) * 0.9
    assert to_be_seen(without + 0.05, without).isnan().tolist() == [True]


def test_half_of_the_moment_windows_are_without_one_and_else_the_same() -> None:
    windows = render_moments(3, generator(2), torch.device("cpu"))
    assert windows.frames.shape == (6, 4, 3, 144, 256)
    assert not windows.moments[3:].any()
    assert (windows.moments[:3].nan_to_num(1.0) > 0).sum() > 0
    same = (windows.frames[:3] - windows.frames[3:]).abs() < 1e-4
    assert same.float().mean() > 0.5


def test_rendered_windows_bear_the_attributes_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Attributes(setting="desert", time="dusk", weather="snow", subject="robot", colour="blue")
    clip = make_clip(3, [], chunks=6, first=asked)
    monkeypatch.setattr("tests.judges.windows.sample_clips", lambda *arguments, **named: clip)
    windows = render_windows(1, generator(1), torch.device("cpu"))
    assert windows.frames.shape[1:] == (4, 3, 144, 256)
    assert set(windows.setting.tolist()) == {SETTINGS.index("desert")}
    assert set(windows.time.tolist()) == {TIMES.index("dusk")}
    assert set(windows.weather.tolist()) == {WEATHERS.index("snow")}


# Learning


def painted(count: int) -> Windows:
    """Flat pictures whose colour tells everything: what a judge must learn at once."""
    index = torch.arange(count)
    setting, time, weather = index % 5, index % 4, index % 5
    kind = index % 4 - 1
    red, green, blue = setting / 4, time / 3, (kind + 1) / 3
    frames = torch.stack([red, green, blue], dim=1).view(count, 1, 3, 1, 1).expand(count, 4, 3, 24, 40)
    return Windows(frames, setting, time, weather, kind, setting)


def test_both_judges_learn() -> None:
    torch.manual_seed(0)
    windows = painted(10)
    reader = Training(AttributeReader(), reader_loss)
    detector = Training(SubjectDetector(), detector_loss)
    for training in (reader, detector):
        losses = [training.step(windows, 0.5).item() for _ in range(15)]
        assert losses[-1] < 0.5 * losses[0], losses


def test_windows_without_subject_teach_no_kind_and_no_colour() -> None:
    torch.manual_seed(0)
    detector = SubjectDetector()
    nobody = painted(8)
    nobody = replace(nobody, kind=torch.full_like(nobody.kind, -1))
    torch.autograd.backward(detector_loss(detector, nobody))
    gradient = dict(detector.named_parameters())["head.2.bias"].grad
    assert gradient is not None
    assert gradient[0] != 0
    assert not gradient[1:].any()


def test_the_judge_of_moments_learns() -> None:
    torch.manual_seed(0)
    frames = torch.zeros(8, 4, 3, 48, 64)
    frames[:4, :, :, 4:12, 8:16] = 1.0
    moments = torch.zeros(8, len(MOMENTS))
    moments[:4, 1] = 1.0
    training = Training(MomentReader(), moments_loss)
    losses = [training.step(MomentWindows(frames, moments), 0.5).item() for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0], losses


def test_a_moment_without_a_right_answer_teaches_nothing() -> None:
    torch.manual_seed(0)
    reader = MomentReader()
    windows = MomentWindows(torch.rand(2, 4, 3, 24, 32), torch.full((2, len(MOMENTS)), torch.nan))
    torch.autograd.backward(moments_loss(reader, windows))
    assert reader.head.bias.grad is not None
    assert not reader.head.bias.grad.any()


def test_the_judge_of_moments_looks_at_the_sky_alone() -> None:
    frames = torch.rand(1, 4, 3, 144, 256, generator=generator())
    other = frames.clone()
    other[..., 108:, :] = 0.0
    reader = MomentReader().eval()
    torch.testing.assert_close(reader(other), reader(frames), rtol=0, atol=0)


@pytest.mark.skipif(not (WEIGHTS / READER_FILE).exists(), reason="the judges' weights are not in this checkout")
def test_trained_judges_read_fresh_renders() -> None:
    """Three clips by hand; the trained judges are right far more often than this asks."""
    judges = load()
    for number, asked in enumerate(
        (
            Attributes(setting="harbour", time="night", weather="storm", intensity="heavy", subject="balloon"),
            Attributes(setting="desert", time="day", weather="clear", subject="robot", colour="blue"),
            Attributes(setting="mountains", time="dusk", weather="snow", subject="fox", colour="yellow"),
        )
    ):
        clip = make_clip(40 + number, [], chunks=2, first=asked)
        part = slice(0, 4)
        reading = judges.read(render(clip.world, clip.times[:, part], clip.tracks.frames(part)))[0]
        assert (reading.setting, reading.time, reading.weather) == (asked.setting, asked.time, asked.weather)
        assert (reading.subject, reading.colour) == (asked.subject, asked.colour)


@pytest.mark.skipif(not (WEIGHTS / MOMENTS_FILE).exists(), reason="the judges' weights are not in this checkout")
@pytest.mark.parametrize(("moment", "age"), [("lightning", 0.8), ("fireworks", 1.1), ("meteor", 0.8), ("birds", 0.8)])
def test_the_trained_judge_reads_each_moment_and_none_without_it(moment: str, age: float) -> None:
    with_it, without = load().read(torch.cat(painted_moment(age, MOMENTS.index(moment))))
    assert with_it.moments == (moment,)
    assert without.moments == ()
