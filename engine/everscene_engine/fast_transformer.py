"""The same transformer, quicker: fused kernels between the matrix products, FP8 products, one CUDA graph a shape.

`accelerated(plain)` takes a `WanTransformer` apart and gives one that is called in the same way and computes the same,
within rounding (bf16) or within what FP8 rows cost. `transformer.py` stays the definition and says what each step is;
here the steps of a layer are cut where the GPU reads and writes rows:

    add_norm   x += gate · what came before; LayerNorm, modulation             fused_triton.add_norm
    product    q, k and v at once
    turn       RMS norms, RoPE; k and v go straight into the chunk's slot      fused_triton.queries_keys_values
    attention  over the slots where they lie
    product    then add_norm again, cross-attention, add_norm, and the feed-forward part with GELU

With FP8, whatever makes the rows of a product quantises them in the same pass.

A forward of a shape and a set of slots that was met before is captured as a CUDA graph and replayed from then on: the
host then hands over one thing instead of five hundred. A graph reads fixed memory, so latents, timesteps, positions and
the prompt's keys and values are copied into buffers of its own first. Prompts are padded to whole 64s of hidden rows,
so that a new prompt seldom means a new graph. A capture waits for the GPU and empties torch's cache of memory, so only
forwards over whole slots are captured, of which there are few (a steady stream replays six: each of three slots is
denoised and passed clean), and the graphs that were replayed last are kept.
"""

import logging
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.attention import SelfAttention
from everscene_engine.conditioning import Conditioning
from everscene_engine.config import TransformerConfig
from everscene_engine.context_parallel import Share, TokenShare
from everscene_engine.eight_bit import EightBitCache
from everscene_engine.errors import ConfigError
from everscene_engine.fast_layer import FastLayer, Rows
from everscene_engine.kv_cache import CachedAttention
from everscene_engine.precision import ATTENTIONS, PRECISIONS, eight_bit_kernel
from everscene_engine.rope import Rotation
from everscene_engine.stored_linear import format_of, store_linears
from everscene_engine.transformer import WanTransformer
from everscene_kernels import attention_triton, fused_triton
from everscene_kernels.fp8 import FP8Rows, has_fp8_units
from everscene_kernels.fused import Modulation
from everscene_kernels.nvfp4_linear import FIRST_CAPABILITY

log = logging.getLogger(__name__)

TEXT_ROWS = 64  # prompts are padded to a multiple of this
GRAPHS = 32  # kept at most: of a steady stream in two sizes of prompts, and of what comes after cuts and recaches


@dataclass
class _Text:
    """The conditioning that graphs read: keys and values of all layers [rows, H, E], bias [rows] float32."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor
    held: Conditioning | None = None

    @classmethod
    def like(cls, text: Conditioning) -> "_Text":
        rows = -(-text.keys[0].shape[1] // TEXT_ROWS) * TEXT_ROWS
        shape = (rows, *text.keys[0].shape[2:])
        keys = [torch.zeros(shape, dtype=part.dtype, device=part.device) for part in text.keys]
        values = [torch.zeros(shape, dtype=part.dtype, device=part.device) for part in text.values]
        return cls(keys, values, torch.full((rows,), -torch.inf, device=text.keys[0].device))

    def hold(self, text: Conditioning) -> None:
        """Copy a prompt's keys and values in, unless they are there."""
        if self.held is text:
            return
        rows = text.keys[0].shape[1]
        torch._foreach_copy_([part[:rows] for part in self.keys], [part[0] for part in text.keys])
        torch._foreach_copy_([part[:rows] for part in self.values], [part[0] for part in text.values])
        self.bias.fill_(-torch.inf)
        self.bias[:rows] = 0.0 if text.bias is None else text.bias.flatten()
        self.held = text


@dataclass
class _Inputs:
    """What else graphs read."""

    latents: Tensor  # [1, F, C, h, w]
    timesteps: Tensor  # [1, F]
    cos: Tensor  # [R, E/2]
    sin: Tensor

    def hold(self, latents: Tensor, timesteps: Tensor, turn: Rotation) -> None:
        """Copy a forward's inputs in."""
        self.latents.copy_(latents)
        self.timesteps.copy_(timesteps)
        self.cos.copy_(turn.cos.view(self.cos.shape))
        self.sin.copy_(turn.sin.view(self.sin.shape))


