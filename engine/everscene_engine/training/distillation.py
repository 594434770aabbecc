"""Few-step distillation on the model's own long videos, with a live cache: two methods.

The student rolls out streams of its own: real cache, sink, recache at prompt changes, rollbacks, for many seconds. On
each new chunk it is corrected, so what goes wrong only after minutes is corrected where it happens, and no real clip is
needed ("Self Forcing", Huang et al. 2025; over long streams, "streaming long tuning", LongLive 2025). A teacher, whose
weights stay, follows the same stream with a cache of its own. It can be led away from the prompt without subject and
moment by classifier-free guidance.

    trajectory  The teacher goes from the student's noise to clean latents in many steps; every clean prediction of the
                student is drawn there (mean square error). What is asked for is a function of the noise, so nothing is
                averaged away. (Luhman and Luhman, 2021; Self Forcing begins with it.)
    matching    The student's clean prediction m at one denoising step gets noise, and two networks say where that came
                from: the teacher, and a critic that is trained all the while on the student's predictions. The gradient
                of m is (m_critic − m_teacher) / mean |m − m_teacher|, which vanishes when the student's videos are
                spread as the teacher would have them. (Distribution matching distillation, Yin et al. 2024.)

Either makes low-rank weights (LoRA) for one number of steps. Those for more steps can begin with those for fewer, once
they lie in the teacher's folder:

    python -m everscene_engine.training.distillation --method matching --teacher runs/transformer --steps 2 \\
        --seconds 235 --out runs/matching
    python -m everscene_engine.training.distillation --method matching --teacher runs/transformer --steps 4 \\
        --begin-with 2 --rate 3e-4 --seconds 200 --out runs/matching
"""

import argparse
import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from everscene_engine.checkpoint import load_part, low_rank_part
from everscene_engine.conditioning import Conditioning, TextEmbedding
from everscene_engine.config import POCKET_STREAM
from everscene_engine.sampler import Schedule, denoise, make_schedule
from everscene_engine.stream import Transition
from everscene_engine.training.loop import (
    AveragedWeights,
    RunLog,
    TimeBudget,
    check_writable,
    clip_gradients,
    draw_curves,
    load_progress,
    save_progress,
    warmup_cosine,
)
from everscene_engine.training.low_rank_student import LowRankStudent
from everscene_engine.training.rollout import TrainingStream
from everscene_engine.training.stories import Story
from everscene_engine.training.world_model import Optimizer, WorldModel

REPORT_EVERY = 20  # chunks
STUDENT_FILE, CRITIC_FILE = "student_progress.safetensors", "critic_progress.safetensors"


@dataclass(frozen=True)
class Recipe:
    """The knobs of the stage.

    method: as above. clips: streams side by side. steps: denoising steps that the student learns. rank: of the low-rank
    weights that learn. guidance: the teacher's weight (1 is none). rate, critic_rate: learning rates. teacher_steps: of
    a trajectory. critic_steps: updates of the critic for each of the student's; critic_alone: chunks in which it learns
    alone at first. lengths: chunks of a stream, least and most (drawn evenly in the logarithm). events: chance that
    something happens before a chunk; touched: share of the clips that it happens to. rollbacks: share of the events
    that take back a latent frame. average: decay of the averaged weights, a chunk.
    """

    method: Literal["trajectory", "matching"] = "matching"
    clips: int = 96
    steps: int = 2
    rank: int = 32
    guidance: float = 1.0
    rate: float = 5e-4
    critic_rate: float = 3e-4
    teacher_steps: int = 8
    critic_steps: int = 2
    critic_alone: int = 40
    lengths: tuple[int, int] = (8, 96)
    events: float = 0.2
    touched: float = 0.4
    rollbacks: float = 0.3
    average: float = 0.99


@dataclass(frozen=True)
class Guided:
    """Conditionings of a chunk for the teacher, as it is asked and without subject and moment."""

    asked: Conditioning
    without: Conditioning


