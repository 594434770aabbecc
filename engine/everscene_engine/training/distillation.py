"""Few-step distillation on the model's own long videos: distribution matching with a live cache.

The student rolls out streams of its own: real cache, sink, recache at prompt changes, rollbacks, for many seconds. On
each new chunk it is corrected. Its clean prediction m at one of its denoising steps gets noise, and two other networks,
which follow the same stream with caches of their own, say where that came from: the teacher (the teacher-forced model,
led away from the prompt without subject and moment by classifier-free guidance) and the critic (the same network,
trained all the while on the student's predictions). The gradient of m is

    (m_critic − m_teacher) / mean |m − m_teacher|

which vanishes when the student's videos are spread as the teacher would have them. No real clip is needed, and what
goes wrong only after minutes is corrected where it happens. (Distribution matching distillation, Yin et al. 2024; on
own rollouts, Huang et al. 2025, "Self Forcing"; over long ones, "streaming long tuning", LongLive 2025.)

    python -m everscene_engine.training.distillation --teacher runs/transformer --seconds 500 --out runs/student
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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
    warmup_cosine,
)
from everscene_engine.training.rollout import TrainingStream
from everscene_engine.training.stories import Story
from everscene_engine.training.world_model import Optimizer, WorldModel


@dataclass(frozen=True)
class Recipe:
    """The knobs of the stage.

    clips: streams side by side. steps: the numbers of denoising steps that the student learns, one drawn for each
    chunk. guidance: the teacher's weight (1 is none). rate, critic_rate: learning rates. critic_steps: updates of the
    critic for each of the student's; warmup_steps: chunks in which the critic learns alone. lengths: chunks of a
    stream, least and most (drawn evenly in the logarithm). events: chance that something happens before a chunk;
    touched: share of the clips that it happens to. rollbacks: share of the events that take back a latent frame.
    average: decay of the averaged weights, a chunk.
    """

    clips: int = 64
    steps: tuple[int, ...] = (2, 2, 4)
    guidance: float = 2.0
    rate: float = 1e-4
    critic_rate: float = 3e-4
    critic_steps: int = 2
    warmup_steps: int = 40
    lengths: tuple[int, int] = (8, 96)
    events: float = 0.2
    touched: float = 0.4
    rollbacks: float = 0.3
    average: float = 0.995


@dataclass(frozen=True)
class Guided:
    """Conditionings of a chunk for the teacher, as it is asked and without subject and moment."""

    asked: Conditioning
    without: Conditioning


class Rollout:
    """B streams of the student, followed by teacher and critic, and the prompts that are played to them."""

    def __init__(
        self,
        student: WorldModel,
        teacher: WorldModel,
        critic: WorldModel,
        clips: int,
        seed: int,
    ) -> None:
        self.student, self.teacher, self.critic = (
            TrainingStream(model.transformer, POCKET_STREAM, seed, clips) for model in (student, teacher, critic)
        )
        self.streams = (self.student, self.teacher, self.critic)
        self._text = teacher.text
        self._clips = clips
        self._rng = random.Random(seed)
        self.stories: list[Story] = []

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

    def _steer(self, transition: Transition) -> None:
        self.asked = self._embed([story.prompt for story in self.stories])
        self.without = self._embed([story.without for story in self.stories])
        for stream in self.streams:
            stream.steer(stream.condition(self.asked), transition)
        self.guided = Guided(self.teacher.condition(self.asked), self.teacher.condition(self.without))

    def _embed(self, prompts: list[str]) -> TextEmbedding:
        return self._text.encode(prompts)


@dataclass
class Denoised:
    """What the student made of a chunk: the latents that the stream goes on with, and the prediction m at the step
    that is corrected, with its gradient."""

    latents: Tensor
    corrected: Tensor


def denoise_with_gradient(
    stream: TrainingStream, noise: Tensor, schedule: Schedule, text: Conditioning, corrected: int
) -> Denoised:
    """Run the sampler; the forward of step `corrected` carries gradients, to the weights and to `text`."""
    kept: list[Tensor] = []
    counted = iter(range(schedule.steps))

    def predict_flow(x: Tensor, timestep: float) -> Tensor:
        step = next(counted)
        times = torch.full(x.shape[:1], timestep, device=x.device)
        with torch.set_grad_enabled(step == corrected):
            flow = stream.flow(x, times, text)
            if step == corrected:
                kept.append(x.float() - schedule.sigmas[step] * flow)
        return flow.detach()

    with torch.no_grad():
        latents = denoise(predict_flow, noise, schedule)
    return Denoised(latents, kept[0])


def draw_levels(clips: int, shift: float, device: torch.device) -> Tensor:
    """Noise levels σ [B] for scoring: shift·u / (1 + (shift − 1)·u), u even in 0.02..0.98."""
    u = torch.rand(clips, device=device) * 0.96 + 0.02
    return shift * u / (1 + (shift - 1) * u)


def with_noise(m: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """m [B, F, C, h, w] at noise levels [B], and the noise."""
    noise = torch.randn_like(m)
    level = sigma[:, None, None, None, None]
    return (1 - level) * m + level * noise, noise


@torch.no_grad()
def clean_prediction(stream: TrainingStream, x: Tensor, sigma: Tensor, text: Conditioning) -> Tensor:
    """What a network believes in: x − σ·v, [B, F, C, h, w]."""
    return x - sigma[:, None, None, None, None] * stream.flow(x, 1000 * sigma, text)


@torch.no_grad()
def matching_gradient(rollout: Rollout, m: Tensor, sigma: Tensor, critic_text: Conditioning, weight: float) -> Tensor:
    """The gradient of m that leads from what the critic believes in to what the guided teacher does."""
    x, _ = with_noise(m, sigma)
    without = clean_prediction(rollout.teacher, x, sigma, rollout.guided.without)
    asked = clean_prediction(rollout.teacher, x, sigma, rollout.guided.asked)
    teacher = without + weight * (asked - without)
    critic = clean_prediction(rollout.critic, x, sigma, critic_text)
    distance = (m - teacher).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
    return (critic - teacher) / distance


class Trainer:
    """One run of the stage."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe) -> None:
        self.options, self.recipe = options, recipe
        self.device = torch.device(options.device)
        self.budget = TimeBudget(options.seconds)
        torch.manual_seed(options.seed)
        self.teacher = WorldModel.load(options.teacher).to(self.device).requires_grad_(False).eval()
        self.student, self.critic = (
            WorldModel.load(folder).to(self.device) for folder in (options.student or options.teacher, options.teacher)
        )
        for model in (self.student, self.critic):
            model.text.requires_grad_(False).eval()  # prompts mean to the student what they mean to its teacher
        self.average = AveragedWeights(self.student, decay=recipe.average)
        self.optimizers = [Optimizer(model, recipe.rate, 0.0, muon=False) for model in (self.student, self.critic)]
        self.rollout = Rollout(self.student, self.teacher, self.critic, recipe.clips, options.seed)
        self.schedules = {steps: make_schedule(steps, POCKET_STREAM.shift) for steps in recipe.steps}
        self.rng = random.Random(options.seed)
        self.log = RunLog(options.out, self.budget)

    def run(self) -> None:
        """Train until the budget is spent; saves on the way and at the end."""
        last_saved, chunks, left = time.monotonic(), 0, 0
        sums: dict[str, Tensor] = {}
        while not self.budget.spent:
            if left == 0:
                least, most = self.recipe.lengths
                left = round(least * (most / least) ** self.rng.random())
                self.rollout.start()
            elif self.rng.random() < self.recipe.events:
                self.rollout.happen(self.recipe.touched, self.rng.random() < self.recipe.rollbacks)
            for name, value in self.chunk(chunks).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            chunks, left = chunks + 1, left - 1
            if chunks % 50 == 0:
                self.log.write(
                    "chunk", chunk=float(chunks), **{name: float(value) / 50 for name, value in sums.items()}
                )
                sums = {}
            if time.monotonic() - last_saved > self.options.save_every:
                self.save()
                last_saved = time.monotonic()
        self.save()
        names = ("gradient", "critic loss", "change")
        draw_curves({name: self.log.series("chunk", name) for name in names}, self.options.out / "curve.png")
        self.log.write("end", chunks=float(chunks))

    def chunk(self, number: int) -> dict[str, Tensor]:
        """One chunk of every stream, and one update of the student (but for the first ones) and some of the critic."""
        recipe, rollout = self.recipe, self.rollout
        for stream in rollout.streams:
            stream.begin()
        steps = self.rng.choice(recipe.steps)
        schedule, corrected = self.schedules[steps], self.rng.randrange(steps)
        noise = torch.randn(self._shape(), device=self.device)
        made = denoise_with_gradient(
            rollout.student, noise, schedule, rollout.student.condition(rollout.asked), corrected
        )
        figures = self._learn_critic(made.corrected.detach())
        if number >= recipe.warmup_steps:
            figures |= self._learn_student(made.corrected, number)
        for stream in rollout.streams:
            stream.finish(made.latents)
        return figures

    def _learn_student(self, m: Tensor, number: int) -> dict[str, Tensor]:
        recipe, rollout = self.recipe, self.rollout
        sigma = draw_levels(len(m), POCKET_STREAM.shift, self.device)
        with torch.no_grad():
            critic_text = rollout.critic.condition(rollout.asked)
        gradient = matching_gradient(rollout, m.detach(), sigma, critic_text, recipe.guidance)
        (gradient.nan_to_num() * m).mean().backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients([p for p in self.student.parameters() if p.grad is not None], 1.0)
        rate = warmup_cosine(number - recipe.warmup_steps, self.budget.fraction, 50, floor=0.1)
        self.optimizers[0].step(recipe.rate * rate)
        self.average.update()
        return {"gradient": gradient.abs().mean(), "norm": norm, "size": m.detach().std()}

    def _learn_critic(self, m: Tensor) -> dict[str, Tensor]:
        recipe, stream = self.recipe, self.rollout.critic
        losses = []
        for _ in range(recipe.critic_steps):
            sigma = draw_levels(len(m), POCKET_STREAM.shift, self.device)
            x, noise = with_noise(m, sigma)
            flow = stream.flow(x, 1000 * sigma, stream.condition(self.rollout.asked))
            loss = (flow - (noise - m)).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients([p for p in self.critic.parameters() if p.grad is not None], 1.0)
            self.optimizers[1].step(recipe.critic_rate)
            losses.append(loss.detach())
        return {"critic loss": torch.stack(losses).mean()}

    def _shape(self) -> tuple[int, ...]:
        config = POCKET_STREAM
        channels = self.student.transformer.config.channels
        return (self.recipe.clips, config.chunk_frames, channels, config.latent_height, config.latent_width)

    def save(self) -> None:
        """Write the student's averaged weights as the stream loads them."""
        self.student.save(self.options.out, self.average)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher-forced weights")
    parser.add_argument("--student", type=Path, help="folder of the student's weights (default: the teacher's)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and curve")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between saves")
    parser.add_argument("--clips", type=int, default=Recipe.clips)
    parser.add_argument("--guidance", type=float, default=Recipe.guidance)
    parser.add_argument("--rate", type=float, default=Recipe.rate)
    parser.add_argument("--critic-rate", type=float, default=Recipe.critic_rate)
    options = parser.parse_args()
    check_writable(options.out)
    torch.set_float32_matmul_precision("high")
    recipe = Recipe(clips=options.clips, guidance=options.guidance, rate=options.rate, critic_rate=options.critic_rate)
    Trainer(options, recipe).run()


if __name__ == "__main__":
    main()
