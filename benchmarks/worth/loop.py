"""The training loop of all claims: AdamW, a short warm-up, a linear fall to a tenth, clipped gradients."""

from collections.abc import Callable
from typing import Any

import torch

Batch = dict[str, torch.Tensor]


def fit(
    model: Any,
    draw: Callable[[int], Batch],
    steps: int,
    rate: float,
    after: Callable[[int], None] = lambda _: None,
    warmup: int = 50,
) -> None:
    """Train on `draw(step)`; `after` is called with the number of steps done."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup) * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        model(**draw(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after(step + 1)
        model.train()