class FastTransformer(WanTransformer):
    """See the module's head. One clip at a time; made by `accelerated`."""

    def __init__(self, plain: WanTransformer, fp8: bool, eight_bit: str | None, graphs: bool, four: bool) -> None:
        nn.Module.__init__(self)
        self.config: TransformerConfig = plain.config
        self.ranks = plain.ranks
        self.patch_embedding = plain.patch_embedding
        self.text_embedding = plain.text_embedding
        self.time_embedding, self.time_projection = plain.time_embedding, plain.time_projection
        blocks = plain.layers()
        self.modulation = torch.stack([block.modulation[0] for block in blocks])  # [layers, 6, D]
        self.fast_layers = [FastLayer(block, fp8, four) for block in blocks]
        self.blocks, self.head = plain.blocks, plain.head
        self._fp8 = fp8
        self._eight_kernel = eight_bit
        self._eight: EightBitCache | None = None
        self._graphs_wanted = graphs and self.modulation.is_cuda and self.ranks.size == 1
        self._texts: dict[int, _Text] = {}
        self._inputs: dict[torch.Size, _Inputs] = {}
        self._graphs: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = OrderedDict()
        self._met: set[Hashable] = set()
        self._pool: object = None

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        turn: Rotation,
        self_attention: SelfAttention,
        text: Conditioning,
        flow: bool = True,
    ) -> Tensor:
        """As WanTransformer.forward, for one clip and one prompt. Raises ConfigError for more."""
        if latents.shape[0] != 1 or text.keys[0].shape[0] != 1:
            raise ConfigError("the fast path makes one clip under one prompt; use the plain path for more")
        held = self._hold_text(text)
        inputs = self._hold_inputs(latents, timesteps, turn)
        cached = (
            self_attention if isinstance(self_attention, CachedAttention) and len(self_attention.own) == 1 else None
        )
        eight = self._eight_bit(cached)
        if cached is not None and eight is not None:
            eight.refresh(cached)
        out = self._replayed(inputs, cached, held, eight, flow)
        if out is None:
            out = self._run(inputs, self_attention, held, eight, flow)
        if cached is not None:
            cached.written()
            if eight is not None:
                eight.written(cached)
        return out if flow else latents

    def _eight_bit(self, attention: CachedAttention | None) -> EightBitCache | None:
        """The cache in E4M3, for a forward that sees all of it; the others are few or short."""
        if self._eight_kernel is None or attention is None or not attention.sees_all:
            return None
        if self._eight is None or not self._eight.of(attention.cache):
            scales = [layer.value_scale for layer in self.fast_layers]
            self._eight = EightBitCache(attention.cache, scales, self._eight_kernel)
            self._forget_graphs()
        return self._eight

    def _replayed(
        self,
        inputs: _Inputs,
        attention: CachedAttention | None,
        text: _Text,
        eight: EightBitCache | None,
        flow: bool,
    ) -> Tensor | None:
        """The flow from a graph, captured if need be; None where there is to be none, or not yet."""
        if not self._graphs_wanted or attention is None or not attention.whole:
            return None
        key = (inputs.latents.shape, text.bias.shape, attention.key, flow)
        if key not in self._graphs:
            if key not in self._met:
                self._met.add(key)  # the first time also compiles and loads what the graph will hold
                return None
            try:
                self._graphs[key] = self._captured(inputs, attention, text, eight, flow)
            except RuntimeError:
                log.exception("a forward cannot be captured as a CUDA graph; going on without graphs")
                self._graphs_wanted = False
                self._forget_graphs()
                return None
            if len(self._graphs) > GRAPHS:
                oldest, _ = self._graphs.popitem(last=False)
                self._met.discard(oldest)
        self._graphs.move_to_end(key)
        graph, out = self._graphs[key]
        graph.replay()
        return out.clone()

    def _captured(
        self, inputs: _Inputs, attention: CachedAttention, text: _Text, eight: EightBitCache | None, flow: bool
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        torch.cuda.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        device = inputs.latents.device
        stream = torch.cuda.current_stream(device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # type: ignore[arg-type]
                out = self._run(inputs, attention, text, eight, flow)
        except RuntimeError:
            torch.cuda.set_stream(stream)  # torch leaves its own, and a generator that believes to be captured
            fresh = torch.Generator(device).graphsafe_get_state()
            torch.cuda.default_generators[device.index or 0].graphsafe_set_state(fresh)
            raise
        return graph, out

    def _forget_graphs(self) -> None:
        """All of them, and their pool with them: torch takes no pool again that no graph uses any more."""
        self._graphs.clear()
        self._pool = None

    def _hold_text(self, text: Conditioning) -> _Text:
        rows = -(-text.keys[0].shape[1] // TEXT_ROWS) * TEXT_ROWS
        if rows not in self._texts:
            self._texts[rows] = _Text.like(text)
        self._texts[rows].hold(text)
        return self._texts[rows]

    def _hold_inputs(self, latents: Tensor, timesteps: Tensor, turn: Rotation) -> _Inputs:
        if latents.shape not in self._inputs:
            self._inputs[latents.shape] = _Inputs(
                torch.empty_like(latents), torch.empty_like(timesteps), torch.empty_like(turn.cos), turn.sin.clone()
            )
        inputs = self._inputs[latents.shape]
        inputs.hold(latents, timesteps, turn)
        return inputs

    def _run(
        self,
        inputs: _Inputs,
        self_attention: SelfAttention,
        text: _Text,
        eight: EightBitCache | None,
        flow: bool,
    ) -> Tensor:
        """The forward itself, on memory that stays where it is."""
        eps, fp8 = self.config.eps, self._fp8
        x, share = self._own_rows(inputs.latents)  # [R, D], of this rank
        turn = share.turn(Rotation(inputs.cos, inputs.sin))
        time = self._time(inputs.timesteps, x.dtype)  # [1, F, D]
        projected = torch.unflatten(self.time_projection(time), -1, (6, -1))[0]  # [F, 6, D]
        modulation = self.modulation[:, None] + projected  # [layers, F, 6, D]
        y: Tensor | None = None
        gate: Tensor | None = None
        for index, layer in enumerate(self.fast_layers):
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation[index].unbind(1)  # each [F, D]
            h = fused_triton.add_norm(x, y, gate, Modulation(scale_a, shift_a), eps, fp8)
            last = not flow and index == len(self.fast_layers) - 1
            seen = self._attend(index, layer.qkv(h), turn, share, self_attention, eight, last)
            if seen is None:
                return inputs.latents
            y = layer.out(layer.out.rows(seen))
            h = fused_triton.add_norm(x, y, gate_a, layer.before_cross, eps, fp8)
            q = fused_triton.rms(layer.cross_q(h), layer.cross_norm, eps).view(-1, *text.keys[index].shape[1:])
            read = attention_triton.attend(q, text.keys[index], text.values[index], text.bias)
            y = layer.cross_out(layer.cross_out.rows(read.flatten(1)))
            h = fused_triton.add_norm(x, y, None, Modulation(scale_f, shift_f), eps, fp8)
            y = layer.down(layer.down.rows(layer.up(h), gelu=True))
            gate = gate_f
        shift, scale = (self.head.modulation[0] + time[0][:, None]).unbind(1)  # each [F, D]
        h = fused_triton.add_norm(x, y, gate, Modulation(scale, shift), eps, fp8=False)
        out = share.whole(self.head.head(h).unflatten(0, (1, len(shift), -1)))  # [1, F, n, patch²·C]
        return self._unpatch(out, inputs.latents.shape)

    def _attend(
        self,
        index: int,
        qkv: Tensor,
        turn: Rotation,
        share: Share,
        self_attention: SelfAttention,
        eight: EightBitCache | None,
        last: bool,
    ) -> Rows | None:
        """Self-attention of rows [R, 3·D] → rows [R, D]; with `last`, keys and values are kept and nothing is read."""
        norms, eps = self.fast_layers[index].norms, self.config.eps
        rows = (qkv.shape[0], self.config.heads, self.config.head_dim)
        if isinstance(share, TokenShare):
            made = qkv.new_empty(3, *rows)
            q, k, v = made.unbind(0)
            fused_triton.queries_keys_values(qkv, norms, turn.cos, turn.sin, q, k, v, eps)
            return self._attend_exchanged(index, made[:, None], share, self_attention, eight, last)
        q = qkv.new_empty(rows)
        cached = self_attention if isinstance(self_attention, CachedAttention) else None
        place = None if cached is None else cached.place(index)
        k, v = (torch.empty_like(q), torch.empty_like(q)) if place is None else (place[0][0], place[1][0])
        to = None if eight is None or cached is None else eight.place(index, cached)
        fused_triton.queries_keys_values(qkv, norms, turn.cos, turn.sin, q, k, v, eps, to)
        if cached is not None and place is not None:
            cached.kept(index)
        if cached is None or place is None:
            return self_attention(index, q[None], k[None], v[None])[0].flatten(1)
        if last:
            return None
        if eight is None or to is None:
            return cached.look(index, q[None])[0].flatten(1)
        return eight.attend(index, to.q, cached)

    def _attend_exchanged(
        self,
        index: int,
        made: Tensor,
        share: TokenShare,
        self_attention: SelfAttention,
        eight: EightBitCache | None,
        last: bool,
    ) -> Rows | None:
        """The same over several ranks, from queries, keys and values [3, 1, R, H, E] of this rank's tokens."""
        cached = self_attention if isinstance(self_attention, CachedAttention) else None
        place = None if cached is None else cached.place(index)
        exchange = share.exchange
        if cached is None or place is None:
            return exchange.to_tokens(self_attention(index, *exchange.to_heads(made)))[0].flatten(1)
        *q, k, v = exchange.to_heads(made[1:], place) if last else exchange.to_heads(made, (None, *place))
        cached.kept(index)
        q8 = None if eight is None else eight.put(index, cached, (q or [k])[0][0], k[0], v[0])
        if last:
            return None
        if eight is None or q8 is None:
            return exchange.to_tokens(cached.look(index, q[0]))[0].flatten(1)
        rows = eight.attend(index, q8, cached)  # [tokens, H/N·E]
        values = rows.values if isinstance(rows, FP8Rows) else rows
        back = exchange.to_tokens(torch.unflatten(values, -1, (k.shape[2], -1))[None])[0].flatten(1)
        return FP8Rows(back, rows.scales[: len(back)]) if isinstance(rows, FP8Rows) else back

    def _own_rows(self, latents: Tensor) -> tuple[Tensor, Share]:
        """The patch embedding as one product, latents [1, F, C, h, w] → tokens [R, D], of which this rank's stay."""
        patch = self.config.patch
        cells = torch.unflatten(torch.unflatten(latents[0], -1, (-1, patch)), -3, (-1, patch))  # [F, C, h/p, p, w/p, p]
        rows = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [F, n, C·p·p]
        share = self.ranks.share(rows.shape[0], rows.shape[1])
        rows = share.own(rows[None]).flatten(0, 2)
        return F.linear(rows, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias), share


def accelerated(
    plain: WanTransformer, precision: str = "bf16", attention: str = "bf16", graphs: bool = True
) -> FastTransformer:
    """The fast transformer made from a plain one on a GPU in bfloat16, which is taken apart and must not be used again.

    precision: of the products of the blocks: bf16, fp8, nvfp4 for weights that are held so and multiplied in FP8 (in
    bf16 on a GPU without FP8 units), or w4a4 for both sides in NVFP4. Weights that are stored already must be asked for
    as what they are.
    attention: bf16, or for self-attention in FP8 cudnn, triton, or fp8 for the better of them. Raises ConfigError where
    the kernels cannot run.
    """
    weight, config = plain.patch_embedding.weight, plain.config
    if weight.dtype != torch.bfloat16:
        raise ConfigError(f"the fast path computes in bfloat16, and these weights are {weight.dtype}")
    if not (weight.is_cuda or fused_triton.INTERPRETED):
        raise ConfigError("the fast path is for GPUs; use the plain path on a CPU")
    if config.head_dim & (config.head_dim - 1) or config.dim % 16 or config.ffn_dim % 16:
        raise ConfigError(
            f"the fast path wants heads of a power of two, not {config.head_dim}, and widths of whole 16s"
        )
    for name, value, known in (("precision", precision, PRECISIONS), ("attention", attention, ATTENTIONS)):
        if value not in known:
            raise ConfigError(f"{name} is {value!r}; on the fast path it is one of {', '.join(known)}")
    stored = format_of(plain)
    held = "nvfp4" if precision == "w4a4" else precision
    if stored not in (None, held):
        raise ConfigError(f"precision is {precision!r}, and these weights are stored in {stored}; use {stored}")
    units = not weight.is_cuda or has_fp8_units(weight.device, config.dim, config.ffn_dim)
    if not units and (precision == "fp8" or attention != "bf16"):
        raise ConfigError("this GPU has no FP8 units (compute capability 8.9 and up has them); use bf16 or nvfp4")
    if precision == "w4a4" and weight.is_cuda and torch.cuda.get_device_capability(weight.device) < FIRST_CAPABILITY:
        raise ConfigError("this GPU does not multiply NVFP4 (compute capability 10.0 and up does); use nvfp4 or fp8")
    with torch.inference_mode():
        if held == "nvfp4" and stored is None:
            store_linears(plain, "nvfp4")
        fp8 = precision == "fp8" or (precision == "nvfp4" and units)
        made = FastTransformer(plain, fp8, eight_bit_kernel(attention), graphs, precision == "w4a4")
        return made.eval().requires_grad_(False)