class Rollout:
    """B streams of the student, followed by teacher and critic (if there is one), and the prompts played to them."""

    def __init__(
        self, student: WorldModel, teacher: WorldModel, critic: WorldModel | None, clips: int, seed: int
    ) -> None:
        models = [student, teacher] if critic is None else [student, teacher, critic]
        self.streams = [TrainingStream(model.transformer, POCKET_STREAM, seed, clips) for model in models]
        self.student, self.teacher = self.streams[:2]
        self._text = teacher.text
        self._clips = clips
        self._rng = random.Random(seed)
        self.stories: list[Story] = []

    @property
    def critic(self) -> TrainingStream:
        """The critic's stream; there must be one."""
        return self.streams[2]

    @torch.no_grad()
    def start(self) -> None:
        """New worlds."""
        self.stories = [Story(random.Random(self._rng.getrandbits(62))) for _ in range(self._clips)]
        self._steer("reset")

    @torch.no_grad()
    def happen(self, touched: float, roll_back: bool) -> None:
        """Let something happen to some of the clips: recached as a rule, text alone or a cut now and then."""
        kind: Transition = self._rng.choices(("recache", "text", "cut"), (75, 15, 10))[0]
        for story in self.stories:
            if self._rng.random() < touched:
                story.cut() if kind == "cut" else story.change()
        if roll_back and self.student.next_frame > 2 * POCKET_STREAM.chunk_frames:
            for stream in self.streams:
                stream.rollback(stream.next_frame - 1)
        self._steer(kind)

    @torch.no_grad()
    def go_on(self) -> None:
        """A chunk has been made: what stands for so long only is no longer asked for, as the live engine has it."""
        over = [story.go_on() for story in self.stories]
        if any(over):
            self._steer("text")

    def _steer(self, transition: Transition) -> None:
        self.asked = self._embed([story.prompt for story in self.stories])
        self.without = self._embed([story.without for story in self.stories])
        for stream in self.streams:
            stream.steer(stream.condition(self.asked), transition)
        self.guided = Guided(self.teacher.condition(self.asked), self.teacher.condition(self.without))

    def _embed(self, prompts: list[str]) -> TextEmbedding:
        return self._text.encode(prompts)


@dataclass(frozen=True)
class Denoised:
    """What the student made of a chunk: the latents [B, F, C, h, w] that the stream goes on with, and its clean
    predictions, each like the latents and with its gradient, at the steps to correct."""

    latents: Tensor
    predictions: list[Tensor]


def denoise_with_gradient(
    stream: TrainingStream, noise: Tensor, schedule: Schedule, text: Conditioning, corrected: Collection[int]
) -> Denoised:
    """Run the sampler; the forwards of the steps `corrected` carry gradients, to the weights and to `text`."""
    kept: list[Tensor] = []
    counted = iter(range(schedule.steps))

    def predict_flow(x: Tensor, timestep: float) -> Tensor:
        step = next(counted)
        with torch.set_grad_enabled(step in corrected):
            flow = stream.flow(x, torch.full(x.shape[:1], timestep, device=x.device), text)
            if step in corrected:
                kept.append(x.float() - schedule.sigmas[step] * flow)
        return flow.detach()

    with torch.no_grad():
        latents = denoise(predict_flow, noise, schedule)
    return Denoised(latents, kept)


def draw_levels(clips: int, shift: float, device: torch.device) -> Tensor:
    """Noise levels σ [B] for scoring: σ = shift·v / (1 + (shift − 1)·v) for v = 0.02 + 0.96·u, u uniform in 0..1."""
    v = 0.02 + 0.96 * torch.rand(clips, device=device)
    return shift * v / (1 + (shift - 1) * v)


