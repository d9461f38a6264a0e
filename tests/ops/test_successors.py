"""What a pair delivers: the value of the token behind its key, by rank; and nothing to a token without a pair."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import lsh_attention
from reformer.ops.hashing import draw_rotations
from reformer.ops.reference import lsh_attention_reference
from reformer.ops.sequences import Sequences
from reformer.ops.shift import shift

LENGTHS = (1, 2, 7, 40)


def masks(kind: str, length: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    if "padding" in kind:
        found["key_padding_mask"] = torch.rand(2, length, generator=generator) < 0.6
        found["key_padding_mask"][1, : length // 3] = False
    if "documents" in kind:
        found["segment_ids"] = (torch.rand(2, length, generator=generator) < 0.3).long().cumsum(1)  # many of one token
    return found


def beside(t: int, row: int, offset: int, length: int, given: dict[str, Tensor]) -> int | None:
    """The slot `offset` ranks behind slot t in its document, found by walking."""
    mask, segments = given.get("key_padding_mask"), given.get("segment_ids")
    real = [s for s in range(length) if mask is None or mask[row, s]]
    if t not in real:
        return None
    place = real.index(t) + offset
    if not 0 <= place < len(real):
        return None
    other = real[place]
    return None if segments is not None and segments[row, t] != segments[row, other] else other


@pytest.mark.parametrize("kind", ["plain", "padding", "documents", "padding and documents"])
@pytest.mark.parametrize("offset", [1, -1, 3, -2])
def test_shifts_go_by_rank(kind: str, offset: int) -> None:
    for seed, length in enumerate(LENGTHS):
        given = masks(kind, length, seed)
        x = torch.randn(2, 3, length, 4, dtype=torch.float64)
        if "key_padding_mask" in given:
            x = x.masked_fill(~given["key_padding_mask"][:, None, :, None], torch.nan)
        x.requires_grad_()
        out = shift(x, offset, Sequences.of(x, **given))
        grad = torch.randn_like(out)
        (dx,) = torch.autograd.grad(out, x, grad)
        wanted, wanted_dx = torch.zeros_like(out), torch.zeros_like(dx)
        for row in range(2):
            for t in range(length):
                other = beside(t, row, offset, length, given)
                if other is not None:
                    wanted[row, :, t] = x[row, :, other].detach()
                    wanted_dx[row, :, other] = grad[row, :, t]
        assert torch.equal(out, wanted)
        assert torch.equal(dx, wanted_dx)


def settings(rule: str, **more: Any) -> dict[str, Any]:
    if rule == "bucket":
        return {"window": 5, "num_hashes": 2, **more}
    return {"rule": "chunk", "chunk_length": 4, "num_buckets": 4, "num_hashes": 2, **more}


@pytest.mark.parametrize("successor_values", [True, False, None])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rule", ["bucket", "chunk"])
@pytest.mark.parametrize("kind", ["plain", "padding", "documents", "padding and documents"])
def test_equals_the_reference(rule: str, causal: bool, successor_values: bool | None, kind: str) -> None:
    for seed, length in enumerate(LENGTHS):
        for more in ({}, {"duplicates": "once"}, {"dropout_p": 0.3}):
            torch.manual_seed(seed)
            given = masks(kind, length, seed)
            q, v = (torch.randn(2, 2, length, 6, dtype=torch.float64) for _ in range(2))
            if "key_padding_mask" in given:
                q, v = (x.masked_fill(~given["key_padding_mask"][:, None, :, None], torch.nan) for x in (q, v))
            q, v = q.requires_grad_(), v.requires_grad_()
            options = settings(rule, causal=causal, successor_values=successor_values, **more, **given)
            drawn = draw_rotations(seed, 2, 2, 6, 64)
            torch.manual_seed(1)
            out = lsh_attention(q, v, rotations=drawn, **options)
            if "dropout_p" in more:
                torch.manual_seed(1)
                options["dropout_seed"] = int(torch.randint(0, 1 << 62, ()))
            del options["num_hashes"]
            expected = lsh_attention_reference(q, v, drawn, **options)
            grad = torch.randn_like(out)
            found, wanted = (torch.autograd.grad(x, (q, v), grad) for x in (out, expected))
            for a, b in zip((out, *found), (expected, *wanted), strict=True):
                assert (a - b).abs().max() < 1e-10, f"length {length}, {more}"


@pytest.mark.parametrize("successor_values", [True, False])
@pytest.mark.parametrize("length", [1, 30])
def test_a_token_without_a_pair_gets_nothing(successor_values: bool, length: int) -> None:
    """Here each is the first of its document, or alone in its bucket's window."""
    q, v = (torch.randn(1, 1, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    options = settings("bucket", successor_values=successor_values, seed=0, segment_ids=torch.arange(length)[None])
    out = lsh_attention(q, v, **options)
    assert not out.any()
    for gradient in torch.autograd.grad(out, (q, v), torch.randn_like(out)):
        assert not gradient.any()


def test_only_chunks_with_own_values_keep_the_token_s_own() -> None:
    q, v = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4, requires_grad=True)
    out = lsh_attention(q, v, seed=0, **settings("chunk", successor_values=False))
    assert torch.equal(out, v)
    assert torch.equal(torch.autograd.grad(out.sum(), v)[0], torch.ones_like(v))
    assert not lsh_attention(q, v, seed=0, **settings("chunk")).any()


def test_the_first_value_of_a_document_has_a_gradient_of_zero_and_the_last_one_is_delivered() -> None:
    q = torch.ones(1, 1, 6, 4)  # all alike, so that each sees all before it
    v = torch.randn(1, 1, 6, 4, requires_grad=True)
    out = lsh_attention(q, v, window=64, num_hashes=1, seed=0)
    for t in range(1, 6):
        assert torch.allclose(out[0, 0, t], v[0, 0, 1 : t + 1].mean(0), atol=1e-6)
    (gradient,) = torch.autograd.grad(out.sum(), v)
    assert not gradient[0, 0, 0].any()
    assert gradient[0, 0, 1:].all()
