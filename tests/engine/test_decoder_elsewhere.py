"""A decoder on another device than the transformer: latents and states go to it."""

import pytest
import torch
from torch import Tensor

from everscene_engine.decoder import DecoderElsewhere, DecoderState
from everscene_engine.errors import ConfigError
from everscene_engine.load import load
from everscene_engine.precision import device_of_decoder

META = torch.device("meta")  # the only other device that every machine has


class Noting:
    """A decoder that keeps what it was given."""

    kind = "noting"

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def feed(self, latents: Tensor) -> Tensor:
        self.given.append(latents)
        return latents

    def reset(self) -> None:
        self.given.clear()

    def snapshot(self) -> DecoderState:
        return DecoderState(len(self.given), tuple(self.given))

    def restore(self, state: DecoderState) -> None:
        self.given = list(state.tensors)


def test_latents_come_to_the_decoders_device() -> None:
    inner = Noting()
    frames = DecoderElsewhere(inner, META).feed(torch.zeros(1, 2, 4, 3, 3))
    assert inner.given[0].device == META and frames.shape == (1, 2, 4, 3, 3)


@pytest.mark.parametrize(("device", "queued"), [("cpu", False), ("cuda:1", True)])
def test_latents_are_queued_for_a_gpu_alone(device: str, queued: bool) -> None:
    """A copy to the host that is queued may be read before it is there."""
    asked: list[bool] = []

    class Latents:
        def to(self, place: torch.device, non_blocking: bool) -> Tensor:
            asked.append(non_blocking)
            return torch.zeros(1)

    DecoderElsewhere(Noting(), torch.device(device)).feed(Latents())  # type: ignore[arg-type]
    assert asked == [queued]


def test_a_state_from_host_memory_comes_to_the_decoders_device() -> None:
    inner = Noting()
    DecoderElsewhere(inner, META).restore(DecoderState(1, (torch.zeros(3),)))
    assert inner.given[0].device == META


def test_a_gpu_is_named_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_decoder(None, torch.device("cuda")) == torch.device("cuda:0")
    assert device_of_decoder("cuda:1", torch.device("cuda")) == torch.device("cuda:1")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda:77"):
        device_of_decoder("cuda:77", torch.device("cpu"))


def test_pocket_has_its_decoder_beside_it() -> None:
    with pytest.raises(ConfigError, match="its decoder is on the device of the model"):
        load("pocket", device="cpu", decoder_device="cuda:1")
