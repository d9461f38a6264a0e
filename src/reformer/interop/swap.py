"""Live models whose modules get another forward: the class is swapped, weights and names stay."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from reformer.errors import InputError

Model = TypeVar("Model", bound=nn.Module)


def swap_classes(model: Model, faster: Mapping[type[nn.Module], type[nn.Module]], what: str) -> Model:
    """Give every module of a class its faster subclass, in place.

    Raises InputError for a model that has no such module.
    """
    modules = list(model.modules())
    if not any(type(module) in faster or isinstance(module, tuple(faster.values())) for module in modules):
        raise InputError(f"{type(model).__name__} has no {what} in it; nothing can be made faster")
    for module in modules:
        module.__class__ = faster.get(type(module), type(module))
    return model
