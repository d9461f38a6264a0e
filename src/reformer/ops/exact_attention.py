"""Exact attention, through `scaled_dot_product_attention`."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from reformer.ops.ranks import Ranks

SHORT = 512
"""Tokens below which a CPU computes in fp32: PyTorch's backward in bf16 takes up to ten times as long there."""


def exact_attention(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    dropout_p: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "b h l d"]:
    """softmax(scale * q k^T) v over the pairs that `mask` allows, in the type that autocast asks for or that of q."""
    options = {"attn_mask": mask, "dropout_p": dropout_p, "is_causal": causal, "scale": scale}
    kind = q.device.type
    known = torch.amp.is_autocast_available(kind)
    autocast = known and torch.is_autocast_enabled(kind) and q.dtype != torch.float64  # which autocast leaves alone
    dtype = torch.get_autocast_dtype(kind) if autocast else q.dtype
    if kind != "cpu" or dtype != torch.bfloat16 or max(q.shape[2], k.shape[2]) >= SHORT:
        return F.scaled_dot_product_attention(q, k, v, **options)  # type: ignore[arg-type]
    with torch.autocast(kind, enabled=False):
        wide = (x.float() for x in (q, k, v))
        return F.scaled_dot_product_attention(*wide, **options).to(dtype)  # type: ignore[arg-type]


def visible_pairs(ranks: Ranks, causal: bool, queries: slice = slice(None)) -> Bool[Tensor, "b 1 q l"]:
    """Which keys some slots see: those of their document; padding sees padding, so that no row is empty."""
    seen = ranks.document[:, queries, None] == ranks.document[:, None, :]
    if causal:
        slots = torch.arange(seen.shape[2], device=seen.device)
        seen = seen & (slots[queries, None] >= slots)
    return seen[:, None]
