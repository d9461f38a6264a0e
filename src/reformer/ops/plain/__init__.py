"""The plain backend: ordinary PyTorch operations, on every device."""
