"""Normalisation of the residual streams, computed in the streams' own precision."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm of a stream [b, l, width] that may be wider in type than the weights; returns the weights' type."""

    def forward(self, input: Float[Tensor, "b l width"]) -> Float[Tensor, "b l width"]:
        if input.dtype == self.weight.dtype:
            return super().forward(input)
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm of a stream [b, l, width] that may be wider in type than the weights; returns the weights' type."""

    def forward(self, x: Float[Tensor, "b l width"]) -> Float[Tensor, "b l width"]:
        normalised = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return normalised.to(self.weight.dtype)


def make_norm(kind: str, width: int, eps: float) -> nn.Module:
    """The norm of that name: "layernorm" or "rmsnorm"."""
    if kind == "rmsnorm":
        return RMSNorm(width, eps)
    return LayerNorm(width, eps)
