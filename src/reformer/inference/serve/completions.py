"""OpenAI's completions, as bytes come in and as they go out."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from reprlib import Repr
from typing import Any

from reformer.errors import InputError
from reformer.inference.sampling import Sampling
from reformer.ops.checks import nearest
from reformer.settings.serving import ServerSettings

MOST_LOGPROBS = 20
MOST_STOPS, LONGEST_STOP = 16, 1000
MOST_BIASED = 1024

MOST_TOLD = 1 << 20
"""Log-probabilities in a response, some 80 bytes of JSON each."""
MOST_ANSWERS = 128

IGNORED = ("user", "best_of", "suffix")
"""What may be given, though nothing or one value only is to be had."""


@dataclass(frozen=True)
class Completions:
    """A request, all of whose values are possible ones."""

    prompts: list[str | list[int]]
    sampling: Sampling
    stop: tuple[str, ...]
    longest: int
    n: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool


def parse(body: bytes, model: str, vocabulary: int, limits: ServerSettings) -> Completions:
    """The request in a body. Raises InputError that names the field, the value and the limit."""
    given = _object(body)
    known = [*_FIELDS, *IGNORED]
    for name in given:
        if name not in known:
            raise InputError(f"{_short(name)} is no field of a completion{nearest(name[:40], known)}")
    values = {name: read(given.get(name), name) for name, read in _readers(vocabulary, limits).items()}
    if values["model"] not in (None, model):
        raise UnknownModel(f"model={_short(values['model'])}: this server has {model!r} alone")
    if given.get("suffix") not in (None, ""):
        raise InputError("suffix: text that follows is not known to this model; leave it out")
    n = values["n"]
    if given.get("best_of") not in (None, n):
        raise InputError(f"best_of={_short(given['best_of'])} is not supported beside n={n}; leave it out")
    sampled = {field.name for field in fields(Sampling)} - {"stop"}
    sampling = {name: values[name] for name in sampled if values[name] is not None}
    _bound(values)
    if not values["max_tokens"] and not values["echo"]:
        raise InputError("max_tokens=0 asks for nothing; with echo it gives the prompt back")
    return Completions(
        values["prompt"],
        Sampling(**sampling),
        values["stop"],
        values["max_tokens"],
        n,
        values["logprobs"],
        values["echo"],
        values["stream"],
        values["stream_options"],
    )


def _bound(values: Mapping[str, Any]) -> None:
    """InputError for a request whose answer would be too large to be made, or to be kept until it is whole."""
    answers = len(values["prompt"]) * values["n"]
    told = answers * values["max_tokens"]
    if values["echo"] and values["logprobs"] is not None:
        told += sum(map(len, values["prompt"]))
    if values["logprobs"] is not None and told * (values["logprobs"] + 1) > MOST_TOLD:
        raise InputError(
            f"logprobs={values['logprobs']} of {told:,} tokens are too many at a time: logprobs + 1 times tokens may "
            f"be {MOST_TOLD:,}; ask for fewer"
        )
    if answers > MOST_ANSWERS:
        raise InputError(f"{len(values['prompt'])} prompts times n={values['n']} are over {MOST_ANSWERS} answers")


class UnknownModel(InputError):
    """The request is for a model that is not here."""


def _object(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        given = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"the body is no JSON that can be read: {reason[:200]}") from None
    if not isinstance(given, dict):
        raise InputError(f"the body is a {type(given).__name__}; it must be a JSON object")
    return given


Reader = Callable[[Any, str], Any]


def _readers(vocabulary: int, limits: ServerSettings) -> Mapping[str, Reader]:
    """How each field is read; None is a field that is not there."""
    none = None
    return {
        "model": _text,
        "prompt": lambda value, name: _prompts(value, vocabulary, limits),
        "max_tokens": _integer(0, limits.max_tokens, min(16, limits.max_tokens)),
        "n": _integer(1, limits.rows, 1),
        "logprobs": _integer(0, MOST_LOGPROBS, none),
        "echo": _boolean,
        "stream": _boolean,
        "stream_options": _include_usage,
        "stop": _stops,
        "seed": _integer(0, 2**63 - 1, none),
        "temperature": _number(0, 100, 1.0, least_above_zero=0.01),
        "top_p": _number(0, 1, none),
        "top_k": _integer(1, 2**31, none),
        "min_p": _number(0, 1, none),
        "repetition_penalty": _number(0.01, 100, none),
        "presence_penalty": _number(-100, 100, 0.0),
        "frequency_penalty": _number(-100, 100, 0.0),
        "logit_bias": lambda value, name: _bias(value, vocabulary),
        "dry_multiplier": _number(0, 1e4, none),
        "dry_base": _number(1, 1e4, none),
        "dry_allowed_length": _integer(1, 64, none),
        "dry_penalty_last_n": _integer(2, 1024, none),
    }


def _integer(least: int, most: int, default: int | None) -> Reader:
    def read(value: Any, name: str) -> int | None:
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InputError(f"{name}={_short(value)} must be an integer from {least} to {most}")
        return value

    return read


def _number(least: float, most: float, default: float | None, *, least_above_zero: float = 0.0) -> Reader:
    def read(value: Any, name: str) -> float | None:
        if value is None:
            return default
        possible = isinstance(value, int | float) and not isinstance(value, bool)
        if not possible or not _finite(value) or not least <= value <= most:
            raise InputError(f"{name}={_short(value)} must be a number from {least} to {most}")
        if 0 < value < least_above_zero:
            raise InputError(f"{name}={_short(value)} must be 0, or at least {least_above_zero}")
        return float(value)

    return read


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}={_short(value)} must be a string")
    return value


def _boolean(value: Any, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name}={_short(value)} must be true or false")
    return bool(value)


def _include_usage(value: Any, name: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict) or set(value) - {"include_usage", "include_obfuscation"}:
        raise InputError(f"{name}={_short(value)} must be an object with include_usage")
    return _boolean(value.get("include_usage"), "include_usage")


def _stops(value: Any, name: str) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise InputError(f"{name}={_short(value)} must be a string, or a list of at most {MOST_STOPS}")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= LONGEST_STOP:
            raise InputError(f"{name}={_short(stop)} must be a string of 1 to {LONGEST_STOP} characters")
    return tuple(stops)


def _bias(value: Any, vocabulary: int) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_BIASED:
        raise InputError(f"logit_bias={_short(value)} must be an object of at most {MOST_BIASED} tokens")
    biases, number = {}, _number(-100, 100, 0.0)
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < vocabulary):
            raise InputError(f"logit_bias: {_short(token)} is no token; there are {vocabulary}")
        biases[int(token)] = number(bias, f"logit_bias of {token}")
    return biases


def _prompts(value: Any, vocabulary: int, limits: ServerSettings) -> list[str | list[int]]:
    """A text, a list of texts, tokens, or a list of those."""
    value = "" if value is None else value
    one = isinstance(value, str) or (isinstance(value, list) and bool(value) and not isinstance(value[0], str | list))
    prompts = [value] if one else value
    if not isinstance(prompts, list) or not 0 < len(prompts) <= limits.max_prompts:
        raise InputError(
            f"prompt={_short(value)} must be a text, tokens, or a list of 1 to {limits.max_prompts} of them"
        )
    for prompt in prompts:
        if isinstance(prompt, str):
            continue
        if not isinstance(prompt, list) or not prompt:
            raise InputError(f"prompt={_short(prompt)} must be a text, or a list of at least one token")
        for token in prompt:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocabulary:
                raise InputError(f"prompt: {_short(token)} is no token; they are integers from 0 to {vocabulary - 1}")
    return prompts


_REPR = Repr()  # reads no more of a value than it shows
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 80, 80, 80
_FIELDS = tuple(_readers(1, ServerSettings()))


def _short(value: Any) -> str:
    """A value as messages show it."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"


def error_body(message: str, kind: str, code: str | None = None) -> bytes:
    """An error as clients of OpenAI's interface read it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def choice(index: int, text: str, told: Sequence[Any], finish: str | None, *, logprobs: bool) -> dict[str, Any]:
    """A choice, or what came to one; `told` are `TokenLogprob`."""
    return {
        "index": index,
        "text": text,
        "logprobs": {
            "tokens": [one.token for one in told],
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [one.top or None for one in told],
            "text_offset": [one.offset for one in told],
        }
        if logprobs
        else None,
        "finish_reason": finish,
    }


def usage(prompt: int, known: int, new: int) -> dict[str, Any]:
    """Tokens of a request."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": known},
    }
