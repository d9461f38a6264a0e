"""CUDA graphs: what is captured computes on the GPU alone, again at every replay, in memory that must stay."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


def capturing(device: torch.device) -> bool:
    """Whether a graph is being captured: then nothing may wait for the GPU, nor rely on what it has yet to compute."""
    if torch.compiler.is_compiling() or device.type != "cuda":
        return False
    return torch.cuda.is_current_stream_capturing()


def cached(size: int) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """`functools.lru_cache` of so many results, for functions whose last argument is a device.

    A graph that is being captured may read what is cached, which is then kept for good; what it computes itself, nobody
    else may read before its first replay.
    """

    def decorate(function: Callable[..., Found]) -> Callable[..., Found]:
        kept: OrderedDict[Hashable, Found] = OrderedDict()

        @wraps(function)
        def call(*arguments: Hashable) -> Found:
            device = arguments[-1]
            assert isinstance(device, torch.device)
            inside, known = capturing(device), arguments in kept
            result = kept.pop(arguments) if known else function(*arguments)
            if inside:
                _held.append(result)
            if known or not inside:
                kept[arguments] = result
            if len(kept) > size:
                kept.popitem(last=False)
            return result

        return call

    return decorate


def hold(tensor: Tensor) -> Tensor:
    """Keep for good what a graph that is being captured reads."""
    _held.append(tensor)
    return tensor


_held: list[object] = []
