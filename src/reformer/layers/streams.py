"""The residual streams: their type, and the layers that write to them."""

import torch
from torch import nn


class StreamLinear(nn.Linear):
    """A linear layer whose output is added to a stream; models initialise it by their depth."""


def stream_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the residual streams of a model of that type: fp32, or wider if the model is."""
    return torch.promote_types(dtype, torch.float32)
