"""Models of reformer-pytorch: weights loaded, and live ones made faster."""

from reformer.interop.reformer_pytorch.accelerate import accelerate
from reformer.interop.reformer_pytorch.convert import from_reformer_pytorch

__all__ = ["accelerate", "from_reformer_pytorch"]
