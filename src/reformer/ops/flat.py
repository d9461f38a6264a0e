"""Specs as operators of `torch.library` take them, which know no objects: kinds and fields in their order, as JSON."""

import json
from dataclasses import fields
from typing import Any, TypeVar

import torch

from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves

Attention = TypeVar("Attention", LSH, Local)

KINDS = {kind.__name__: kind for kind in (Octaves, Chunks, Band, LSH, Local)}
NAMES = {name: tuple(field.name for field in fields(kind)) for name, kind in KINDS.items()}


def flatten(spec: LSH | Local) -> str:
    """A spec as a text, by which `torch.compile` knows a whole spec to be constant."""
    text: str | None = spec.__dict__.get("text")
    return _dumps(_parts(spec)) if text is None else text


def flattened(spec: Attention) -> Attention:
    """The spec, which knows its text: in dynamic graphs its numbers are symbols, and make none."""
    object.__setattr__(spec, "text", flatten(spec))
    return spec


def unflatten(text: str) -> Any:
    """The spec that was flattened, `LSH` or `Local`; it was checked when it was made."""
    return _whole(json.loads(text))


def _parts(value: Any) -> Any:
    name = type(value).__name__
    return (name, *(_parts(getattr(value, each)) for each in NAMES[name])) if name in NAMES else value


@torch.compiler.assume_constant_result
def _dumps(parts: Any) -> str:
    return json.dumps(parts)


def _whole(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if not value or value[0] not in KINDS:
        return tuple(value)
    spec = object.__new__(KINDS[value[0]])
    spec.__dict__.update(zip(NAMES[value[0]], map(_whole, value[1:]), strict=True))
    return spec
