"""The CPU backend: numba kernels behind operators of `torch.library`."""
