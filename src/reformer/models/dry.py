"""The DRY penalty on going on with a repeated sequence, for `generate`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessor

from reformer.errors import InputError

LARGEST = 1e4
"""Growth from which on a longer repetition makes no difference: no logit outlives it."""
LONGEST = 64
"""Tokens of a repetition, beyond those allowed, that are counted."""


class DryLogitsProcessor(LogitsProcessor):
    """Lowers the logit of a token that would go on with a repetition: the longer that is, the more.

    If the last n tokens, at least `allowed_length`, stand twice among the last `penalty_last_n`, the token that came
    behind them the first time loses `multiplier * base ** (n - allowed_length)`. What is copied from further back
    costs nothing, so a model keeps what looking far back is for; a loop costs more with each turn.
    Raises InputError for values out of range. Source: p-e-w's "DRY" in text-generation-webui, pull request 5677; names
    and the value of `base` as in llama.cpp.
    """

    def __init__(
        self, multiplier: float = 0.8, *, base: float = 1.75, allowed_length: int = 8, penalty_last_n: int = 64
    ) -> None:
        for name, value, least in (
            ("multiplier", multiplier, 0),
            ("base", base, 1),
            ("allowed_length", allowed_length, 1),
            ("penalty_last_n", penalty_last_n, 2),
        ):
            if not value >= least:
                raise InputError(f"{name}={value!r} must be at least {least}")
        self.multiplier, self.base = multiplier, base
        self.allowed_length, self.penalty_last_n = allowed_length, penalty_last_n

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        back = input_ids[:, -self.penalty_last_n :].flip(1)
        count, longest = back.shape[1], self.allowed_length + LONGEST
        padded = torch.nn.functional.pad(back, (0, longest), value=-1)
        ends = padded.unfold(1, longest, 1)  # [b, count + 1, longest]: the text backwards from each token
        same = (ends[:, 1:count] == ends[:, :1]).to(torch.uint8).cumprod(2).sum(2)  # by how far back
        growth = (self.base ** (same - self.allowed_length).double()).clamp(max=LARGEST)
        penalty = (self.multiplier * growth).where(same >= self.allowed_length, 0.0)
        worst = torch.zeros_like(scores).scatter_reduce(1, back[:, : count - 1], penalty.to(scores.dtype), "amax")
        return scores - worst