def with_noise(m: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """m [B, F, C, h, w] at noise levels [B], and the noise."""
    noise = torch.randn_like(m)
    level = sigma[:, None, None, None, None]
    return (1 - level) * m + level * noise, noise


@torch.no_grad()
def guided_flow(rollout: Rollout, x: Tensor, timesteps: Tensor, weight: float) -> Tensor:
    """The teacher's flow, led away from the prompt without subject and moment: [B, F, C, h, w]."""
    if weight == 1.0:
        return rollout.teacher.flow(x, timesteps, rollout.guided.asked)
    without = rollout.teacher.flow(x, timesteps, rollout.guided.without)
    return without + weight * (rollout.teacher.flow(x, timesteps, rollout.guided.asked) - without)


@torch.no_grad()
def trajectory_end(rollout: Rollout, noise: Tensor, schedule: Schedule, weight: float) -> Tensor:
    """The clean latents to which the teacher goes from this noise in the schedule's steps."""

    def predict_flow(x: Tensor, timestep: float) -> Tensor:
        return guided_flow(rollout, x, torch.full(x.shape[:1], timestep, device=x.device), weight)

    return denoise(predict_flow, noise, schedule)


@torch.no_grad()
def matching_gradient(rollout: Rollout, m: Tensor, sigma: Tensor, critic_text: Conditioning, weight: float) -> Tensor:
    """The gradient of m that leads from what the critic believes in to what the guided teacher does."""
    x, _ = with_noise(m, sigma)
    level = sigma[:, None, None, None, None]
    teacher = x - level * guided_flow(rollout, x, 1000 * sigma, weight)
    critic = x - level * rollout.critic.flow(x, 1000 * sigma, critic_text)
    distance = (m - teacher).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
    return (critic - teacher) / distance


class Trainer:
    """One run of the stage."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe) -> None:
        self.options, self.recipe = options, recipe
        self.device = torch.device(options.device)
        self.budget = TimeBudget(options.seconds)
        torch.manual_seed(options.seed)
        self.teacher = WorldModel.load(options.teacher).to(self.device)  # never stepped; compiled like the others
        self.student = WorldModel.load(options.teacher).to(self.device)
        self.student.text.requires_grad_(False).eval()  # prompts mean to the student what they mean to its teacher
        self.low_rank = LowRankStudent(self.student.transformer, recipe.rank)
        if options.begin_with:
            self.low_rank.begin_from(load_part(options.teacher, low_rank_part(options.begin_with))[0])
        self.average = AveragedWeights(self.low_rank, decay=recipe.average)
        self.optimizer = Optimizer(self.low_rank, recipe.rate, 0.0, muon=False)
        self.first = recipe.critic_alone if recipe.method == "matching" else 0  # chunk that the student learns from
        self.critic: WorldModel | None = None
        if recipe.method == "matching":
            self.critic = WorldModel.load(options.teacher).to(self.device)
            self.critic.text.requires_grad_(False).eval()
            self.critic_optimizer = Optimizer(self.critic, recipe.critic_rate, 0.0, muon=False)
        if options.resume:
            self._load(options.resume)
        self.rollout = Rollout(self.student, self.teacher, self.critic, recipe.clips, options.seed)
        self.schedule = make_schedule(recipe.steps, POCKET_STREAM.shift)
        self.path = make_schedule(recipe.teacher_steps, POCKET_STREAM.shift)
        self.rng = random.Random(options.seed)
        self.log = RunLog(options.out, self.budget)

    def run(self) -> None:
        """Train until the budget is spent; saves on the way and at the end."""
        last_saved, left, learning = time.monotonic(), 0, False
        chunks = self.first + self.average.steps if self.average.steps else 0
        sums: dict[str, Tensor] = {}
        while not self.budget.spent:
            if left == 0:
                least, most = self.recipe.lengths
                left = round(least * (most / least) ** self.rng.random())
                self.rollout.start()
            elif self.rng.random() < self.recipe.events:
                self.rollout.happen(self.recipe.touched, self.rng.random() < self.recipe.rollbacks)
            figures = self.chunk(chunks)
            if not learning and "norm" in figures:
                self.budget.begin()  # everything is compiled
                learning = True
            for name, value in figures.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            chunks, left = chunks + 1, left - 1
            if chunks % REPORT_EVERY == 0:
                means = {name: float(value) / REPORT_EVERY for name, value in sums.items()}
                self.log.write("chunk", chunk=float(chunks), **means)
                sums = {}
            if time.monotonic() - last_saved > self.options.save_every:
                self.save()
                last_saved = time.monotonic()
        self.save()
        names = ("loss", "gradient", "critic loss")
        draw_curves({name: self.log.series("chunk", name) for name in names}, self.options.out / "curve.png")
        self.log.write("end", chunks=float(chunks))

    def chunk(self, number: int) -> dict[str, Tensor]:
        """One chunk of every stream, and what is learned from it. Returns figures for the log."""
        recipe, rollout = self.recipe, self.rollout
        for stream in rollout.streams:
            stream.begin()
        matching = recipe.method == "matching"
        corrected = [self.rng.randrange(recipe.steps)] if matching else range(recipe.steps)
        noise = torch.randn(self._shape(), device=self.device)
        text = rollout.student.condition(rollout.asked)
        made = denoise_with_gradient(rollout.student, noise, self.schedule, text, corrected)
        if recipe.method == "trajectory":
            figures = self._reach(noise, made.predictions)
        else:
            m = made.predictions[0]
            figures = self._learn_critic(m.detach())
            if number >= self.first:
                figures |= self._match(m)
        if number >= self.first:
            figures["norm"] = self._step(number)
        for stream in rollout.streams:
            stream.finish(made.latents)
        rollout.go_on()
        return figures

    def _step(self, number: int) -> Tensor:
        """One step of the student; returns its gradient's norm."""
        self.low_rank.take_gradients()
        norm = clip_gradients(self.low_rank.parameters(), 1.0)
        share = warmup_cosine(number - self.first, self.budget.fraction, 30, floor=0.1)
        self.optimizer.step(self.recipe.rate * share)
        self.low_rank.write()
        self.average.update()
        return norm

    def _reach(self, noise: Tensor, predictions: list[Tensor]) -> dict[str, Tensor]:
        """Gradients of the trajectory method."""
        end = trajectory_end(self.rollout, noise, self.path, self.recipe.guidance)
        loss = torch.stack([(m - end).square().mean() for m in predictions]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def _match(self, m: Tensor) -> dict[str, Tensor]:
        """Gradients of the matching method."""
        sigma = draw_levels(len(m), POCKET_STREAM.shift, self.device)
        with torch.no_grad():
            critic_text = self.rollout.critic.condition(self.rollout.asked)
        gradient = matching_gradient(self.rollout, m.detach(), sigma, critic_text, self.recipe.guidance)
        (gradient.nan_to_num() * m).mean().backward()  # type: ignore[no-untyped-call]
        return {"gradient": gradient.abs().mean()}

    def _learn_critic(self, m: Tensor) -> dict[str, Tensor]:
        """Teach the critic what the student's predictions look like."""
        assert self.critic is not None
        recipe, stream = self.recipe, self.rollout.critic
        losses = []
        for _ in range(recipe.critic_steps):
            sigma = draw_levels(len(m), POCKET_STREAM.shift, self.device)
            x, noise = with_noise(m, sigma)
            flow = stream.flow(x, 1000 * sigma, stream.condition(self.rollout.asked))
            loss = (flow - (noise - m)).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients([p for p in self.critic.parameters() if p.grad is not None], 1.0)
            self.critic_optimizer.step(recipe.critic_rate)
            losses.append(loss.detach())
        return {"critic loss": torch.stack(losses).mean()}

    def _shape(self) -> tuple[int, ...]:
        config = POCKET_STREAM
        channels = self.student.transformer.config.channels
        return (self.recipe.clips, config.chunk_frames, channels, config.latent_height, config.latent_width)

    def save(self) -> None:
        """Write the averaged low-rank weights as the stream loads them, and what a resumed run needs."""
        out = self.options.out
        self.low_rank.save(out, self.recipe.steps, self.average)
        save_progress(out / STUDENT_FILE, self.low_rank, self.average, self.optimizer.parts[0])
        if self.critic is not None:
            save_progress(out / CRITIC_FILE, self.critic, None, self.critic_optimizer.parts[0])

    def _load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        load_progress(folder / STUDENT_FILE, self.low_rank, self.average, self.optimizer.parts[0])
        self.low_rank.write()
        if self.critic is not None:
            load_progress(folder / CRITIC_FILE, self.critic, None, self.critic_optimizer.parts[0])


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher's weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and curve")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between saves")
    parser.add_argument("--method", choices=("trajectory", "matching"), default=defaults.method)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="denoising steps to learn")
    parser.add_argument(
        "--begin-with", type=int, metavar="N", help="begin with what the teacher's folder holds for N steps"
    )
    parser.add_argument("--resume", type=Path, help="folder of a run of the same options to go on from")
    parser.add_argument("--rank", type=int, default=defaults.rank)
    parser.add_argument("--clips", type=int, default=defaults.clips)
    parser.add_argument("--guidance", type=float, default=defaults.guidance, help="the teacher's weight (1 is none)")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="learning rate")
    parser.add_argument("--critic-rate", type=float, default=defaults.critic_rate)
    parser.add_argument("--longest", type=int, default=defaults.lengths[1], help="chunks of the longest stream")
    options = parser.parse_args()
    check_writable(options.out)
    torch.set_float32_matmul_precision("high")
    recipe = Recipe(
        method=options.method,
        clips=options.clips,
        steps=options.steps,
        rank=options.rank,
        guidance=options.guidance,
        rate=options.rate,
        critic_rate=options.critic_rate,
        lengths=(min(defaults.lengths[0], options.longest), options.longest),
    )
    Trainer(options, recipe).run()


if __name__ == "__main__":
    main()
