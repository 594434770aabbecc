"""Sizes of the models, frozen and complete. What follows from a field is a property.

Capitals in shape comments mean the same in every file:
B clips · F latent frames · C latent channels · h, w latent rows and columns · n tokens of a latent frame ·
D model width · H heads · E head width · T video frames · L text tokens · S slots.
"""

from dataclasses import dataclass, replace
from typing import Literal

from everscene_engine.errors import ConfigError

CUT_PREFIX = "The scene transitions. "  # what the first prompt of a new shot begins with, live and in training


@dataclass(frozen=True)
class TransformerConfig:
    """A Wan transformer. One class serves the 5B, the 1.3B and the pocket model.

    dim: model width. ffn_dim: width inside the feed-forward part. layers: blocks. heads: attention heads.
    channels: latent channels, in and out. text_dim: width of the text embeddings. freq_dim: width of the
    sinusoid of the timestep. patch: rows and columns of latent cells that make a token. eps: of every norm.
    """

    dim: int
    ffn_dim: int
    layers: int
    heads: int
    channels: int
    text_dim: int
    freq_dim: int = 256
    patch: int = 2
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.head_dim % 2:
            raise ConfigError(f"dim / heads is {self.head_dim}; RoPE needs an even number")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class StreamConfig:
    """How a model is run as an endless stream.

    latent_height, latent_width: cells of a latent frame. chunk_frames: latent frames denoised together.
    window_chunks: the most recent finished chunks that attention sees besides the sink and the chunk in work.
    sink_reach: attention sees the sink at most this many latent frames before the chunk in work, however long
    ago it was (a model of endless streams never meets a distance it was not trained on); None: at its true
    distance. steps: denoising steps. shift: of the flow schedule. fps: video frames per second.
    frames_per_latent: video frames that a latent frame decodes to. spatial_stride: pixels per latent cell.
    sampler: "unipc" is deterministic within a chunk, "renoise" adds fresh noise after every step (see `sampler`).
    recache: "causal" makes the window again chunk by chunk, each seeing those before it; "bidirectional" in one
    forward in which all of them see each other. shot_sink: the first chunk after a cut is kept too, in a slot of the
    window, until the next cut. shot_offset: latent frames by which RoPE jumps ahead at each cut.
    cut_clears_window: after a cut the window begins empty, with the sink and the new shot's first chunk alone.
    recache_depth: of the window's chunks, how many of the newest a change of prompt makes anew at once; the others when
    there is time. None: all of them at once.
    """

    latent_height: int
    latent_width: int
    chunk_frames: int
    window_chunks: int
    sink_reach: int | None
    steps: int
    fps: float
    frames_per_latent: int = 4
    spatial_stride: int = 8
    shift: float = 5.0
    sampler: Literal["unipc", "renoise"] = "unipc"
    recache: Literal["causal", "bidirectional"] = "causal"
    shot_sink: bool = False
    shot_offset: int = 0
    cut_clears_window: bool = False
    recache_depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("latent_height", "latent_width"):
            if getattr(self, name) % 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be even (a token is 2×2 cells)")
        if self.chunk_frames < 1 or self.window_chunks < 1:
            raise ConfigError(
                f"chunk_frames {self.chunk_frames} and window_chunks {self.window_chunks} must be at least 1"
            )
        if self.shot_sink and self.window_chunks < 2:
            raise ConfigError(
                f"window_chunks is {self.window_chunks}; a shot sink takes one of them, so it must be at least 2"
            )
        if self.recache_depth is not None and self.recache_depth < 1:
            raise ConfigError(f"recache_depth is {self.recache_depth}; it must be at least 1, or None for all")
        if self.sink_reach is not None and self.sink_reach < (self.window_chunks + 1) * self.chunk_frames:
            raise ConfigError(
                f"sink_reach {self.sink_reach} must cover the window and the sink: at least "
                f"{(self.window_chunks + 1) * self.chunk_frames} latent frames"
            )

    def with_recache_depth(self, chunks: int | None) -> "StreamConfig":
        """The same with another depth. chunks: 0 for all of the window, None for the depth that it has."""
        return self if chunks is None else replace(self, recache_depth=chunks or None)

    @property
    def frame_tokens(self) -> int:
        return self.latent_height * self.latent_width // 4

    @property
    def height(self) -> int:
        return self.latent_height * self.spatial_stride

    @property
    def width(self) -> int:
        return self.latent_width * self.spatial_stride


POCKET_TRANSFORMER = TransformerConfig(
    dim=384, ffn_dim=1024, layers=6, heads=6, channels=24, text_dim=192, freq_dim=128
)
POCKET_STREAM = StreamConfig(
    latent_height=18,
    latent_width=32,
    chunk_frames=2,
    window_chunks=4,
    sink_reach=32,
    steps=2,
    fps=16.0,
    recache_depth=1,  # reads the same as a whole recache, and reacts a third sooner (docs/realtime.md)
)
WAN_5B = TransformerConfig(dim=3072, ffn_dim=14336, layers=30, heads=24, channels=48, text_dim=4096)
WAN_1_3B = TransformerConfig(dim=1536, ffn_dim=8960, layers=30, heads=12, channels=16, text_dim=4096)
