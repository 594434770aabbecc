"""FP8 attention by cuDNN, through nvidia-cudnn-frontend where that is installed (extra `cudnn`).

cuDNN multiplies E4M3 queries with E4M3 keys, rounds the probabilities to E4M3, and on Hopper writes E4M3 as well. Each
tensor has one scale. Keys and queries are RMS-normed and need none; probabilities are below 1 and are kept 256 times as
large; values and results share one scale, since a mean of values is never larger than the largest of them.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

PROBABILITY_SCALE = 256.0


def available() -> bool:
    """Whether the library is there. Whether the GPU can do it shows when an attention is made."""
    return find_spec("cudnn") is not None


class CudnnFP8Attention:
    """Attention of one shape: `tokens` queries over `keys` keys, made once and called from then on.

    value_scale: numbers in E4M3 stand for themselves divided by it, of values and results alike; a float32 [1] tensor
    on the device, which may change between calls. Raises RuntimeError where cuDNN has no kernel for it.
    """

    def __init__(self, tokens: int, keys: int, heads: int, width: int, device: torch.device) -> None:
        import cudnn

        kinds = cudnn.data_type
        self._shape = (tokens, keys, heads, width)
        self._handle = _handle(device.index or 0)
        graph = cudnn.pygraph(
            io_data_type=kinds.FP8_E4M3,
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self._handle,
        )

        def numbers(name: str, rows: int) -> Any:
            dim, stride = _layout(rows, heads, width)
            return graph.tensor(name=name, dim=dim, stride=stride, data_type=kinds.FP8_E4M3)

        names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
        one = [1, 1, 1, 1]
        scales = {name: graph.tensor(name=name, dim=one, stride=one, data_type=kinds.FLOAT) for name in names}
        q, k, v = numbers("q", tokens), numbers("k", keys), numbers("v", keys)
        out, _, amax_s, amax_o = graph.sdpa_fp8(
            q=q, k=k, v=v, **scales, attn_scale=width**-0.5, generate_stats=False, use_causal_mask=False
        )
        dim, stride = _layout(tokens, heads, width)
        out.set_output(True).set_dim(dim).set_stride(stride).set_data_type(kinds.FP8_E4M3)
        for amax in (amax_s, amax_o):
            amax.set_output(False).set_dim(one).set_stride(one).set_data_type(kinds.FLOAT)
        graph.build([cudnn.heur_mode.A])
        self._graph, self._cudnn = graph, cudnn
        self._ports = (q, k, v, out)
        self._scale_ports = [scales[name] for name in names]
        fixed = torch.tensor([1.0, 1.0, 1.0, 1.0 / PROBABILITY_SCALE, PROBABILITY_SCALE, 1.0], device=device)
        self._scales = [fixed[index].view(1, 1, 1, 1) for index in range(len(names))]
        self._workspace = torch.empty(max(1, graph.get_workspace_size()), dtype=torch.uint8, device=device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, value_scale: Tensor, value_descale: Tensor) -> Tensor:
        """q [R, H, E], k and v [L, H, E] in E4M3, contiguous; v stands for v · value_descale. Returns [R, H, E] in E4M3
        that stands for itself times value_descale as well. Runs on the current CUDA stream."""
        out = torch.empty_like(q)
        scales = list(self._scales)
        scales[2], scales[5] = value_descale.view(1, 1, 1, 1), value_scale.view(1, 1, 1, 1)
        tokens, keys, heads, width = self._shape
        data = [
            q.view(1, tokens, heads, width).transpose(1, 2),
            k.view(1, keys, heads, width).transpose(1, 2),
            v.view(1, keys, heads, width).transpose(1, 2),
            out.view(1, tokens, heads, width).transpose(1, 2),
        ]
        self._cudnn.set_stream(handle=self._handle, stream=torch.cuda.current_stream(q.device).cuda_stream)
        pack = dict(zip((*self._ports, *self._scale_ports), (*data, *scales), strict=True))
        self._graph.execute(pack, self._workspace, handle=self._handle)
        return out


def _layout(rows: int, heads: int, width: int) -> tuple[list[int], list[int]]:
    """Dimensions and strides of [rows, H, E] as cuDNN counts them: [1, H, rows, E]."""
    return [1, heads, rows, width], [rows * heads * width, width, heads * width, 1]


@lru_cache
def _handle(device: int) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()
