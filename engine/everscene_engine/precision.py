"""In which formats a model computes. Names alone: nothing here needs a GPU or Triton."""

from everscene_kernels import attention_cudnn

PRECISIONS = ("bf16", "fp8", "nvfp4")  # of the products on the fast path
ATTENTIONS = ("bf16", "fp8", "cudnn", "triton")  # fp8: the better of the two kernels that are named after it


def eight_bit_kernel(attention: str) -> str | None:
    """The kernel of FP8 self-attention, cudnn or triton; None where attention is in bf16."""
    if attention == "bf16":
        return None
    if attention == "fp8":
        return "cudnn" if attention_cudnn.available() else "triton"
    return attention
