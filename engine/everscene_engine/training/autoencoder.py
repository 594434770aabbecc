"""The stage that trains the pocket autoencoder on the procedural world.

    python -m everscene_engine.training.autoencoder --seconds 330 --out runs/autoencoder

Clips are rendered as they are needed; nothing is stored. What is minimised is the error picture, decoded minus
rendered, seen through a few linear filters: as it is, as edges, as change from frame to frame, and at a half and a
quarter of the size. The first keeps colours, the second outlines, the third keeps still things from shimmering,
the last two large soft areas such as the sky.

Two habits make the latents good to generate and not only to decode. Noise is added to them before they are decoded,
as much as a denoiser may leave behind, so that the decoder forgives and neighbouring latents mean neighbouring
pictures. And a weak pull keeps every channel near mean 0 and standard deviation 1.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder
from everscene_engine.training.loop import (
    AveragedWeights,
    MadeAhead,
    RunLog,
    TimeBudget,
    check_writable,
    clip_gradients,
    draw_curves,
    load_progress,
    save_progress,
    warmup_cosine,
)
from everscene_engine.training.principal_start import start_from_principal_components
from everscene_engine.training.world.contact_sheet import sheet
from everscene_engine.training.world.names import WEATHERS
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import FRAMES_PER_CHUNK, sample_clips

MAX_PIXELS = 1 << 26
"""Painted at once: more frames share the cost of launching each kernel. About 10 GB while painting 64 clips."""
CHUNKS = 4
"""Of which the first, the sink, is left out: 24 frames in a row, 6 latent frames."""
NOISE = 0.15
"""The most noise on latents in training, in standard deviations of their channel; drawn evenly per clip from 0."""
TERMS = ("absolute", "squared", "edges", "change", "half", "quarter", "scale")
WEIGHTS = (1.0, 1.0, 0.5, 0.25, 0.5, 0.5, 0.01)
"""`squared` is there for what is rare and bright: the mean of absolute errors hardly notices a missing bolt."""
GRADIENT_LIMIT = 1.0
SAVE_EVERY = 100.0
START_CLIPS = 12
"""Clips whose principal components the network starts from."""
STEPS_PER_RENDER = 4
"""Clips for so many steps are painted together on an accelerator."""
WARMUP_STEPS = 200


@dataclass(frozen=True)
class StageOptions:
    """One run of the stage. `seconds` is wall time, compilation and evaluation included."""

    seconds: float
    out: Path
    resume: Path | None = None
    batch: int = 16
    device: str = "cuda"
    seed: int = 0
    learning_rate: float = 1e-3
    compiled: bool = True

    @property
    def evaluation_seconds(self) -> float:
        """Kept back from the budget for statistics, figures and pictures."""
        return min(25.0, 0.2 * self.seconds)


# Clips


def render_clips(batch: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Fresh clips: frames [B, 24, 3, 144, 256] in −1..1, in a row, and the weather of their chunks, int64 [B, 3].

    generator: a CPU generator.
    """
    clip = sample_clips(batch, FRAMES_PER_CHUNK, CHUNKS, generator, device)
    kept = slice(FRAMES_PER_CHUNK, None)
    frames = render(clip.world, clip.times[:, kept], clip.tracks.frames(kept), max_pixels=MAX_PIXELS)
    return frames.mul_(2.0).sub_(1.0), clip.attributes.weather[:, 1:]


# What is minimised


def error_terms(error: Tensor) -> list[Tensor]:
    """Means of |filtered error|, in the order of TERMS but for the last. error: decoded − frames [B, T, 3, H, W]."""
    flat = error.flatten(0, 1)  # [B·T, 3, H, W]
    half = F.avg_pool2d(flat, 2)
    across, down = flat.diff(dim=-1), flat.diff(dim=-2)
    return [
        flat.abs().mean(),
        flat.square().mean(),
        across.abs().mean() + down.abs().mean(),
        error.diff(dim=1).abs().mean(),
        half.abs().mean(),
        F.avg_pool2d(half, 2).abs().mean(),
    ]


def training_terms(model: Autoencoder, frames: Tensor, noise: Tensor) -> Tensor:
    """The numbers to minimise [len(TERMS)], float32, unweighted.

    frames [B, T, 3, H, W] in −1..1; noise [B, F, C, h, w], in standard deviations of each channel.
    """
    raw = model.encode_raw(frames).float()
    variance, mean = torch.var_mean(raw, dim=(0, 1, 3, 4))  # [C]
    spread = variance.detach().sqrt().view(-1, 1, 1)
    decoded, _ = model.decode_raw(raw + noise * spread)
    scale = (mean.square() + (variance + 1e-6).log().square()).mean()
    return torch.stack([*error_terms(decoded.float() - frames), scale])


