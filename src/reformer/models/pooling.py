"""What stands for a whole text."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pool(
    hidden: Float[Tensor, "b l width"], real: Bool[Tensor, "b l"] | None, pooling: str
) -> Float[Tensor, "b width"]:
    """The mean over real tokens, the first or the last of them; zeros for a row without any."""
    if real is None:
        return hidden.mean(1) if pooling == "mean" else hidden[:, 0 if pooling == "first" else -1]
    real = real.to(hidden.device)
    if pooling == "mean":
        kept = hidden.masked_fill(~real.unsqueeze(-1), 0.0)
        return kept.sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    slots = real.int() if pooling == "first" else real.cumsum(1)  # the first largest is the one
    chosen = hidden[torch.arange(len(hidden), device=hidden.device), slots.argmax(1)]
    return chosen.masked_fill(~real.any(1, keepdim=True), 0.0)
