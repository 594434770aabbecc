"""GPU kernels, each beside its plain PyTorch reference. Tensors in, tensors out."""
