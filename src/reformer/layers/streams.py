"""The residual streams: their type, and the layers that write to them."""

import torch
from torch import nn


def stream_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer whose output is added to a stream; models initialise it by their depth.

    Of no class of its own: quantizers replace `nn.Linear` and nothing else.
    """
    layer = nn.Linear(inputs, outputs, bias)
    layer.writes_to_stream = True  # type: ignore[assignment]
    return layer


def writes_to_stream(layer: nn.Module) -> bool:
    """Whether `stream_linear` made it."""
    return getattr(layer, "writes_to_stream", False)


def stream_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the residual streams of a model of that type: fp32, or wider if the model is."""
    return torch.promote_types(dtype, torch.float32)
