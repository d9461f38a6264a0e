import subprocess
import sys

import pytest
import torch

from reformer.ops import reference
from reformer.ops.hashing import columns_for, derive_seed, draw_rotations, hash_factors, hash_octaves


def test_rotations_depend_on_seed_head_round_and_column_only() -> None:
    full = draw_rotations(7, 3, 4, 10, 40)
    for heads, rounds, columns in ((3, 4, 1), (2, 1, 7), (1, 3, 39)):
        part = draw_rotations(7, heads, rounds, 10, columns)
        assert torch.equal(part, full[:heads, :rounds, :, :columns])
    for width in (10, 7, 16):
        full = draw_rotations(7, 3, 4, width, 40)
        for first in (1, 3, 8, 39):
            assert torch.equal(draw_rotations(7, 3, 4, width, 40, first=first), full[..., first:])
    assert not torch.equal(draw_rotations(8, 3, 4, 16, 40), full)


def test_rotations_are_standard_normal_and_independent() -> None:
    x = draw_rotations(3, 8, 4, 64, 64).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
    flat = x.flatten(0, 1).flatten(1)
    correlation = flat @ flat.T / flat.shape[1] - torch.eye(32)
    assert correlation.abs().max() < 0.08


def test_rotations_never_touch_the_callers_generator() -> None:
    before = torch.get_rng_state()
    draw_rotations(1234, 2, 2, 8, 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_shared_rotations_are_one_set_for_all_heads() -> None:
    x = draw_rotations(5, 4, 2, 8, 6, share=True)
    assert x.shape == (4, 2, 8, 6)
    assert torch.equal(x, x[:1].expand_as(x))


def test_derived_seeds_differ() -> None:
    seeds = {derive_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("factor_from", [1, 2, 8, 256])
@pytest.mark.parametrize("length", [1, 5, 255, 300])
def test_all_octaves_in_one_pass_equal_the_definition(factor_from: int, length: int) -> None:
    q = torch.randn(2, 3, length, 8, dtype=torch.float64)
    octaves = list(range(8))
    columns = columns_for(octaves, factor_from)
    rotations = draw_rotations(1, 3, 2, 8, columns)
    buckets = hash_octaves(q, rotations, octaves, factor_from)
    for k in octaves:
        expected = reference.bucket_of(q, rotations, 2**k, factor_from)
        assert torch.equal(buckets[:, :, :, k].long(), expected)
        assert expected.max() < 2**k


@pytest.mark.parametrize("factors", [[2], [6], [4, 6], [2, 2, 4]])
def test_factors_take_the_next_columns(factors: list[int]) -> None:
    q = torch.randn(2, 3, 70, 8, dtype=torch.float64)
    rotations = draw_rotations(1, 3, 2, 8, sum(factors) // 2 + 3)
    x, expected, first, product = q[:, :, None] @ rotations.double(), 0, 0, 1
    for factor in factors:
        part = x[..., first : first + factor // 2]
        expected = expected + product * torch.cat((part, -part), -1).argmax(-1)
        first, product = first + factor // 2, product * factor
    assert torch.equal(hash_factors(q, rotations, factors).long(), expected)


def test_ties_go_to_the_lowest_index() -> None:
    q = torch.zeros(1, 1, 4, 2)
    q[0, 0, 1] = torch.tensor([1.0, 0.0])
    q[0, 0, 2] = torch.tensor([-1.0, 0.0])
    rotations = torch.tensor([[1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])[None, None]
    # projections of token 1: 1 1 -1 1 and their negatives: the first of the equal maxima is 0; of token 2: 2
    buckets = hash_octaves(q, rotations, [0, 1, 2, 3], 256)[0, 0, 0]
    assert buckets[3].tolist() == [0, 0, 2, 0]
    assert buckets[2].tolist() == [0, 0, 2, 0]
    assert buckets[1].tolist() == [0, 0, 1, 0]
    assert buckets[0].tolist() == [0, 0, 0, 0]


def test_buckets_do_not_depend_on_what_comes_later() -> None:
    """In fp32 too, to the bit: products have the same shape at every length."""
    for seed in range(10):
        torch.manual_seed(seed)
        q = torch.randn(1, 2, 1500, 16)
        rotations = draw_rotations(seed, 2, 2, 16, columns_for(range(9), 256))
        whole = hash_octaves(q, rotations, list(range(9)), 256)
        for length in (1, 2, 17, 255, 256, 257, 700):
            part = hash_octaves(q[:, :, :length].clone(), rotations, list(range(6)), 256)
            assert torch.equal(part, whole[:, :, :, :6, :length]), f"seed {seed}, length {length}"


def test_hash_ignores_autocast_and_matmul_precision() -> None:
    q = torch.randn(1, 2, 600, 16)
    rotations = draw_rotations(0, 2, 2, 16, 32)
    expected = hash_octaves(q, rotations, [3, 6], 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hash_octaves(q, rotations, [3, 6], 256), expected)
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        assert torch.equal(hash_octaves(q, rotations, [3, 6], 256), expected)
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before


@pytest.mark.slow
def test_hash_after_the_legacy_setting() -> None:
    code = (
        "import torch; torch.set_float32_matmul_precision('high'); from reformer import lsh_attention; "
        "q = torch.randn(1, 1, 9, 4); lsh_attention(q, q); "
        "assert torch.get_float32_matmul_precision() == 'high'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
