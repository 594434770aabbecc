"""A stream of latents that several ranks make together, as rank 0 runs it: every step is told to the others first."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from everscene_engine.conditioning import Conditioning
from everscene_engine.config import StreamConfig
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.rank_commands import BeginWith, Forward, Generate, Restore, Rollback, Settle, Steer, Text
from everscene_engine.rank_processes import RankProcesses
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.transformer import WanTransformer


class LeadingStream(LatentStream):
    """See LatentStream. What its methods raise they raise here; and RankLost, after which the stream is of no use."""

    def __init__(
        self,
        others: RankProcesses,
        transformer: WanTransformer,
        config: StreamConfig,
        seed: int,
        steps: int | None = None,
        kv: str = "bf16",
    ) -> None:
        super().__init__(transformer, config, seed, steps=steps, kv=kv)
        self._others = others
        others.wait_ready()

    def steer(self, text: Conditioning, transition: Transition = "recache") -> None:
        """See LatentStream."""
        super().steer(text, transition)
        self._others.tell(Steer(Text.of(text), transition))

    def begin_with(self, latent: Tensor | None) -> None:
        """See LatentStream."""
        super().begin_with(latent)
        self._others.tell(BeginWith(None if latent is None else latent.cpu()))

    def generate(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        finished: Callable[[LatentChunk], None] = lambda chunk: None,
        hurried: Callable[[], bool] | None = None,
    ) -> LatentChunk | None:
        """See LatentStream. Rank 0 alone asks whether to stop; the others hear the answer before each forward."""

        def agreed(asked: Callable[[], bool]) -> bool:
            stop = asked()
            self._others.tell(Forward(stop))
            return stop

        with self._others.working():
            self._others.tell(Generate())
            chunk = super().generate(partial(agreed, interrupted), finished, partial(agreed, hurried or _patient))
        if chunk is not None:
            self._others.warmed_up()
        return chunk

    def settle(self) -> bool:
        """See LatentStream."""
        if not self.unsettled:
            return False
        with self._others.working():
            self._others.tell(Settle())
            return super().settle()

    def rollback(self, frame: int) -> None:
        """See LatentStream."""
        with self._others.working():
            self._others.tell(Rollback(frame))
            super().rollback(frame)

    def restore(self, kept: Sequence[LatentChunk], sink_text: Conditioning, seed: int) -> None:
        """See LatentStream."""
        on_host = [replace(chunk, latents=chunk.latents.cpu(), seconds={}) for chunk in kept]
        with self._others.working():
            self._others.tell(Restore(on_host, Text.of(sink_text), seed))
            super().restore(kept, sink_text, seed)

    def close(self) -> None:
        """Stop the other ranks."""
        self._others.close()


def _patient() -> bool:
    return False
