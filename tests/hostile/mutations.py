"""Ways to spoil bytes, JSON and safetensors, as strategies of hypothesis."""

import copy
import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reformer.errors import InputError

settings.register_profile(
    "small", max_examples=10, derandomize=True, database=None, deadline=10_000, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "fuzz", max_examples=300, deadline=20_000, print_blob=True, suppress_health_check=list(HealthCheck)
)
FUZZ = settings.get_profile(os.environ.get("REFORMER_FUZZ", "small"))
"""Of every property: a few examples, always the same ones, or with REFORMER_FUZZ=fuzz many, whose failures are kept."""

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**60, 2**64, -(2**70), 10**400, 0.5, -1.5, 1e308),
    *(float("inf"), float("nan")),
    *("", "\0", "\ud800", "../../x", "x" * 5_000, "[]", [], {}, [None], [[[]]], [2**60], {"a": {}}, {"": None}),
]  # fmt: skip

DEEP = 10_000


def harmless(call: Callable[[], Any]) -> None:
    """The call works, or says in an InputError of one line what is wrong."""
    said = ""
    try:
        call()
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@st.composite
def spoilt_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Up to four edits: bits flipped, parts cut out, put in, repeated or overwritten with a huge number."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["flip", "end", "cut", "insert", "repeat", "number"]))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "end":
            data = data[:at]
        elif kind == "cut":
            data = data[:at] + data[at + size :]
        elif kind == "insert":
            data = data[:at] + draw(st.binary(min_size=1, max_size=64)) + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + size] * draw(st.sampled_from([2, 1_000])) + data[at:]
        else:
            data = (
                data[:at] + struct.pack("<Q", draw(st.sampled_from([2**60, 2**63, 2**64 - 1, 2**31]))) + data[at + 8 :]
            )
    return data


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a JSON value."""
    if before:
        yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*before, key))


@st.composite
def spoilt_json(draw: st.DrawFn, value: Any) -> bytes:
    """An object with a few values replaced, left out or renamed; sometimes nested deeply, or with an endless number."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        inner = value
        for key in way:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
        if kind == "replace":
            inner[last] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        elif kind == "remove" or isinstance(inner, list):
            del inner[last]
        else:
            inner[draw(st.sampled_from(["", "x", "\0", "weight"]))] = inner.pop(last)
    text = json.dumps(value).encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["plain"] * 8 + ["deep", "digits", "top"]))
    key = b', "x": ' if isinstance(value, dict) else b", "
    if how == "deep":
        text = text[:-1] + key + b"[" * DEEP + b"]" * DEEP + text[-1:]
    if how == "digits":
        text = text[:-1] + key + b"9" * DEEP + text[-1:]
    if how == "top":
        text = json.dumps(draw(st.sampled_from(HOSTILE))).encode("utf-8", "surrogatepass")
    return text


@st.composite
def spoilt_safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with a header that lies: about its length, about types, shapes and places of tensors."""
    size = struct.unpack("<Q", data[:8])[0]
    header = draw(spoilt_json(json.loads(data[8 : 8 + size])))
    claimed = draw(st.sampled_from([len(header)] * 6 + [0, 2**60, 2**64 - 1, len(header) // 2, len(header) + 10]))
    return struct.pack("<Q", claimed) + header + data[8 + size :]
