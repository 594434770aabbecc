"""How much memory a model takes, by counting: weights, KV cache, text encoder, kept prompts, decoder.

Counted are the tensors that stay. Activations, CUDA's own memory and what an allocator cannot use are a flat allowance,
so a fit is an estimate, and one that is close is to be tried.
"""

from dataclasses import asdict, dataclass

from everscene_engine.conditioning import REMEMBERED_BYTES
from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.errors import ConfigError
from everscene_engine.models import networks
from everscene_engine.models.presets import Preset

BYTES = {
    "bf16": 2.0,
    "fp8": 1.0,
    "nvfp4": 0.5625,
    "w4a4": 0.5625,
}  # of a number in a matrix; FP8's scale a row is a thousandth more
TEXT_ENCODER = 11.4e9  # umT5-xxl in bf16
DECODERS = {"vae": 1.4e9 + 12.9e9, "lightvae": 0.4e9 + 6.4e9, "lightvae2": 0.1e9 + 3.2e9, "tiny": 0.2e9}
"""Weights, and states to go back to: of a whole VAE 3.2 GB each, kept up to 12.9 GB."""
ALLOWANCE = 3e9
ALLOWANCE_SMALL = 0.5e9
ROOM = 0.95  # of the GPU's memory


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for."""

    weights: float
    cache: float
    text: float
    prompts: float
    decoder: float
    allowance: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.text + self.prompts + self.decoder + self.allowance


def need(
    preset: Preset, precision: str, kv: str, decoder: str = "vae", text: bool = True, attention: str = "bf16"
) -> Need:
    """What a preset takes. text: whether the text encoder is on the same device, always false for `pocket`. attention:
    in FP8 it keeps the cache once more, in E4M3.

    Raises ConfigError for a decoder that is none.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"no such decoder: {decoder!r}; there is: {', '.join(DECODERS)}")
    small = preset.shipped
    return Need(
        weights=weight_bytes(preset.transformer, precision),
        cache=cache_bytes(preset.transformer, preset.stream, kv)
        + (0.0 if attention == "bf16" else eight_bit_bytes(preset.transformer, preset.stream)),
        text=TEXT_ENCODER if text and not small else 0.0,
        prompts=0.0 if small else REMEMBERED_BYTES,
        decoder=0.02e9 if small else DECODERS[decoder],
        allowance=ALLOWANCE_SMALL if small else ALLOWANCE,
    )


def weight_bytes(config: TransformerConfig, precision: str) -> float:
    """Of a transformer whose block linears are in `precision` and everything else in bf16."""
    numbers = sum(parameter.numel() for parameter in networks.transformer(asdict(config)).parameters())
    linears = config.layers * (8 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    return linears * BYTES[precision] + (numbers - linears) * BYTES["bf16"]


def cache_bytes(config: TransformerConfig, stream: StreamConfig, kv: str) -> float:
    """Of the slots. In bf16 also the keys of sinks as they were made, which are kept from when a sink first lies beyond
    its reach: in the middle of a stream, at the 48th chunk of a 5B. In NVFP4 also the scratch of one layer."""
    slot = stream.chunk_frames * stream.frame_tokens * config.dim  # numbers of one layer's keys
    slots = stream.window_chunks + 2
    if kv == "bf16":
        turned = 0 if stream.sink_reach is None else 1 + stream.shot_sink
        return config.layers * slot * (2 * slots + turned) * BYTES["bf16"]
    return config.layers * slot * 2 * slots * BYTES["nvfp4"] + 2 * slots * slot * BYTES["bf16"]


def eight_bit_bytes(config: TransformerConfig, stream: StreamConfig) -> float:
    """Of the slots once more, a byte a number."""
    return 2.0 * config.layers * (stream.window_chunks + 2) * stream.chunk_frames * stream.frame_tokens * config.dim
