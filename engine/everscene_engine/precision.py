"""In which formats a model computes, and which of them a machine can have. Nothing here needs a GPU or Triton.

    GPU                                    precision of the linears                  auto
    compute capability 10.0 and up         as below; w4a4: NVFP4 times NVFP4         fp8
    compute capability 8.9 and up          bf16; fp8; nvfp4, multiplied in FP8       fp8
    older                                  bf16; nvfp4, multiplied in bf16           bf16
    any, without Triton (Windows)          as above without nvfp4                    fp8 or bf16
    CPU                                    bf16 or float32; nvfp4, to save memory    bf16

The KV cache is in bf16 or nvfp4 on each of them, or nvfp4-smooth: with its keys smoothed. `auto` takes bf16 for it, and
on a GPU turns to nvfp4, first for the cache and then for the weights, where the rest would not fit. `pocket` is small:
for it `auto` is always bf16.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from everscene_engine.errors import ConfigError
from everscene_kernels import attention_cudnn
from everscene_kernels.fp8 import FIRST_CAPABILITY
from everscene_kernels.nvfp4_linear import FIRST_CAPABILITY as FIRST_FP4

PRECISIONS = ("bf16", "fp8", "nvfp4", "w4a4")  # of the products on the fast path
ATTENTIONS = ("bf16", "fp8", "cudnn", "triton")  # fp8: the better of the two kernels that are named after it
KV_FORMATS = ("bf16", "nvfp4", "nvfp4-smooth")
PATHS = ("auto", "fast", "plain")


@dataclass(frozen=True)
class Machine:
    """What a device can do. capability: of a GPU, None for none. memory: bytes of the GPU."""

    capability: tuple[int, int] | None = None
    memory: float = 0.0
    triton: bool = False

    @property
    def has_fp8(self) -> bool:
        return self.capability is not None and self.capability >= FIRST_CAPABILITY

    @property
    def stores_nvfp4(self) -> bool:
        """Whether it can read weights and a cache in NVFP4: on a GPU kernels do."""
        return self.capability is None or self.triton

    @property
    def has_fp4(self) -> bool:
        return self.capability is not None and self.capability >= FIRST_FP4


@dataclass(frozen=True)
class Formats:
    """How a model computes. precision: of its linears. kv: of its cache. attention: of self-attention. fast: whether by
    the fast path."""

    precision: str = "auto"
    kv: str = "auto"
    attention: str = "bf16"
    fast: bool = False


def machine_of(device: torch.device) -> Machine:
    """What this device can do."""
    if device.type != "cuda":
        return Machine()
    properties = torch.cuda.get_device_properties(device)
    return Machine(
        (properties.major, properties.minor), float(properties.total_memory), find_spec("triton") is not None
    )


def choose(
    machine: Machine,
    precision: str = "auto",
    kv: str = "auto",
    attention: str = "bf16",
    path: str = "auto",
    small: bool = False,
    stored: Collection[str] | None = None,
    fits: Callable[[str, str], bool] = lambda precision, kv: True,
) -> Formats:
    """The formats that are asked for, `auto` resolved.

    small: a model for which `auto` is bf16. stored: the precisions that there are weights for, None for all. fits: of
    (precision, kv), asked on a GPU for what is `auto`. Raises ConfigError for what the machine cannot do, with what to
    use instead.
    """
    choices = {"precision": PRECISIONS, "kv": KV_FORMATS, "attention": ATTENTIONS, "path": PATHS}
    for name, value in {"precision": precision, "kv": kv, "attention": attention, "path": path}.items():
        if value not in (*choices[name], "auto"):
            raise ConfigError(f"{name} is {value!r}; it is one of auto, {', '.join(choices[name])}")
    attention = "bf16" if attention == "auto" else attention
    _check(machine, precision, kv, attention, path)
    fast = machine.capability is not None and machine.triton and path != "plain"
    if attention != "bf16" and not fast:
        raise ConfigError(f"attention {attention!r} is of the fast path alone, on a GPU; use bf16")
    best = "fp8" if machine.has_fp8 and not small else "bf16"
    four = ["nvfp4"] if machine.stores_nvfp4 else []
    precisions = [precision] if precision != "auto" else [best, *four]
    if precision == "auto" and stored is not None:
        eight = ["fp8"] if machine.has_fp8 else []
        precisions = [one for one in (*eight, *four) if one in stored]
        if not precisions and "nvfp4" in stored:
            raise ConfigError("there are weights in nvfp4, which on a GPU needs Triton: pip install everscene[kernels]")
        if not precisions:
            raise ConfigError("there are weights in fp8 alone, which this device cannot multiply; use others")
    kvs = [kv] if kv != "auto" else ["bf16"] if attention != "bf16" else ["bf16", *four]
    if machine.capability is None or small:
        return Formats(precisions[0], kvs[0], attention, fast)
    both = [(one, other) for one in precisions for other in kvs]
    fitting = [pair for pair in both if fits(*pair)]
    return Formats(*(fitting or both[-1:])[0], attention, fast)


def _check(machine: Machine, precision: str, kv: str, attention: str, path: str) -> None:
    if precision == "w4a4" and not machine.has_fp4:
        what = "a CPU" if machine.capability is None else "compute capability " + ".".join(map(str, machine.capability))
        raise ConfigError(f"w4a4 multiplies in four bits, from compute capability 10.0 on; this is {what}: use nvfp4")
    if precision == "w4a4" and (path == "plain" or not machine.triton):
        raise ConfigError("w4a4 is of the fast path alone, which needs Triton; use nvfp4")
    if machine.capability is None:
        if precision == "fp8":
            raise ConfigError("precision 'fp8' needs a GPU of capability 8.9 and up; on a CPU use bf16, or nvfp4")
        if path == "fast":
            raise ConfigError("the fast path is for GPUs; on a CPU use the plain path")
        return
    if path == "fast" and not machine.triton:
        raise ConfigError("the fast path needs Triton: pip install everscene[kernels]; or use the plain path")
    if not machine.stores_nvfp4 and (precision == "nvfp4" or kv.startswith("nvfp4")):
        raise ConfigError("nvfp4 on a GPU needs Triton: pip install everscene[kernels]; or use bf16")
    if not machine.has_fp8 and (precision == "fp8" or attention in ("fp8", "cudnn", "triton")):
        have = ".".join(map(str, machine.capability))
        raise ConfigError(f"fp8 needs compute capability 8.9 and up, and this GPU has {have}; use bf16, or nvfp4")
    if attention != "bf16" and kv.startswith("nvfp4"):
        raise ConfigError(
            f"attention {attention!r} keeps the cache in eight bits too, so kv {kv!r} saves nothing; "
            "use kv bf16, or attention bf16"
        )


def device_of(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one. Raises ConfigError for one that is not there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}; it is cpu, cuda, or cuda:1 for the second GPU")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"there is no device {name!r}: torch {torch.__version__} sees {gpus or 'no'} GPUs here")
    return device


def device_of_decoder(name: str | None, place: torch.device) -> torch.device:
    """The decoder's device, with its number; None: `place`, where the transformer is. Raises ConfigError."""
    device = place if name is None else device_of(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def check_device(device: torch.device, formats: Formats) -> None:
    """Raise ConfigError for a GPU that our kernels cannot be launched on: they run on the process's first."""
    if device.index in (None, 0) or not (formats.fast or "nvfp4" in (formats.precision, formats.kv[:5])):
        return
    raise ConfigError(
        f"our kernels run on the first GPU, not on {device}; start with CUDA_VISIBLE_DEVICES={device.index} "
        "and device cuda, or use the plain path in bf16 or fp8"
    )


def eight_bit_kernel(attention: str) -> str | None:
    """The kernel of FP8 self-attention, cudnn or triton; None where attention is in bf16."""
    if attention == "bf16":
        return None
    if attention == "fp8":
        return "cudnn" if attention_cudnn.available() else "triton"
    return attention
