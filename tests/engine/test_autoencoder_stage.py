"""The stage that trains the pocket autoencoder, on small clips that are no renders."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from everscene_engine.training import autoencoder as stage
from everscene_engine.training.loop import RunLog, TimeBudget
from everscene_engine.training.principal_start import start_from_principal_components
from tests.engine.training_team import Steps

CPU = torch.device("cpu")


def options(out: Path, seconds: float = 2.0, resume: Path | None = None) -> stage.StageOptions:
    return stage.StageOptions(seconds=seconds, out=out, batch=2, device="cpu", resume=resume)


@pytest.fixture(autouse=True)
def small_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of 24 frames of 16×24 pixels, soft moving colours, instead of the world's."""

    def few(batch: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        coarse = torch.rand(batch * 3, 3, 6, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (8, 16, 24), mode="trilinear")  # [3·B, 3, 8, 16, 24]
        frames = smooth.movedim(2, 1).reshape(batch, 24, 3, 16, 24) * 2.0 - 1.0
        return frames, torch.randint(0, 5, (batch, 3), generator=generator)

    monkeypatch.setattr(stage, "render_clips", few)


def test_terms_of_a_flat_error_are_its_size() -> None:
    terms = stage.error_terms(torch.full((2, 8, 3, 8, 8), -0.5))
    assert [term.item() for term in terms] == pytest.approx([0.5, 0.25, 0.0, 0.0, 0.5, 0.5])


def test_edges_and_change_see_what_a_mean_does_not() -> None:
    flicker = torch.ones(1, 8, 3, 8, 8)
    flicker[:, ::2] = -1.0
    named = dict(zip(stage.TERMS, stage.error_terms(flicker), strict=False))
    assert (named["change"].item(), named["edges"].item()) == (2.0, 0.0)
    stripes = torch.ones(1, 8, 3, 8, 8)
    stripes[..., ::2] = -1.0
    named = dict(zip(stage.TERMS, stage.error_terms(stripes), strict=False))
    assert (named["change"].item(), named["edges"].item(), named["half"].item()) == (0.0, 2.0, 0.0)


def test_terms_and_weights_have_a_name_each() -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    frames, _ = stage.render_clips(1, torch.Generator().manual_seed(0), CPU)
    noise = stage.draw_noise(frames, model.config, torch.Generator().manual_seed(0))
    assert stage.training_terms(model, frames, noise).shape == (len(stage.TERMS),) == (len(stage.WEIGHTS),)


def test_scale_is_at_rest_where_latents_are_of_unit_scale() -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    frames = torch.rand(2, 8, 3, 16, 24) * 2 - 1
    raw = model.encode_raw(frames)
    variance, mean = torch.var_mean(raw.detach(), dim=(0, 1, 3, 4))
    noise = torch.zeros_like(raw)
    before = stage.training_terms(model, frames, noise)[-1].item()
    with torch.no_grad():
        model.encoder.leave.weight.div_(variance.sqrt().view(-1, 1, 1, 1))
        model.encoder.leave.bias.copy_((model.encoder.leave.bias - mean) / variance.sqrt())  # type: ignore[union-attr, operator]
    assert stage.training_terms(model, frames, noise)[-1].item() < 1e-4 < before


def test_noise_is_as_strong_as_drawn_and_never_stronger() -> None:
    frames = torch.zeros(()).expand(64, 8, 3, 144, 256)
    noise = stage.draw_noise(frames, AutoencoderConfig(), torch.Generator().manual_seed(0))
    assert noise.shape == (64, 2, 24, 18, 32)
    spread = noise.flatten(1).std(dim=1)
    assert spread.max() < stage.NOISE * 1.02
    assert spread.min() < 0.2 * stage.NOISE < 0.8 * stage.NOISE < spread.max()


def test_terms_compile_to_one_graph() -> None:
    """A break in the graph would cost the accelerator's time in silence."""
    torch.manual_seed(0)
    model = Autoencoder()
    frames = torch.rand(1, 8, 3, 16, 24)
    noise = stage.draw_noise(frames, model.config, torch.Generator().manual_seed(0))
    compiled = torch.compile(stage.training_terms, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(model, frames, noise), stage.training_terms(model, frames, noise))


def test_training_starts_from_the_best_linear_code(tmp_path: Path) -> None:
    """No worse on the clips it began from than their 24 leading components, taken from cells of 4×8×8×3 numbers."""
    trainer = stage.Trainer(options(tmp_path))
    first = torch.Generator().manual_seed(trainer.options.seed + 5)
    frames, _ = stage.render_clips(stage.START_CLIPS, first, CPU)
    cells = torch.nn.functional.pixel_unshuffle(torch.unflatten(frames, 1, (6, 4)).flatten(2, 3).flatten(0, 1), 8)
    flat = cells.movedim(1, -1).flatten(0, 2)
    centred = flat - flat.mean(dim=0)
    left = torch.linalg.svdvals(centred)[24:].square().sum() / flat.numel()
    decoded, _ = trainer.model.decode_raw(trainer.model.encode_raw(frames))
    # Components are chosen stage by stage and the decoder squashes: a little is lost against choosing all at once.
    assert (decoded - frames).square().mean() < 1.5 * left + 0.002


def test_steps_lower_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "WARMUP_STEPS", 10)
    trainer = stage.Trainer(options(tmp_path))
    frames, _ = stage.render_clips(2, torch.Generator().manual_seed(5), CPU)
    monkeypatch.setattr(trainer, "next_frames", lambda: frames)
    errors = [trainer.step(0.0)[0][0].item() for _ in range(40)]
    assert errors[-1] < 0.8 * errors[0], errors


