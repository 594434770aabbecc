"""One teacher-forcing step of a small model, as a whole or as one rank's part of it."""

from multiprocessing.connection import Connection

import torch
from torch import Tensor

from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.rank_link import GroupLink, join_store
from everscene_engine.training.balanced_sequence import balanced_part, sum_gradients
from everscene_engine.training.block_by_block import BlockRunner, run_block
from everscene_engine.training.chunk_attention import ChunkAttention
from everscene_engine.training.flow_step import Step, flow_loss, predict
from everscene_engine.training.world_model import WorldModel
from tests.engine.small import small_transformer

SIZES = TransformerConfig(dim=48, ffn_dim=64, layers=2, heads=2, channels=4, text_dim=32, freq_dim=32)
STREAM = StreamConfig(
    latent_height=4, latent_width=6, chunk_frames=2, window_chunks=2, sink_reach=None, steps=2, fps=16.0
)
LENGTHS = (2, 2, 1, 2)  # seven latent frames: the middle lies within a chunk


def model() -> WorldModel:
    """The same on every rank."""
    torch.manual_seed(1)
    made = WorldModel(small_transformer(SIZES), WorldModel.new(SIZES).text)
    return made.train().requires_grad_(True)


def step() -> Step:
    """Two clips of two prompts."""
    generator = torch.Generator().manual_seed(2)
    frames = sum(LENGTHS)

    def latents() -> Tensor:
        return torch.randn(2, frames, 4, 4, 6, generator=generator)

    return Step(
        clean=latents(),
        noisy=latents(),
        sigma=torch.rand(2, frames, generator=generator),
        timestep=1000 * torch.rand(2, frames, generator=generator),
        target=latents(),
        position=torch.arange(frames).expand(2, -1) + torch.tensor([[0], [40]]),
        lengths=LENGTHS,
        words=torch.randint(1, 20, (2, 2, 5), generator=generator),
        prompts=torch.randint(0, 2, (2, 2 * frames), generator=generator),
        trained=torch.tensor([[1.0, 1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1, 1]]),
    )


def gradients(of: WorldModel) -> dict[str, Tensor]:
    """Those that there are, by name."""
    return {name: part.grad for name, part in of.named_parameters() if part.grad is not None}


def whole() -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one process."""
    made, given = model(), step()
    attention = ChunkAttention(given.lengths, STREAM.frame_tokens, STREAM.window_chunks)
    loss = flow_loss(predict(made, given, attention, STREAM), given)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients(made)


def part(link: GroupLink, run: BlockRunner = run_block) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of a rank among several."""
    made, given = model(), step()
    own = balanced_part(given, STREAM, link)
    loss = flow_loss(predict(made, own.step, own.attention, STREAM, run), own.step, given)
    loss.backward()  # type: ignore[no-untyped-call]
    total = loss.detach().clone()
    sum_gradients(made.parameters(), link, total)
    return total, gradients(made)


def other_rank(port: int, rank: int, size: int, pipe: Connection) -> None:
    """Another rank's process; sends the sum of its gradients, which is that of every rank."""
    torch.set_num_threads(1)
    _, found = part(GroupLink(join_store(port), rank, size, cuda=False))
    pipe.send(float(sum(grad.double().sum() for grad in found.values())))
