"""Settings: dataclasses whose values are checked when an instance is made, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from reformer.errors import InputError
from reformer.ops.checks import nearest

RENAMED = {"logit_scale": "attention_scale"}
"""Names of before, and of now."""


def hint_at(name: str, names: Sequence[str]) -> str:
    """What a field is called now, or the nearest name there is, or nothing."""
    return f"; it is {RENAMED[name]!r} now" if RENAMED.get(name) in names else nearest(name, names)


@dataclass(kw_only=True)
class Settings:
    """Fields whose types and values are checked when an instance is made."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name in (each.name for each in fields(self)):
            value, kind = getattr(self, name), kinds[name]
            if isinstance(value, list):
                value = tuple(value)
                setattr(self, name, value)
            if not _fits(value, kind):
                raise InputError(f"{name}={value!r} is of the wrong kind; it must be {_in_words(kind)}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated kind; integers are numbers too, truth values are neither."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, get_args(kind)[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {_in_words(get_args(kind)[0]).removeprefix('a ').removeprefix('an ')}s"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(kind, str(kind))
