"""Short sequences: exact attention is what the rules say, and `auto` takes it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops import short_sequences
from reformer.ops.attention import local_attention, lsh_attention


def inputs(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(3, 2, length, 8, generator=generator, dtype=dtype) * 2 for _ in range(3))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def masks(length: int) -> list[dict[str, Tensor]]:
    real = torch.arange(length) < torch.tensor([length, max(length - 4, 0), 0])[:, None]
    documents = (torch.arange(length) // 3).expand(3, -1)
    return [{}, {"key_padding_mask": real}, {"segment_ids": documents}, {"key_padding_mask": real.flip(1)}]


def compare(run: Any, variables: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    """`auto` against the plain backend, and that `auto` was the short way."""
    calls = []
    original = short_sequences.exact_attention
    monkeypatch.setattr(short_sequences, "exact_attention", lambda *a, **k: calls.append(1) or original(*a, **k))
    results = []
    for backend in ("auto", "plain"):
        out = run(backend)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
        results.append((out, *torch.autograd.grad(out, variables, grad)))
    assert len(calls) == 1
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= tolerance


@pytest.mark.parametrize("length", [1, 2, 9, 16])
@pytest.mark.parametrize("causal", [True, False])
def test_exact_is_what_the_rules_say(monkeypatch: pytest.MonkeyPatch, length: int, causal: bool) -> None:
    q, k, v = inputs(length)
    for mask in masks(length):
        for options in (
            {"num_hashes": 3},
            {"duplicates": "once"},
            {"num_buckets": 1, "bucket_size": 2},
            {"successor_values": not causal},
        ):
            settings: dict[str, Any] = {"window": 16, "causal": causal, "seed": 0, **mask, **options}
            compare(lambda b, s=settings: lsh_attention(q, v, backend=b, **s), (q, v), monkeypatch, 1e-12)
        compare(
            lambda b, m=mask: local_attention(q, k, v, window=16, causal=causal, backend=b, **m),
            (q, k, v),
            monkeypatch,
            1e-12,
        )


def test_it_is_left_where_it_is_not_the_same() -> None:
    q, k, v = inputs(17)
    for settings in ({"window": 8}, {"bucket_size": 16, "window": 32}, {"rule": "chunk", "chunk_length": 32}):
        options: dict[str, Any] = {"seed": 0, **settings}
        assert (lsh_attention(q, v, **options) - lsh_attention(q, v, backend="plain", **options)).abs().max() < 1e-10
    assert not torch.equal(
        lsh_attention(q, v, window=64, dropout_p=0.5, seed=0), lsh_attention(q, v, window=64, dropout_p=0.5, seed=0)
    )
    assert (
        local_attention(q, k, v, window=9) - local_attention(q, k, v, window=9, backend="plain")
    ).abs().max() < 1e-10


def test_the_generator_is_read_as_by_other_backends() -> None:
    q, _, v = inputs(9)
    after = []
    for backend in ("auto", "plain"):
        torch.manual_seed(0)
        lsh_attention(q, v, backend=backend)  # type: ignore[arg-type]
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


def test_padding_may_hold_anything() -> None:
    q, k, v = (x.detach() for x in inputs(9))
    real = torch.arange(9) < torch.tensor([9, 5, 0])[:, None]
    poisoned = [x.masked_fill(~real[:, None, :, None], torch.nan) for x in (q, k, v)]
    out = local_attention(*poisoned, window=16, key_padding_mask=real)
    assert out.isfinite().all()
    assert not out[2].any()
    out = lsh_attention(poisoned[0], poisoned[2], window=16, key_padding_mask=real, seed=0)
    assert out.isfinite().all()
