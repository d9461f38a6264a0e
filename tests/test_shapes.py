"""The check of shapes sees what does not fit, and forgives what is refused."""

import pytest
import torch
from jaxtyping import Float, jaxtyped
from torch import Tensor

from reformer.errors import InputError
from tests import shapes


def test_the_check_sees_what_does_not_fit() -> None:
    @jaxtyped(typechecker=shapes.check)
    def add(a: Float[Tensor, "b l"], b: Float[Tensor, "#b l"]) -> Float[Tensor, "b l"]:
        return a + b

    shapes.violations.clear()
    add(torch.ones(2, 3), torch.ones(1, 3))
    assert not shapes.violations
    for wrong in (torch.ones(3), torch.ones(2, 3, dtype=torch.int64)):
        add(torch.ones(2, 3), wrong)
        assert "parameter b" in shapes.violations[0]
        shapes.violations.clear()


def test_what_is_refused_need_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InputError, "__init__", shapes.refuse)
    shapes.violations.append("x")
    InputError("no")
    assert not shapes.violations
