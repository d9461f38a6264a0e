"""The Reformer of transformers: models converted both ways, and live ones made faster."""

from reformer.interop.transformers.accelerate import accelerate
from reformer.interop.transformers.convert import from_transformers, to_transformers

__all__ = ["accelerate", "from_transformers", "to_transformers"]
