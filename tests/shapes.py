"""Annotated shapes and types of tensors, checked in what a call accepted: `REFORMER_CHECK_SHAPES=1 pytest`.

What is refused with an InputError need not fit its annotation. Kernels are left out, whose compilers read the functions
themselves, and so is what is compiled by `torch.compile`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from jaxtyping import install_import_hook

from reformer.errors import InputError

CHECKED = [
    *("reformer.layers", "reformer.ops.attention", "reformer.ops.convolution", "reformer.ops.shift"),
    *(f"reformer.models.{name}" for name in ("causal_lm", "embeddings", "encoder_decoder", "heads", "loss", "model")),
    *("reformer.ops.exact_attention", "reformer.ops.hashing", "reformer.ops.neighbourhoods", "reformer.ops.plain"),
    *("reformer.ops.ranks", "reformer.ops.reference", "reformer.ops.rings", "reformer.ops.sequences"),
    *("reformer.ops.short_sequences", "reformer.keras"),
]

violations: list[str] = []


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Note what does not fit the annotations of a function."""
    from beartype import beartype
    from beartype.roar import BeartypeCallHintViolation

    checked = beartype(function)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return checked(*arguments, **options)
        except BeartypeCallHintViolation as error:
            violations.append(" ".join(str(error).split())[:1000])
            return function(*arguments, **options)

    return call


def install() -> None:
    """Check all that is imported from here on."""
    install_import_hook(CHECKED, "tests.shapes.check")
    InputError.__init__ = refuse  # type: ignore[method-assign]


def refuse(self: InputError, *arguments: Any) -> None:
    """What an InputError does while shapes are checked: what it refuses is forgotten."""
    violations.clear()
    ValueError.__init__(self, *arguments)


@pytest.fixture(autouse=True)
def shapes_fit() -> Any:
    """Fails a test in which something accepted did not fit."""
    violations.clear()
    yield
    assert not violations, f"{len(violations)} did not fit, the first of them: {violations[0]}"