def draw_noise(frames: Tensor, config: AutoencoderConfig, generator: torch.Generator) -> Tensor:
    """Gaussian noise for the latents of these frames, its strength drawn evenly from 0..NOISE for each clip."""
    batch, count, _, height, width = frames.shape
    device, stride = generator.device, config.stride
    strength = torch.rand(batch, 1, 1, 1, 1, generator=generator, device=device) * NOISE
    shape = (batch, count // config.frames_per_latent, config.latent_channels, height // stride, width // stride)
    return (torch.randn(shape, generator=generator, device=device) * strength).to(frames.device)


# The run


class Trainer:
    """Model, average and optimiser of one run, and the step that moves them."""

    def __init__(self, options: StageOptions) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.device = torch.device(options.device)
        self.batch = options.batch
        self.steps = 0
        self.noise_generator = torch.Generator(self.device).manual_seed(options.seed + 1)
        clips = torch.Generator().manual_seed(options.seed + 2)
        on_gpu = self.device.type == "cuda"
        together = options.batch * (STEPS_PER_RENDER if on_gpu else 1)
        self.rendered = MadeAhead(lambda: render_clips(together, clips, self.device)[:1], self.device)
        self._waiting = torch.empty(0, device=self.device)  # rendered clips no step has seen yet
        self.model = Autoencoder().to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.resume is None:
            first = torch.Generator().manual_seed(options.seed + 5)
            start_from_principal_components(self.model, render_clips(START_CLIPS, first, self.device)[0])
        self.average = AveragedWeights(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=on_gpu
        )
        if options.resume is not None:
            load_progress(options.resume / "progress.safetensors", self.model, self.average, self.optimizer)
        self._weights = torch.tensor(WEIGHTS, device=self.device)
        self._terms: Callable[[Autoencoder, Tensor, Tensor], Tensor] = training_terms
        if on_gpu and options.compiled:
            self._terms = torch.compile(training_terms, dynamic=False)

    def next_frames(self) -> Tensor:
        """One batch of rendered frames [B, 24, 3, 144, 256] in −1..1, never the same twice."""
        if not len(self._waiting):
            (self._waiting,) = self.rendered.take()
        frames, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
        return frames

    def step(self, fraction: float) -> tuple[Tensor, Tensor]:
        """One optimiser step → the unweighted terms [len(TERMS)] and the norm of the gradient, on the device.

        fraction: how much of the time is over, for the learning rate.
        """
        rate = self.options.learning_rate * warmup_cosine(self.steps, fraction, WARMUP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        frames = self.next_frames()
        noise = draw_noise(frames, self.model.config, self.noise_generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            terms = self._terms(self.model, frames, noise)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((terms * self._weights).sum())
        norm = clip_gradients(self.model.parameters(), GRADIENT_LIMIT)
        self.optimizer.step()
        self.average.update()
        self.steps += 1
        return terms.detach(), norm

    def robust_step(self, fraction: float, log: RunLog) -> tuple[Tensor, Tensor]:
        """`step`, halving the batch when memory is short and going on uncompiled when the compiler fails."""
        while True:
            try:
                return self.step(fraction)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                log.write("smaller batch", batch=str(self.batch))
            except torch._dynamo.exc.TorchDynamoException as error:
                log.write("uncompiled", why=str(error)[:500])
                self._terms = training_terms
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @torch.no_grad()
    def averaged_model(self, clips: int) -> Autoencoder:
        """A model of the averaged weights, its latent statistics measured on so many fresh clips."""
        model = copy.deepcopy(self.model).eval()
        self.average.copy_to(model)
        generator = torch.Generator().manual_seed(self.options.seed + 3)
        raw = [model.encode_raw(frames).float() for frames, _ in fresh_batches(clips, generator, self.device)]
        variance, mean = torch.var_mean(torch.cat(raw), dim=(0, 1, 3, 4))
        model.latent_mean.copy_(mean)
        model.latent_std.copy_(variance.sqrt().clamp(min=1e-4))
        return model


def fresh_batches(
    clips: int, generator: torch.Generator, device: torch.device, at_once: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    """`render_clips` in batches small enough to be encoded and decoded without compilation."""
    for start in range(0, clips, at_once):
        yield render_clips(min(at_once, clips - start), generator, device)


def train(options: StageOptions) -> Autoencoder:
    """Run the stage and leave weights, log, curve, figures and pictures in `options.out`."""
    budget = TimeBudget(options.seconds - options.evaluation_seconds)
    check_writable(options.out)
    torch.backends.cudnn.benchmark = True
    log = RunLog(options.out, budget)
    trainer = Trainer(options)
    save(trainer, trainer.averaged_model(clips=2), options.out)
    log.write("start", batch=str(options.batch), device=options.device, torch=torch.__version__)
    last_save = budget.elapsed
    while not budget.spent:
        terms, norm = trainer.robust_step(budget.fraction, log)
        if trainer.steps == 3:  # compiled by now
            terms.sum().item()
            budget.begin()
        if trainer.steps % 50 == 0 or trainer.steps in (1, 2, 4, 8, 16, 32):
            named = dict(zip(TERMS, terms.tolist(), strict=True))
            log.write("step", step=str(trainer.steps), **named, gradient=norm.item(), clips=float(trainer.batch))
        if budget.elapsed - last_save > SAVE_EVERY:
            save(trainer, trainer.averaged_model(clips=8), options.out)
            last_save = budget.elapsed
    trainer.rendered.close()
    on_gpu = trainer.device.type == "cuda"
    model = trainer.averaged_model(clips=64 if on_gpu else 2)
    save(trainer, model, options.out)
    log.write("trained", steps=str(trainer.steps))
    evaluate(model, options, log, clips=160 if on_gpu else 4)
    draw_curves({term: log.series("step", term) for term in TERMS[:-1]}, options.out / "curve.png")
    return model


def save(trainer: Trainer, model: Autoencoder, out: Path) -> None:
    """Write the averaged model twice, in float32 and bfloat16, and what a resumed run needs."""
    save_autoencoder(model, out / "autoencoder.safetensors")
    save_autoencoder(model, out / "autoencoder_bf16.safetensors", torch.bfloat16)
    save_progress(out / "progress.safetensors", trainer.model, trainer.average, trainer.optimizer)


# Figures and pictures


def psnr(squared_error: Tensor) -> Tensor:
    """Decibels for a mean squared error of frames in −1..1, whose peak to peak is 2."""
    return 10.0 * torch.log10(4.0 / squared_error.clamp(min=1e-12))


@torch.no_grad()
def evaluate(model: Autoencoder, options: StageOptions, log: RunLog, clips: int) -> None:
    """PSNR on fresh clips for each weather, without and with noise on the latents; statistics; a contact sheet."""
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(options.seed + 4)
    errors: dict[str, list[Tensor]] = {"clean": [], "noise 0.1": []}
    weathers, latents = [], []
    for number, (frames, spoken) in enumerate(fresh_batches(clips, generator, device)):
        encoded = model.encode(frames)
        noisy = encoded + 0.1 * torch.randn(encoded.shape, generator=generator).to(device)
        clean = model.decode(encoded)
        for name, decoded in (("clean", clean), ("noise 0.1", model.decode(noisy))):
            squared = torch.unflatten((decoded - frames).square(), 1, (-1, FRAMES_PER_CHUNK))
            errors[name].append(squared.mean(dim=(2, 3, 4, 5)))  # [B, chunks]
        weathers.append(spoken)
        latents.append(encoded)
        if number == 0:
            draw_sheet(frames, clean, options.out / "contact_sheet.png")
    weather = torch.cat(weathers)
    figures = {name: psnr(torch.cat(values)) for name, values in errors.items()}
    print(f"{'weather':<10}{'chunks':>8}" + "".join(f"{name:>12}" for name in figures) + "   dB, mean over chunks")
    for row, name in [(weather == k, name) for k, name in enumerate(WEATHERS)] + [(weather >= 0, "all")]:
        means = {key: values[row].mean().item() for key, values in figures.items()}
        print(f"{name:<10}{int(row.sum()):>8}" + "".join(f"{mean:>12.2f}" for mean in means.values()))
        log.write("psnr", weather=name, chunks=str(int(row.sum())), **means)
    variance, mean = torch.var_mean(torch.cat(latents), dim=(0, 1, 3, 4))
    for key, statistic in (("latent mean", mean), ("latent std", variance.sqrt())):
        log.write(key, lowest=statistic.min().item(), highest=statistic.max().item())


def draw_sheet(frames: Tensor, decoded: Tensor, path: Path) -> None:
    """Rows of four clips: frames as rendered, below them as decoded. Both [B, T, 3, H, W] in −1..1."""
    shown = frames.shape[1] // 6
    rows = [x[clip, ::shown][:6] for clip in range(min(4, len(frames))) for x in (frames, decoded)]
    sheet((torch.cat(rows) + 1.0) / 2.0, columns=6).save(path)


def read_options(arguments: list[str]) -> StageOptions:
    """The command line as options."""
    parser = argparse.ArgumentParser(prog="python -m everscene_engine.training.autoencoder", description=__doc__)
    parser.add_argument("--seconds", type=float, default=330.0, help="wall seconds, all included")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and pictures")
    parser.add_argument("--resume", type=Path, default=None, help="folder of an earlier run to go on from")
    parser.add_argument("--batch", type=int, default=16, help="clips of 24 frames in a step")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--no-compile", dest="compiled", action="store_false", help="run the network eagerly")
    return StageOptions(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(read_options(sys.argv[1:]))
