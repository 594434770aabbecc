"""The world in numbers: what stays, what prompts steer, and the clips that training draws from it.

A clip is N chunks of 8 frames at 16 frames a second. Chunk 0 is the sink: it may lie long before the rest, in another
hour and weather, as the sink does in a stream that has been running for minutes. In the chunks after it, prompts change
things. A change starts at a chunk's first frame and is complete after FADE_FRAMES, so the chunk after it is wholly new.

No clip that is drawn shows a combination that `names` holds out, unless it is asked for: what is drawn is for training.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from everscene_engine.config import CUT_PREFIX
from everscene_engine.training.world.captions import prompt_for
from everscene_engine.training.world.names import (
    INTENSITIES,
    INTENSITY_LEVELS,
    MOMENTS,
    SETTINGS,
    SUBJECT_COLOURS,
    SUBJECTS,
    TIMES,
    TRAINED_COLOURS,
    WEATHERS,
    Attributes,
)
from everscene_engine.training.world.noise import uniform

__all__ = [
    "FADE_FRAMES", "FRAMES_PER_CHUNK", "FRAMES_PER_SECOND", "INTENSITIES", "INTENSITY_LEVELS", "MOMENTS",
    "MOMENT_CHUNKS", "SETTINGS", "SUBJECTS", "SUBJECT_COLOURS", "TIMES", "WEATHERS", "Attributes", "Clip",
    "ClipAttributes", "Tracks", "World", "change", "make_clip", "random_attributes", "sample_clips",
]  # fmt: skip

FRAMES_PER_SECOND = 16
FRAMES_PER_CHUNK = 8
FADE_FRAMES = 6
MOMENT_CHUNKS = 4  # 2 seconds


@dataclass(frozen=True)
class World:
    """What stays the same during a shot, one row a clip."""

    seed: Tensor  # int64 [B], 0 to 2^31: land, clouds, phases
    camera_speed: Tensor  # float32 [B], pixels a second at the nearest layer: 6 to 30, below 0 to the left
    subject_kind: Tensor  # int64 [B], index in SUBJECTS
    subject_colour: Tensor  # int64 [B], index in TRAINED_COLOURS, which begins with SUBJECT_COLOURS

    def take(self, rows: slice | Tensor) -> "World":
        """Some of the clips."""
        return World(*(getattr(self, f.name)[rows] for f in fields(self)))

    def rows(self, times: int) -> "World":
        """Each clip repeated once for each time: [B·times]."""
        return World(*(getattr(self, f.name).repeat_interleave(times) for f in fields(self)))

    def shot(self, number: Tensor) -> "World":
        """The world after `number` cuts (int64, one a row): other land and camera, the same subject."""
        seed = torch.where(number > 0, (self.seed * 48271 + number * 7_919_919) % 2_147_483_647, self.seed)
        speed = 6 + 24 * uniform(seed, number, 4)
        return replace(self, seed=seed, camera_speed=torch.where(number > 0, speed, self.camera_speed))

    def to(self, device: torch.device | str) -> "World":
        return World(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Tracks:
    """What prompts steer, for every frame."""

    setting_from: Tensor  # int64 [B, T], index in SETTINGS
    setting_to: Tensor  # int64 [B, T]
    setting_mix: Tensor  # float32 [B, T]: 0 shows setting_from, 1 setting_to
    time: Tensor  # float32 [B, T, 4], rows sum to 1
    weather: Tensor  # float32 [B, T, 5], rows sum to 1
    intensity: Tensor  # float32 [B, T], 0.2 light, 0.5 normal, 0.9 heavy
    moments: Tensor  # float32 [B, T, 4] seconds since the moment began; negative (or NaN) when off
    shot: Tensor  # int64 [B, T]: cuts so far

    def flatten(self) -> "Tracks":
        """[B, T, …] → [B·T, …]."""
        return Tracks(*(getattr(self, f.name).flatten(0, 1) for f in fields(self)))

    def take(self, rows: slice | Tensor) -> "Tracks":
        """Some of the rows of the first dimension."""
        return Tracks(*(getattr(self, f.name)[rows] for f in fields(self)))

    def frames(self, part: slice) -> "Tracks":
        """Some of the frames of every clip: [B, T, …] → [B, t, …]."""
        return Tracks(*(getattr(self, f.name)[:, part] for f in fields(self)))

    def to(self, device: torch.device | str) -> "Tracks":
        return Tracks(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class ClipAttributes:
    """What each chunk's prompt says, as indices, each int64 [B, N]; for readers and measures."""

    setting: Tensor
    time: Tensor
    weather: Tensor
    intensity: Tensor  # index in INTENSITIES
    subject: Tensor
    colour: Tensor
    moment: Tensor  # -1 when there is none
    shot: Tensor  # cuts so far
    changed: Tensor  # 1 where anything but the moment differs from the chunk before

    def to(self, device: torch.device | str) -> "ClipAttributes":
        return ClipAttributes(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Clip:
    """B clips of N chunks, ready for `render`."""

    world: World
    times: Tensor  # float64 [B, N·frames_per_chunk] seconds
    tracks: Tracks
    prompts: list[list[str]]  # [B][N]
    attributes: ClipAttributes


@dataclass(frozen=True)
class _Script:
    """One clip as it is thought out: the attributes of every chunk, and where it is cut."""

    attributes: list[Attributes]
    cuts: frozenset[int]
    prompts: list[str]
    seed: int
    speed: float
    start: float  # seconds, of chunk 0
    gap: float  # seconds left out between chunk 0 and chunk 1


def sample_clips(
    batch: int,
    frames_per_chunk: int = FRAMES_PER_CHUNK,
    chunks: int = 7,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    held_out: bool = False,
    colours: Sequence[str] = SUBJECT_COLOURS,
) -> Clip:
    """Draw clips for training. generator: a CPU generator (None: torch's own). held_out: combinations that `names`
    holds out may be among them. colours: of the subjects. All walk to the right: no prompt says which way, and a model
    of two steps would draw both at once, a fox with two heads. Raises ValueError if chunks < 2."""
    if chunks < 2:
        raise ValueError(f"chunks is {chunks}; a clip needs the sink and at least one chunk more")
    start = int(torch.randint(0, 2**62, (), generator=generator))
    return _assemble(
        [_sample(random.Random(start + row), chunks, held_out, colours) for row in range(batch)],
        frames_per_chunk,
        device,
    )


def make_clip(
    world_seed: int,
    schedule: Sequence[tuple[int, Mapping[str, str | bool | None]]],
    chunks: int,
    first: Attributes | None = None,
    gap: float = 0.0,
    start: float = 0.0,
    camera_speed: float = 16.0,
    frames_per_chunk: int = FRAMES_PER_CHUNK,
    device: torch.device | str = "cpu",
    vary: random.Random | None = None,
) -> Clip:
    """One clip written by hand (B = 1).

    schedule: (chunk, {attribute: value}) pairs; a value holds until the next change. Attributes are the fields of
    `Attributes`; {"cut": True} makes that chunk a cut; a moment holds until {"moment": None}. first: chunk 0's
    attributes (default `Attributes()`). gap: seconds left out after chunk 0. vary: varies the prompts' wording.
    Raises ValueError for an unknown name, value or chunk.
    """
    current = first or Attributes()
    listed: list[Attributes] = []
    cuts: set[int] = set()
    changes: dict[int, dict[str, str | bool | None]] = {}
    for chunk, values in schedule:
        if not 0 <= chunk < chunks:
            raise ValueError(f"the schedule names chunk {chunk}; the clip has chunks 0 to {chunks - 1}")
        if unknown := set(values) - {f.name for f in fields(Attributes)} - {"cut"}:
            raise ValueError(f"the schedule names {', '.join(sorted(unknown))}; Attributes has no such field")
        changes.setdefault(chunk, {}).update(values)
    for chunk in range(chunks):
        values = dict(changes.get(chunk, {}))
        if values.pop("cut", False):
            cuts.add(chunk)
        current = replace(current, **values)  # type: ignore[arg-type]
        listed.append(current)
    prompts = _prompts(listed, frozenset(cuts), vary)
    script = _Script(listed, frozenset(cuts), prompts, world_seed, camera_speed, start, gap)
    return _assemble([script], frames_per_chunk, device)


def random_attributes(
    rng: random.Random, held_out: bool = False, colours: Sequence[str] = SUBJECT_COLOURS
) -> Attributes:
    """Any world with a subject of one of the colours, drawn evenly; held_out: of those too that `names` holds out."""
    while True:
        drawn = Attributes(
            setting=rng.choice(SETTINGS),
            time=rng.choice(TIMES),
            weather=rng.choice(WEATHERS),
            intensity=rng.choice(INTENSITIES),
            subject=rng.choice(SUBJECTS),
            colour=rng.choice(colours),
        )
        if held_out or not (drawn.scene_held_out or drawn.subject_held_out):
            return drawn


def change(rng: random.Random, before: Attributes, held_out: bool = False) -> Attributes:
    """What a prompt changes: another time or weather, less often another force of the weather or another setting.
    held_out: to scenes too that `names` holds out."""
    field = rng.choices(("time", "weather", "intensity", "setting"), (38, 38, 12, 12))[0]
    if field == "intensity" and before.weather == "clear":
        field = "weather"
    names = {"time": TIMES, "weather": WEATHERS, "intensity": INTENSITIES, "setting": SETTINGS}[field]
    others = [replace(before, **{field: name}) for name in names if name != getattr(before, field)]
    after = rng.choice([one for one in others if held_out or not one.scene_held_out])
    return replace(after, intensity=rng.choice(INTENSITIES)) if field == "weather" else after


def _sample(rng: random.Random, chunks: int, held_out: bool, colours: Sequence[str]) -> _Script:
    first = random_attributes(rng, held_out, colours)
    gap = 0.0 if rng.random() < 0.3 else 0.5 * (600 / 0.5) ** rng.random()
    second = _later(rng, first, held_out) if gap else first
    # Chunks that may begin with a change. Where time was left out the pool of clips drops chunk 1, so that chunk 2 must
    # not begin by fading from it.
    places = list(range(3 if gap else 1, chunks))
    count = min(rng.choices((0, 1, 2), (20, 60, 20))[0], len(places))
    changes = frozenset(rng.sample(places, count))
    others = [place for place in places if place not in changes]
    cuts = frozenset([rng.choice(others)]) if others and rng.random() < 0.10 else frozenset[int]()
    attributes, current = [first], second
    for chunk in range(1, chunks):
        if chunk in changes:
            current = change(rng, current, held_out)
        if chunk in cuts and rng.random() < 0.6:
            fresh = random_attributes(rng, held_out)
            current = replace(fresh, subject=current.subject, colour=current.colour)
        attributes.append(current)
    if rng.random() < 0.35:
        begin, moment = rng.randrange(1, chunks), rng.choice(MOMENTS)
        for chunk in range(begin, min(chunks, begin + MOMENT_CHUNKS)):
            attributes[chunk] = replace(attributes[chunk], moment=moment)
    speed = rng.uniform(6, 30)
    prompts = _prompts(attributes, cuts, rng)
    return _Script(attributes, cuts, prompts, rng.randrange(2**31), speed, rng.uniform(0, 3600), gap)


def _later(rng: random.Random, first: Attributes, held_out: bool) -> Attributes:
    """Where the stream is after a long while: the same subject, mostly in the same place."""
    while True:
        later = random_attributes(rng, held_out)
        kept = first.setting if rng.random() < 0.7 else later.setting
        later = replace(later, setting=kept, subject=first.subject, colour=first.colour)
        if held_out or not later.scene_held_out:
            return later


def _prompts(attributes: Sequence[Attributes], cuts: frozenset[int], rng: random.Random | None) -> list[str]:
    """A prompt for each chunk: the wording stays until the world changes; a moment only adds its words."""
    prompts: list[str] = []
    wording = 0
    for chunk, now in enumerate(attributes):
        plain = replace(now, moment=None)
        if rng is not None and (chunk == 0 or plain != replace(attributes[chunk - 1], moment=None) or chunk in cuts):
            wording = rng.getrandbits(62)
        same = None if rng is None else random.Random(wording)
        text = prompt_for(now, same, subject="mostly" if chunk else "always")
        prompts.append(CUT_PREFIX + text if chunk in cuts else text)
    return prompts


def _assemble(scripts: Sequence[_Script], frames_per_chunk: int, device: torch.device | str) -> Clip:
    """Scripts of equal length → tensors."""
    chunks = len(scripts[0].attributes)

    def table(field: str, names: Sequence[str]) -> Tensor:
        return torch.tensor([[names.index(getattr(a, field)) for a in s.attributes] for s in scripts])

    setting, time, weather = table("setting", SETTINGS), table("time", TIMES), table("weather", WEATHERS)
    force, subject, colour = (
        table("intensity", INTENSITIES),
        table("subject", SUBJECTS),
        table("colour", TRAINED_COLOURS),
    )
    moment = torch.tensor([[MOMENTS.index(a.moment) if a.moment else -1 for a in s.attributes] for s in scripts])
    cut = torch.tensor([[int(chunk in s.cuts) for chunk in range(chunks)] for s in scripts])
    stacked = torch.stack([setting, time, weather, force, cut], -1)  # [B, N, 5]
    changed = torch.zeros_like(cut)
    changed[:, 1:] = ((stacked[:, 1:, :4] != stacked[:, :-1, :4]).any(-1) | (cut[:, 1:] > 0)).long()
    attributes = ClipAttributes(setting, time, weather, force, subject, colour, moment, cut.cumsum(1), changed)
    gap = torch.tensor([s.gap for s in scripts], dtype=torch.float64)
    frame = torch.arange(chunks * frames_per_chunk, dtype=torch.float64)
    times = torch.tensor([s.start for s in scripts], dtype=torch.float64)[:, None] + frame / FRAMES_PER_SECOND
    times[:, frames_per_chunk:] += gap[:, None]
    instant = cut > 0  # [B, N]: chunks whose first frame is wholly new
    if chunks > 1:
        instant[:, 1] |= gap > 0
    tracks = _tracks(attributes, instant, frames_per_chunk)
    world = World(
        seed=torch.tensor([s.seed for s in scripts]),
        camera_speed=torch.tensor([s.speed for s in scripts]),
        subject_kind=subject[:, 0].clone(),
        subject_colour=colour[:, 0].clone(),
    )
    return Clip(
        world.to(device), times.to(device), tracks.to(device), [s.prompts for s in scripts], attributes.to(device)
    )


def _tracks(attributes: ClipAttributes, instant: Tensor, frames_per_chunk: int) -> Tracks:
    """Attributes of chunks → tracks of frames, with the fades."""
    step = (torch.arange(frames_per_chunk) + 1).clamp(max=FADE_FRAMES) / FADE_FRAMES
    fade = torch.where(instant[..., None], 1.0, step * step * (3 - 2 * step))  # [B, N, frames]

    def before(now: Tensor) -> Tensor:
        return torch.cat([now[:, :1], now[:, :-1]], 1)

    def blend(values: Tensor) -> Tensor:
        """values: [B, N, …] per chunk → [B, N·frames, …], faded in at each chunk."""
        mix = fade.view(*fade.shape, *[1] * (values.dim() - 2))
        return torch.lerp(before(values)[:, :, None], values[:, :, None], mix).flatten(1, 2)

    count = fade.shape[2]
    since = torch.arange(count) / FRAMES_PER_SECOND
    ages = torch.full((*attributes.moment.shape, count, len(MOMENTS)), -1.0)
    running = torch.zeros_like(attributes.moment[:, 0])
    for chunk in range(attributes.moment.shape[1]):
        now = attributes.moment[:, chunk]
        same = (now == attributes.moment[:, chunk - 1]) if chunk else torch.zeros_like(now, dtype=torch.bool)
        running = torch.where(same, running + 1, 0)
        age = running[:, None] * (count / FRAMES_PER_SECOND) + since  # [B, frames]
        for number in range(len(MOMENTS)):
            ages[:, chunk, :, number] = torch.where((now == number)[:, None], age, -1.0)
    levels = torch.tensor(INTENSITY_LEVELS)
    return Tracks(
        setting_from=before(attributes.setting).repeat_interleave(count, 1),
        setting_to=attributes.setting.repeat_interleave(count, 1),
        setting_mix=fade.flatten(1, 2),
        time=blend(torch.nn.functional.one_hot(attributes.time, len(TIMES)).float()),
        weather=blend(torch.nn.functional.one_hot(attributes.weather, len(WEATHERS)).float()),
        intensity=blend(levels[attributes.intensity]),
        moments=ages.flatten(1, 2),
        shot=attributes.shot.repeat_interleave(count, 1),
    )
