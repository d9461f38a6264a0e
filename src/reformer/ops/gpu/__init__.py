"""The GPU backend: Triton kernels for hashing, ordering and neighbourhood attention."""
