"""The procedural world: pure in time, kind to the eye in every weather, and honest in its clips."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import CUT_PREFIX
from everscene_engine.training.world.captions import parse_attributes
from everscene_engine.training.world.contact_sheet import sheet
from everscene_engine.training.world.names import (
    MOMENTS,
    SETTINGS,
    SUBJECTS,
    TIMES,
    TRAINED_COLOURS,
    WEATHERS,
    Attributes,
)
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import FADE_FRAMES, Clip, Tracks, make_clip, sample_clips
from everscene_engine.training.world.subject import _foot, walk_of

SMALL = (72, 128)


def assert_same(one: Tensor, two: Tensor) -> None:
    """Equal but for the rounding of a few hundred float32 strokes; one step of an 8-bit picture is 4e-3."""
    torch.testing.assert_close(one, two, rtol=0.0, atol=2e-4)


def clips(batch: int, chunks: int = 4, seed: int = 0) -> Clip:
    return sample_clips(batch, chunks=chunks, generator=torch.Generator().manual_seed(seed))


def some_frames(clip: Clip, frames: list[int]) -> tuple[Tensor, Tracks]:
    index = torch.tensor(frames)
    return clip.times[:, index], Tracks(*(getattr(clip.tracks, f.name)[:, index] for f in fields(Tracks)))


def still(first: Attributes, seed: int = 11, time: float = 40.0, moment_age: float | None = None) -> Tensor:
    """One small frame, [3, 72, 128]."""
    clip = make_clip(seed, [], 1, first=first, start=time)
    times, tracks = some_frames(clip, [0])
    if first.moment and moment_age is not None:
        tracks.moments[..., MOMENTS.index(first.moment)] = moment_age
    return render(clip.world, times, tracks, *SMALL)[0, 0]


def test_frame_is_the_same_alone_shuffled_or_in_its_clip() -> None:
    clip = clips(3, chunks=3)
    whole = render(clip.world, clip.times, clip.tracks, *SMALL)
    order = [17, 3, 9]
    times, tracks = some_frames(clip, order)
    shuffled = render(clip.world, times, tracks, *SMALL)
    assert_same(shuffled, whole[:, order])
    alone = render(clip.world.take(slice(1, 2)), times[1:2, :1], tracks.take(slice(1, 2)).frames(slice(0, 1)), *SMALL)
    assert_same(alone[0, 0], whole[1, 17])


def test_rendering_twice_gives_equal_bits() -> None:
    clip = clips(2, chunks=2, seed=3)
    first, second = (render(clip.world, clip.times, clip.tracks, *SMALL) for _ in range(2))
    assert torch.equal(first, second)


def test_painting_in_groups_changes_nothing() -> None:
    clip = clips(2, chunks=2, seed=4)
    whole = render(clip.world, clip.times, clip.tracks, *SMALL)
    groups = render(clip.world, clip.times, clip.tracks, *SMALL, max_pixels=5 * 72 * 128)
    assert_same(groups, whole)


def test_frames_are_finite_and_within_range_at_extreme_times() -> None:
    clip = clips(8, chunks=2, seed=5)
    times = torch.tensor([0.0, 1e6, 1.0, 3e7]).double().expand(8, 4)
    _, tracks = some_frames(clip, [0, 9, 3, 15])
    video = render(clip.world, times, tracks, *SMALL)
    assert video.dtype == torch.float32 and video.shape == (8, 4, 3, 72, 128)
    assert torch.isfinite(video).all() and video.min() >= 0 and video.max() <= 1


def test_world_still_moves_smoothly_after_weeks() -> None:
    """float32 time would stand still or jump: at 1e6 s its steps are a sixteenth of a second."""
    clip = make_clip(5, [], 2, start=1e6, camera_speed=20.0)
    early = make_clip(5, [], 2, start=10.0, camera_speed=20.0)
    steps = []
    for one in (clip, early):
        video = render(one.world, one.times, one.tracks, *SMALL)[0]
        steps.append((video[1:] - video[:-1]).abs().mean((1, 2, 3)))
    assert steps[0].min() > 0.3 * steps[1].min() and steps[0].max() < 3 * steps[1].max()


def test_moments_that_are_nan_or_negative_are_off() -> None:
    clip = make_clip(6, [], 1)
    nan = replace(clip.tracks, moments=torch.full_like(clip.tracks.moments, float("nan")))
    picture = render(clip.world, clip.times, clip.tracks, *SMALL)
    assert torch.equal(render(clip.world, clip.times, nan, *SMALL), picture)


@pytest.mark.parametrize("moment", MOMENTS)
def test_each_moment_is_seen_in_every_setting_from_its_first_frames(moment: str) -> None:
    for number, setting in enumerate(SETTINGS):
        world = Attributes(setting, TIMES[number % 4], WEATHERS[number])
        without = still(world)
        for age in (1 / 16, 0.25):
            change = (still(replace(world, moment=moment), moment_age=age) - without).abs()
            assert change.max() > 0.1, f"{moment} {age} s in {setting}"


@pytest.mark.parametrize("setting", SETTINGS)
def test_times_and_weathers_look_different_from_each_other(setting: str) -> None:
    """The mean colours of a coarse 3×4 grid differ by at least 2.5 % somewhere, on average over clips."""

    def coarse(attributes: Attributes) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(still(attributes), (3, 4))

    seen = {(t, w): coarse(Attributes(setting, t, w, "normal")) for t in TIMES for w in WEATHERS}
    for one, first in seen.items():
        for two, second in seen.items():
            if one < two:
                assert (first - second).abs().max() > 0.025, f"{one} and {two}"


def test_settings_and_subjects_look_different() -> None:
    pictures = [still(Attributes(s, subject=k)) for s in SETTINGS for k in SUBJECTS]
    for number, first in enumerate(pictures):
        for second in pictures[:number]:
            assert (first - second).abs().mean() > 0.004


def test_subjects_of_different_colours_look_different() -> None:
    """Where they differ most by at least an eighth of the range: a judge of 8 × 8 cells sees that."""
    pictures = [still(Attributes(subject="fox", colour=colour)) for colour in TRAINED_COLOURS]
    for number, first in enumerate(pictures):
        for second in pictures[:number]:
            assert (first - second).abs().amax() > 0.125


def test_subject_stays_in_the_picture_and_never_walks_backwards() -> None:
    world = clips(16, chunks=2, seed=7).world
    place = torch.linspace(0, 2000, 4001, dtype=torch.float64)
    for row in range(16):
        walk = walk_of(world.take(slice(row, row + 1)).rows(len(place)), place)
        assert walk.x.min() >= 0.3 * 256 and walk.x.max() <= 0.7 * 256
        distance = (walk.camera + walk.x.double()) * walk.facing
        assert (distance[1:] > distance[:-1]).all()


def test_foot_on_the_ground_moves_with_the_ground() -> None:
    """In the half of the cycle spent on the ground, a foot goes back by exactly half a stride."""
    cycle = torch.linspace(0, 0.499, 50)
    x, y = _foot(cycle, 24.0, 3.0)
    torch.testing.assert_close(x[0] - x, cycle * 24.0)
    assert (y == 0).all()


@pytest.mark.parametrize("change", [{"time": "night"}, {"weather": "storm"}, {"setting": "city"}])
def test_change_begins_on_the_chunks_first_frame_and_is_over_after_the_fade(change: dict[str, str]) -> None:
    clip = make_clip(8, [(2, change)], 4)
    after = make_clip(8, [], 4, first=Attributes(**change))
    before = make_clip(8, [], 4)
    video, old, new = (render(c.world, c.times, c.tracks, *SMALL)[0] for c in (clip, before, after))
    assert_same(video[:16], old[:16])
    assert (video[16] - old[16]).abs().max() > 0.01
    assert (video[16 + FADE_FRAMES - 2] - new[16 + FADE_FRAMES - 2]).abs().max() > 0.01
    assert_same(video[16 + FADE_FRAMES - 1 :], new[16 + FADE_FRAMES - 1 :])


def test_cut_changes_the_land_at_once_and_keeps_the_subject() -> None:
    clip = make_clip(9, [(2, {"cut": True})], 4, first=Attributes(subject="robot", colour="blue"))
    assert [p.startswith(CUT_PREFIX) for p in clip.prompts[0]] == [False, False, True, False]
    shot = clip.world.rows(32).shot(clip.tracks.shot.flatten())
    assert len(set(shot.seed.tolist())) == 2 and (shot.seed[16:] != shot.seed[0]).all()
    assert (shot.subject_kind == 1).all() and (shot.subject_colour == 1).all()
    assert 6 <= shot.camera_speed[-1] <= 30
    video = render(clip.world, clip.times, clip.tracks, *SMALL)[0]
    steps = (video[1:] - video[:-1]).abs().mean((1, 2, 3))
    assert steps[15] > 3 * steps[:15].max()


def test_all_sampled_subjects_walk_to_the_right() -> None:
    clip = clips(100, chunks=6, seed=3)
    frames = clip.times.shape[1]
    walk = walk_of(clip.world.rows(frames).shot(clip.tracks.shot.flatten()), clip.times.flatten())
    assert clip.tracks.shot.any() and (walk.facing == 1).all()


def test_sampled_clips_keep_their_word() -> None:
    """Words, tracks and attributes of many sampled clips agree, chunk by chunk."""
    clip = clips(150, chunks=6, seed=10)
    a = clip.attributes
    for row, prompts in enumerate(clip.prompts):
        for chunk, prompt in enumerate(prompts):
            read = parse_attributes(prompt)
            assert read["setting"] == SETTINGS[a.setting[row, chunk]]
            assert read["time"] == TIMES[a.time[row, chunk]]
            assert read.get("weather", "clear") == WEATHERS[a.weather[row, chunk]]
            moment = int(a.moment[row, chunk])
            assert read.get("moment") == (MOMENTS[moment] if moment >= 0 else None)
            on = clip.tracks.moments[row, chunk * 8 : chunk * 8 + 8] >= 0
            assert on.all(0).tolist() == on.any(0).tolist() == [k == moment for k in range(len(MOMENTS))]
            cut = chunk > 0 and bool(a.shot[row, chunk] > a.shot[row, chunk - 1])
            assert prompt.startswith(CUT_PREFIX) == cut
            last = chunk * 8 + 7
            assert clip.tracks.time[row, last, a.time[row, chunk]] == 1
            assert clip.tracks.weather[row, last, a.weather[row, chunk]] == 1
            assert clip.tracks.setting_mix[row, last] == 1


def test_after_a_gap_two_chunks_pass_before_anything_changes() -> None:
    """The pool of clips leaves the first of them out: the second must not fade from a world that is in no history."""
    clip = clips(300, chunks=4, seed=13)
    gap = clip.times[:, 8] - clip.times[:, 7] > 0.1
    assert clip.attributes.changed[~gap, 2].any()
    assert not clip.attributes.changed[gap, 2].any()


def test_same_world_keeps_the_same_wording() -> None:
    clip = clips(60, chunks=6, seed=11)
    quiet = (clip.attributes.changed == 0) & (clip.attributes.moment == -1)
    for row in range(60):
        for chunk in range(2, 6):
            now = quiet[row, chunk] and quiet[row, chunk - 1]
            if now and not clip.prompts[row][chunk - 1].startswith(CUT_PREFIX):
                assert clip.prompts[row][chunk] == clip.prompts[row][chunk - 1]


def test_moment_begins_with_its_first_chunk_and_lasts_two_seconds() -> None:
    clip = make_clip(12, [(1, {"moment": "meteor"}), (5, {"moment": None})], 6)
    age = clip.tracks.moments[0, :, MOMENTS.index("meteor")]
    assert age[7] < 0 and age[8] == 0 and age[40] < 0
    torch.testing.assert_close(age[8:40], torch.arange(32) / 16)


def test_sampled_clips_have_the_shares_that_training_counts_on() -> None:
    clip = clips(1500, chunks=7, seed=12)
    a, step = clip.attributes, clip.times[:, 8] - clip.times[:, 7]
    contiguous = step < 0.1
    assert abs(contiguous.float().mean() - 0.30) < 0.05
    assert step[~contiguous].min() >= 0.5 and step[~contiguous].max() <= 600.1
    assert abs((a.moment >= 0).any(1).float().mean() - 0.35) < 0.05
    assert abs((a.shot[:, -1] > 0).float().mean() - 0.10) < 0.03
    changes = a.changed[:, 2:].sum(1)
    for count, share in ((0, 0.20), (2, 0.20)):
        # Cuts add a change; contiguous clips may have theirs at chunk 1.
        assert abs((changes == count).float().mean() - share) < 0.10
    same = (a.setting[:, 0] == a.setting[:, 1])[~contiguous]
    assert abs(same.float().mean() - 0.76) < 0.06  # 70 % kept, and one in five of the rest by chance


def test_clips_follow_their_generator() -> None:
    assert clips(4, seed=1).prompts == clips(4, seed=1).prompts
    assert clips(4, seed=1).prompts != clips(4, seed=2).prompts


def test_schedule_with_unknown_names_is_refused() -> None:
    with pytest.raises(ValueError, match="names wether"):
        make_clip(1, [(0, {"wether": "rain"})], 2)
    with pytest.raises(ValueError, match="chunk 9"):
        make_clip(1, [(9, {"weather": "rain"})], 2)


def test_shapes_that_disagree_are_refused() -> None:
    clip = clips(2, chunks=2)
    with pytest.raises(ValueError, match="times is 2x3"):
        render(clip.world, clip.times[:, :3], clip.tracks)


def test_contact_sheet_lays_frames_out_in_rows() -> None:
    page = sheet(torch.rand(5, 3, 10, 20), columns=2, labels=["a"] * 5, enlarge=2)
    assert page.size == (2 * 44 + 4, 3 * (20 + 12 + 4) + 4)