def test_more_channels_than_components_are_refused() -> None:
    model = Autoencoder(AutoencoderConfig(widths=(64, 64, 96)))
    with pytest.raises(ValueError, match="64 components asked of 48"):
        start_from_principal_components(model, torch.zeros(1, 4, 3, 16, 24))


def test_a_step_that_runs_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    trainer = stage.Trainer(options(tmp_path))
    sizes = []

    def hungry(model: Autoencoder, frames: Tensor, noise: Tensor) -> Tensor:
        sizes.append(len(frames))
        if len(frames) > 1:
            raise torch.OutOfMemoryError
        return stage.training_terms(model, frames, noise)

    trainer._terms = hungry
    trainer.robust_step(0.0, RunLog(tmp_path, TimeBudget(1.0)))
    assert sizes == [2, 1]
    assert trainer.steps == 1


def test_a_compiler_that_fails_is_done_without(tmp_path: Path) -> None:
    trainer = stage.Trainer(options(tmp_path))

    def broken(model: Autoencoder, frames: Tensor, noise: Tensor) -> Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler here")

    trainer._terms = broken
    trainer.robust_step(0.0, RunLog(tmp_path, TimeBudget(1.0)))
    assert trainer.steps == 1
    assert "no compiler here" in (tmp_path / "log.jsonl").read_text()


def test_a_run_leaves_weights_log_curve_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "TimeBudget", Steps)  # a busy machine would spend two seconds before the first step
    model = stage.train(options(tmp_path))
    loaded = load_autoencoder(tmp_path / "autoencoder.safetensors")
    frames, _ = stage.render_clips(2, torch.Generator().manual_seed(5), CPU)
    torch.testing.assert_close(loaded.encode(frames), model.encode(frames), rtol=1e-4, atol=1e-4)
    for name in ("autoencoder.safetensors", "autoencoder_bf16.safetensors"):
        assert (tmp_path / name).stat().st_size < 8 << 20
    for name in ("curve.png", "contact_sheet.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 0
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events[0] == "start"
    assert {"step", "trained", "psnr", "latent mean", "latent std"} <= set(events)


def test_latents_of_a_trained_model_have_unit_scale(tmp_path: Path) -> None:
    trainer = stage.Trainer(options(tmp_path))
    model = trainer.averaged_model(clips=24)
    batches = stage.fresh_batches(24, torch.Generator().manual_seed(trainer.options.seed + 3), CPU)
    latents = torch.cat([model.encode(frames) for frames, _ in batches])
    variance, mean = torch.var_mean(latents, dim=(0, 1, 3, 4))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-3, atol=0)


def test_a_run_goes_on_from_an_earlier_one(tmp_path: Path) -> None:
    first = stage.Trainer(options(tmp_path))
    first.step(0.0)
    stage.save(first, first.averaged_model(clips=2), tmp_path)
    second = stage.Trainer(options(tmp_path, resume=tmp_path))
    for mine, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert second.average.steps == 1
    assert second.optimizer.state_dict()["state"]


def test_command_line_gives_options() -> None:
    read = stage.read_options(["--out", "x", "--seconds", "20", "--batch", "3", "--device", "cpu", "--no-compile"])
    assert (read.out, read.seconds, read.batch, read.device, read.compiled) == (Path("x"), 20.0, 3, "cpu", False)
    assert read.evaluation_seconds == 4.0
