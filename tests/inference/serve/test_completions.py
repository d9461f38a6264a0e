"""Bodies of requests: what is possible is read, all else is refused in words."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer.errors import InputError
from reformer.inference.serve.completions import Completions, UnknownModel, parse
from reformer.settings.serving import ServerSettings
from tests.hostile.mutations import FUZZ

LIMITS = ServerSettings(max_tokens=100, rows=4, max_prompts=3)


def read(**fields: Any) -> Completions:
    return parse(json.dumps(fields).encode(), "small", 259, LIMITS)


def test_defaults() -> None:
    got = read(model="small", prompt="a")
    assert (got.prompts, got.longest, got.n, got.echo, got.stream, got.logprobs) == (["a"], 16, 1, False, False, None)
    assert got.sampling.temperature == 1.0
    assert read().prompts == [""]


def test_prompts() -> None:
    assert read(prompt=["a", ""]).prompts == ["a", ""]
    assert read(prompt=[1, 2]).prompts == [[1, 2]]
    assert read(prompt=[[1, 2], [3]]).prompts == [[1, 2], [3]]
    assert read(prompt=["a", [3]]).prompts == ["a", [3]]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": []}, "a list of 1 to 3"),
    ({"prompt": ["a"] * 4}, "a list of 1 to 3"),
    ({"prompt": {}}, "must be a text"),
    ({"prompt": 7}, "must be a text"),
    ({"prompt": [1.5]}, "1.5 is no token"),
    ({"prompt": [259]}, "259 is no token; they are integers from 0 to 258"),
    ({"prompt": [-1]}, "-1 is no token"),
    ({"prompt": [True]}, "True is no token"),
    ({"prompt": [[]]}, "at least one token"),
    ({"prompt": [[1], 2]}, "must be a text, or a list"),
    ({"max_tokens": 101}, "from 0 to 100"),
    ({"max_tokens": -1}, "from 0 to 100"),
    ({"max_tokens": 5.0}, "must be an integer"),
    ({"max_tokens": "5"}, "must be an integer"),
    ({"max_tokens": 10**4000}, "must be an integer"),
    ({"max_tokens": 0}, "asks for nothing"),
    ({"max_tokens": 0, "logprobs": 1}, "asks for nothing"),
    ({"n": 5}, "from 1 to 4"),
    ({"n": True}, "from 1 to 4"),
    ({"temperature": -1}, "from 0 to 100"),
    ({"temperature": 0.001}, "0, or at least 0.01"),
    ({"temperature": 10**400}, "must be a number"),
    ({"temperature": "hot"}, "must be a number"),
    ({"top_p": 1.1}, "from 0 to 1"),
    ({"seed": 2**63}, "must be an integer"),
    ({"logprobs": 21}, "from 0 to 20"),
    ({"logprobs": True}, "must be an integer"),
    ({"echo": 1}, "true or false"),
    ({"stop": [""]}, "1 to 1000 characters"),
    ({"stop": ["a"] * 17}, "at most 16"),
    ({"stop": [1]}, "must be a string"),
    ({"logit_bias": {"300": 1}}, "no token"),
    ({"logit_bias": {"a": 1}}, "no token"),
    ({"logit_bias": {"5": "x"}}, "must be a number"),
    ({"logit_bias": {"²": 1}}, "no token"),
    ({"stream_options": {"x": 1}}, "include_usage"),
    ({"suffix": "end"}, "suffix"),
    ({"prompt": "a" * 2**20, "echo": True, "logprobs": 1}, "ask for fewer"),
    ({"dry_penalty_last_n": 4096}, "from 2 to 1024"),
    ({"best_of": 3}, "best_of"),
    ({"model": 5}, "must be a string"),
    ({"temprature": 1}, "did you mean 'temperature'"),
    ({"x" * 10**6: 1}, "no field"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(**fields)
    assert len(str(caught.value)) < 400


def test_another_model() -> None:
    with pytest.raises(UnknownModel, match="'small' alone"):
        read(model="large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"a"',
        b"{",
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"max_tokens": 1' + b"0" * 10_000 + b"}",
        b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse(body, "small", 259, LIMITS)
    assert len(str(caught.value)) < 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
NAMES = st.sampled_from([*(next(iter(fields)) for fields, _ in WRONG), "stream", "user"])


@FUZZ
@given(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES)
def test_anything_else_is_read_or_refused(value: Any) -> None:
    try:
        got = parse(json.dumps(value).encode(), "small", 259, LIMITS)
    except InputError:
        return
    assert got.prompts
    assert 0 <= got.longest <= 100
    assert 1 <= got.n <= 4


@settings(parent=FUZZ)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    try:
        parse(body, "small", 259, LIMITS)
    except InputError:
        return
