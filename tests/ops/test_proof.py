"""On a GPU `auto` takes kernels that have shown there that they are right, and no others."""

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops import backends
from reformer.ops.backends import choose_backend
from reformer.ops.cpu import backend as numba
from reformer.ops.plain import backend as plain
from reformer.ops.proof import why_not
from reformer.ops.spec import LSH

CPU = torch.device("cpu")
SPEC = LSH()


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.5


def stand_in(lsh: Any = plain.lsh, local: Any = plain.local) -> Any:
    return SimpleNamespace(lsh=lsh, local=local)


def two_sided_only(wrong: Any) -> Any:
    """Wrong in one case of several."""
    return lambda *given: plain.lsh(*given) if given[-2].causal else wrong(*given)


LIARS = {
    "values": stand_in(lambda *given: plain.lsh(*given) * 1.3),
    "gradients": stand_in(lambda *given: _WrongGradient.apply(plain.lsh(*given))),
    "NaN": stand_in(lambda *given: plain.lsh(*given) / 0),
    "own values": stand_in(
        lambda *given: plain.lsh(*given[:-2], replace(given[-2], successor_values=False), given[-1])
    ),
    "one case": stand_in(two_sided_only(lambda *given: plain.lsh(*given) + 1)),
    "local": stand_in(local=lambda *given: plain.local(*given) + 0.5),
    "error": stand_in(lambda *given: 1 / 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_right_is_found_right(dtype: torch.dtype) -> None:
    assert why_not(numba, CPU, dtype) == ""
    assert why_not(plain, CPU, dtype) == ""


@pytest.mark.parametrize("liar", LIARS)
def test_auto_is_plain_where_kernels_lie(
    liar: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    q: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32, shape=(1, 1, 8, 8))
    doubts: dict[Any, str] = {}
    monkeypatch.setattr(backends, "_doubts", doubts)
    monkeypatch.setattr(backends, "_gpu_backend", lambda: LIARS[liar])
    monkeypatch.setattr(backends, "capturing", lambda _: False)
    monkeypatch.setattr(backends, "why_not", lambda backend, device, dtype: why_not(backend, CPU, dtype))
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto", q, SPEC) is plain
        assert choose_backend("auto", q, SPEC) is plain
    assert len(caplog.records) == 1
    assert "falls back to the slower plain backend" in caplog.text
    assert choose_backend("triton", q, SPEC) is LIARS[liar]  # who names it gets it


def test_auto_takes_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    q: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.bfloat16, shape=(1, 1, 8, 8))
    calls: list[int] = []
    monkeypatch.setattr(backends, "_doubts", {})
    monkeypatch.setattr(backends, "_gpu_backend", lambda: numba)
    monkeypatch.setattr(backends, "capturing", lambda _: False)

    def compare(backend: Any, device: Any, dtype: torch.dtype) -> str:
        calls.append(1)
        return why_not(backend, CPU, dtype)

    monkeypatch.setattr(backends, "why_not", compare)
    assert choose_backend("auto", q, SPEC) is numba
    assert choose_backend("auto", q, SPEC) is numba
    assert len(calls) == 1
    monkeypatch.setattr(backends, "_doubts", {})
    monkeypatch.setattr(backends, "capturing", lambda _: True)
    with pytest.raises(ValueError, match="run the step once before"):
        choose_backend("auto", q, SPEC)


def test_it_leaves_the_caller_s_state_alone() -> None:
    """Hooks on what is saved, inference mode, autocast, torch's generator."""
    before, packed = torch.get_rng_state(), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(1) or x, lambda x: x),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        assert why_not(plain, CPU, torch.float32) == ""
    assert not packed
    assert torch.equal(torch.get_rng_state(), before)
