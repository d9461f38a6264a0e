"""The plain backend against the dense reference, values and gradients."""

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import lsh_attention
from reformer.ops.hashing import draw_rotations
from reformer.ops.plain import core
from reformer.ops.reference import lsh_attention_reference

ROTATIONS = 300
ROUNDS = (1, 2, 4, 8)


def inputs(b: int, h: int, length: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(b, h, length, d, dtype=dtype), torch.randn(b, h, length, d, dtype=dtype)


def masks(kind: str, b: int, length: int) -> dict[str, Tensor]:
    found = {}
    if "padding" in kind:
        found["key_padding_mask"] = torch.rand(b, length) < 0.75
        found["key_padding_mask"][0, : length // 4] = False
        if b > 1:
            found["key_padding_mask"][1] = length % 2 == 0  # sometimes a row without any token
    if "documents" in kind:
        found["segment_ids"] = (torch.rand(b, length) < 0.06).long().cumsum(1)
    return found


def compare(q: Tensor, v: Tensor, rounds: int, seed: int, **options: Any) -> float:
    """The largest error of outputs and gradients."""
    if (mask := options.get("key_padding_mask")) is not None:
        q, v = q.clone(), v.clone()
        q[~mask[:, None].expand(q.shape[:3])] = torch.nan  # what stands in padding is nobody's business
        v[~mask[:, None].expand(q.shape[:3])] = torch.inf
    rotations = draw_rotations(seed, q.shape[1], rounds, q.shape[3], ROTATIONS)
    q, v = q.requires_grad_(), v.requires_grad_()
    out = lsh_attention(q, v, num_hashes=rounds, rotations=rotations, **options)
    expected = lsh_attention_reference(q, v, rotations, **options)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad(out, (q, v), weight)
    expected_grads = torch.autograd.grad(expected, (q, v), weight)
    errors = [(a - b).detach().abs().max() for a, b in zip((out, *grads), (expected, *expected_grads), strict=True)]
    return float(torch.stack(errors).amax())  # NaN stays NaN, which Python's `max` may lose


RULES: list[dict[str, Any]] = [
    *({"rule": "bucket", "window": 8, "num_buckets": n, "factor_from": 4} for n in (None, 8)),
    {"rule": "bucket", "window": 5, "bucket_size": 12},
    {"rule": "bucket", "window": 5, "bucket_size": 3, "num_buckets": 1},
    {"rule": "chunk", "chunk_length": 8, "num_buckets": 6},
    {"rule": "chunk", "chunk_length": 5, "num_buckets": [2, 4], "chunks_before": 2, "chunks_after": 1},
]
RULES += [{**RULES[i], "successor_values": value} for i in (1, 4) for value in (True, False)]


@pytest.mark.parametrize("kind", ["plain", "padding", "documents", "padding and documents"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_plain_equals_reference(rule: dict[str, Any], causal: bool, kind: str) -> None:
    lengths = (1, 2, 3, 7, 8, 9, 16, 31, 64, 65, 100, 129)
    for seed, (length, rounds) in enumerate(itertools.product(lengths, ROUNDS)):
        torch.manual_seed(seed)
        q, v = inputs(2, 2, length, 6)
        error = compare(q, v, rounds, seed, causal=causal, **rule, **masks(kind, 2, length))
        assert error < 1e-10, f"seed {seed}, length {length}, {rounds} rounds: {error}"


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_long_lengths(rule: dict[str, Any], rounds: int) -> None:
    for length, causal in ((257, True), (600, True), (511, False)):
        q, v = inputs(1, 1, length, 8)
        error = compare(q, v, rounds, rounds, causal=causal, **rule, **masks("padding and documents", 1, length))
        assert error < 1e-10


def test_many_random_settings() -> None:
    for seed in range(150):
        rnd = random.Random(seed)
        torch.manual_seed(seed)
        rule = rnd.choice(["bucket", "chunk"])
        of_rule = {
            "bucket": {
                "window": rnd.choice([1, 3, 8, 40]),
                "bucket_size": rnd.choice([None, 1, 2, 4, 16]),
                "factor_from": rnd.choice([256, 1, 2, 8]),
            },
            "chunk": {
                "chunk_length": rnd.choice([1, 3, 8]),
                "chunks_before": rnd.choice([0, 1, 2]),
                "chunks_after": rnd.choice([0, 1]),
            },
        }
        options: dict[str, Any] = {
            "rule": rule,
            **of_rule[rule],
            "causal": rnd.random() < 0.6,
            "duplicates": rnd.choice(["count", "once"]),
            "scale": rnd.choice([1.0, 0.5, -2.0]),
            "successor_values": rnd.choice([None, True, False]),
            "num_buckets": rnd.choice([None, 1, 4, 16]) if rule == "bucket" else rnd.choice([2, 6, [2, 4]]),
        }
        length = rnd.choice([1, 2, 3, 17, 40, 97])
        kind = rnd.choice(["plain", "padding", "documents", "padding and documents"])
        q, v = inputs(2, 2, length, rnd.choice([4, 7]))
        error = compare(q * rnd.choice([1, 1, 60]), v, rnd.choice([1, 2, 4]), seed, **options, **masks(kind, 2, length))
        assert error < 1e-10, f"seed {seed}: {options} {error}"


@pytest.mark.parametrize("duplicates", ["count", "once"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dropout_equals_reference_with_the_same_mask(rule: dict[str, Any], duplicates: str) -> None:
    for length, rounds in ((33, 1), (90, 4)):
        q, v = inputs(2, 2, length, 6)
        rotations = draw_rotations(0, 2, rounds, 6, ROTATIONS)
        q, v = q.requires_grad_(), v.requires_grad_()
        options = {**rule, "duplicates": duplicates, "dropout_p": 0.3, "dropout_seed": 987654321987}
        out = lsh_attention(q, v, num_hashes=rounds, rotations=rotations, **options)
        expected = lsh_attention_reference(q, v, rotations, **options)
        weight = torch.randn_like(out)
        for a, b in zip(
            (out, *torch.autograd.grad(out, (q, v), weight)),
            (expected, *torch.autograd.grad(expected, (q, v), weight)),
            strict=True,
        ):
            assert (a - b).abs().max() < 1e-10


def test_dropout_keeps_the_mean_and_drops_that_share() -> None:
    q, v = torch.randn(1, 2, 300, 8), torch.ones(1, 2, 300, 8)
    draws = torch.stack([lsh_attention(q, v, seed=0, dropout_p=0.25, window=16) for _ in range(200)])
    assert (draws[:, :, :, 50:].mean() - 1).abs() < 0.005
    assert draws[:, :, :, 50:].std() > 0.05
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [150, pytest.param(21, marks=pytest.mark.slow)])
@pytest.mark.parametrize("duplicates", ["count", "once"])
def test_lower_precision_on_identical_buckets(
    rule: dict[str, Any], dtype: torch.dtype, causal: bool, length: int, duplicates: str
) -> None:
    """Inputs are rounded first, so that buckets agree; the reference computes in fp64 from there."""
    q, v = (x.to(dtype) for x in inputs(2, 2, length, 16, torch.float32))
    rotations = draw_rotations(0, 2, 4, 16, ROTATIONS)
    options = {**rule, "causal": causal, "duplicates": duplicates, **masks("padding and documents", 2, length)}
    q, v = q.requires_grad_(), v.requires_grad_()
    out = lsh_attention(q, v, num_hashes=4, rotations=rotations, **options)
    wide_q, wide_v = (x.detach().double().requires_grad_() for x in (q, v))
    expected = lsh_attention_reference(wide_q, wide_v, rotations, **options)
    weight = torch.randn_like(expected).to(dtype)
    grads = torch.autograd.grad(out, (q, v), weight)
    expected_grads = torch.autograd.grad(expected, (wide_q, wide_v), weight.double())
    tolerance = (16 if dtype == torch.float32 else 4) * torch.finfo(dtype).eps
    assert out.dtype == dtype
    for a, b in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert (a.double() - b).abs().max() < tolerance * max(1.0, float(b.detach().abs().max()))


def test_large_norms_take_the_maximum() -> None:
    """exp(-2 * scale * |q|) underflows in fp32; the softmax stays exact."""
    q, v = inputs(1, 2, 120, 8, torch.float32)
    for factor in (1.0, 30.0, 1000.0):
        big = q * factor
        rotations = draw_rotations(0, 2, 4, 8, ROTATIONS)
        found, expected = [], []
        for into, f, dtype in ((found, lsh_attention, q.dtype), (expected, lsh_attention_reference, torch.float64)):
            inputs_of = [x.detach().to(dtype).requires_grad_() for x in (big, v)]
            given = {"rotations": rotations, "num_hashes": 4} if f is lsh_attention else {"rotations": rotations}
            out = f(*inputs_of, window=16, **given)
            into += [out, *torch.autograd.grad(out.sum(), inputs_of)]
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() < 1e-3 * max(1.0, float(b.detach().abs().max()))
    lengths = torch.linspace(0, 200, 120)[:, None]  # both kinds in one call
    mixed = torch.nn.functional.normalize(q, dim=-1) * lengths
    out = lsh_attention(mixed, v, num_hashes=4, rotations=rotations, window=16)
    expected = lsh_attention_reference(mixed.double(), v.double(), rotations, window=16)
    assert (out - expected).abs().max() < 1e-4


def test_all_tokens_equal() -> None:
    q = torch.ones(1, 2, 80, 4, dtype=torch.float64)
    assert compare(q, torch.randn_like(q), 3, 0, window=8) < 1e-10


@pytest.mark.parametrize("backend", ["plain"], indirect=True)
def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    q, v = inputs(3, 2, 300, 8)
    whole = lsh_attention(q, v, seed=0, window=8, dropout_p=0.0)
    for piece in (1, 10_000, 100_000):
        monkeypatch.setattr(core, "PIECE", piece)
        assert (lsh_attention(q, v, seed=0, window=8) - whole).abs().max() < 1e-14


@pytest.mark.parametrize("backend", ["plain"], indirect=True)
def test_nothing_the_size_of_the_square_is_made() -> None:
    """Every tensor that the operation makes stays far below [l, l] (kernels hold tiles: `benchmarks/attention.py`)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, Tensor):
                    largest = max(largest, x.untyped_storage().nbytes() // x.element_size())
            return out

    length = 8192
    q, v = (torch.randn(1, 1, length, 8, requires_grad=True) for _ in range(2))
    for rule in ("bucket", "chunk"):
        with Watch():
            lsh_attention(q, v, rule=rule, num_hashes=2, seed=0).sum().backward()
    assert largest < length**2 / 16


def test_seeds_and_generators() -> None:
    q, v = inputs(1, 2, 200, 8)
    one = lsh_attention(q, v, seed=5, window=8)
    before = torch.get_rng_state()
    assert torch.equal(lsh_attention(q, v, seed=5, window=8), one)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    drawn = lsh_attention(q, v, window=8)
    torch.manual_seed(3)
    assert torch.equal(lsh_attention(q, v, window=8), drawn)
    assert not torch.equal(lsh_attention(q, v, window=8), drawn)


def test_extreme_settings_mean_what_they_say() -> None:
    q, v = inputs(1, 1, 60, 8)
    everything = lsh_attention(q, v, seed=2, window=60)
    assert torch.equal(lsh_attention(q, v, seed=2, window=2**63 - 1), everything)
    assert lsh_attention(q, v, seed=2**64 - 1, window=4).isfinite().all()
    assert lsh_attention(q, v, seed=-5, window=4).isfinite().all()


def test_more_columns_are_ignored_and_too_few_are_refused() -> None:
    q, v = inputs(1, 1, 200, 8)
    rotations = draw_rotations(0, 1, 2, 8, 64)
    out = lsh_attention(q, v, num_hashes=2, rotations=rotations, window=8)  # at 200 tokens: 32 buckets
    assert torch.equal(lsh_attention(q, v, num_hashes=2, rotations=rotations[..., :16], window=8), out)
    with pytest.raises(ValueError, match="rotations have 15 columns; the largest number of buckets here needs 16"):
        lsh_attention(q, v, num_hashes=2, rotations=rotations[..., :15], window=8)


def test_first_tokens_have_exact_attention() -> None:
    """The first min(c, w) tokens see all that came before them."""
    q, v = inputs(1, 2, 16, 8)
    out = lsh_attention(q, v, num_hashes=3, seed=0, window=16, duplicates="once", successor_values=False)
    keys = q / (q.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() / 8**0.5
    logits = (q @ keys.transpose(-1, -2)).masked_fill(~torch.ones(16, 16).tril(-1).bool(), -torch.inf)
    expected = torch.cat((torch.zeros_like(v[:, :, :1]), logits[:, :, 1:].softmax(-1) @ v), 2)
    assert (out - expected).abs().max() < 1e-12


def test_empty_sequences_and_batches() -> None:
    for shape in ((2, 2, 0, 4), (0, 2, 5, 4)):
        q = torch.randn(shape, requires_grad=True)
        out = lsh_attention(q, q * 1.0, seed=0)
        out.sum().backward()
        assert out.shape == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 must be an integer of at least 1"),
        ({"num_hashes": 0}, "num_hashes=0 must be"),
        ({"num_buckets": 12}, "num_buckets=12: with rule='bucket' it is the most buckets, a power of two"),
        ({"rule": "chunk", "num_buckets": 3}, "num_buckets=3: with rule='chunk' it is an even number"),
        ({"rule": "chunk", "chunk_length": 0}, "chunk_length=0"),
        ({"rule": "buckets"}, "did you mean 'bucket'"),
        ({"duplicates": "twice"}, "duplicates='twice' is none of count, once"),
        ({"dropout_p": 1.0}, "dropout_p=1.0"),
        ({"successor_values": "yes"}, "successor_values='yes' must be True, False or None"),
        ({"factor_from": 0}, "factor_from=0 must be an integer of at least 1"),
        ({"rule": "chunk", "num_buckets": [4096, 4096]}, "makes 16,777,216 buckets; there may be 1,048,576"),
        ({"backend": "magic"}, "backend='magic' is none of auto, plain, numba"),
        ({"seed": 1, "rotations": torch.zeros(1, 4, 4, 2)}, "rotations and seed are both given"),
        ({"rotations": torch.zeros(1, 2, 4, 2)}, r"rotations have shape \[1, 2, 4, 2\]; they must be"),
        ({"key_padding_mask": torch.ones(1, 3)}, "key_padding_mask has shape"),
        ({"segment_ids": torch.tensor([[2, 1, 1, 1]])}, "segment_ids fall from 2 to 1"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    q = torch.randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match=message):
        lsh_attention(q, q, **options)


def test_bad_tensors() -> None:
    with pytest.raises(ValueError, match=r"both must be \[b, h, l, d\] alike"):
        lsh_attention(torch.randn(1, 4, 4), torch.randn(1, 4, 4))
    with pytest.raises(ValueError, match="floating-point"):
        lsh_attention(torch.ones(1, 1, 4, 4, dtype=torch.long), torch.ones(1, 1, 4, 4, dtype=torch.long))


def test_automatic_buckets_of_the_chunk_rule() -> None:
    q, v = inputs(1, 1, 200, 8)
    out = lsh_attention(q, v, rule="chunk", chunk_length=16, seed=0)  # 2 * (200 // 16) = 24: 16 buckets
    assert torch.equal(out, lsh_attention(q, v, rule="chunk", chunk_length=16, num_buckets=16, seed=0))
