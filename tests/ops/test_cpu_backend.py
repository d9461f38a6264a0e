"""What is particular to the compiled CPU kernels; the other tests of this folder run on them too."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reformer.ops import backends
from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.cpu import backend as cpu
from reformer.ops.cpu import kernels, tasks
from reformer.ops.cpu.jit import VECTOR_BYTES
from reformer.ops.cpu.products import multiply, transpose
from reformer.ops.cpu.rows import KEYS
from reformer.ops.cpu.schedule import schedule_runs
from reformer.ops.cpu.simd import exp, lanes
from reformer.ops.flat import flatten
from reformer.ops.hashing import Rotations, columns_for, draw_rotations, hash_octaves
from reformer.ops.neighbourhoods import octave_rows, row_buckets
from reformer.ops.ranks import compute_ranks
from reformer.ops.reference import lsh_attention_reference
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves


@pytest.fixture(autouse=True)
def backend() -> str:
    """These tests name the backend themselves."""
    return "numba"


def gradients(q: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    q, v = q.detach().requires_grad_(), v.detach().requires_grad_()
    out = lsh_attention(q, v, backend="numba", **options)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), (q, v))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vector_code(dtype: Any) -> None:
    n, rng = int(lanes(np.empty(0, dtype))), np.random.default_rng(0)
    for rows, terms, vectors in ((4, 1, 1), (8, 7, 2), (12, 20, 3), (4, 33, 9)):
        a, b = rng.standard_normal((rows, terms)).astype(dtype), rng.standard_normal((terms, vectors * n)).astype(dtype)
        c = np.ones((rows, vectors * n), dtype)
        for add, expected in ((True, 1 + a @ b), (False, a @ b)):
            multiply(
                a.ravel(), 0, terms, 1, b.ravel(), 0, vectors * n, terms, c.reshape(-1), 0, vectors * n, rows,
                vectors * n, add,
            )  # fmt: skip
            np.testing.assert_allclose(c, expected, rtol=0, atol=50 * np.finfo(dtype).eps)
    source, target = rng.standard_normal((2 * n, 3 * n)).astype(dtype), np.zeros((3 * n, 2 * n), dtype)
    transpose(source.reshape(-1), 0, 3 * n, target.reshape(-1), 0, 2 * n, 2 * n, 3 * n)
    np.testing.assert_array_equal(target, source.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_is_exact_to_an_ulp(dtype: Any) -> None:
    from reformer.ops.cpu.jit import kernel

    @kernel
    def fill(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = exp(x[i])

    x = np.concatenate([np.linspace(-86, 80, 100_001), np.linspace(-1, 1, 1001)]).astype(dtype)
    out = np.empty_like(x)
    fill(x, out)
    true = np.exp(x.astype(np.longdouble))
    assert float((abs(out - true) / true).max()) < np.finfo(dtype).eps
    below = np.array([-np.inf, -1000.0], dtype)
    fill(below, out)
    assert (out[:2] == 0).all()


@pytest.mark.parametrize("duplicates", ["count", "once"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("width", "dropout_p"), [(3, 0.0), (16, 0.3), (33, 0.0), (128, 0.1)])
def test_runs_of_several_blocks_of_keys(causal: bool, duplicates: str, width: int, dropout_p: float) -> None:
    """Windows and chunks above what a tile holds, head widths that fill no vector, dropout."""
    torch.manual_seed(0)
    length = 400
    q, v = (torch.randn(1, 1, length, width, dtype=torch.float64) for _ in range(2))
    rotations = draw_rotations(0, 1, 2, width, 300)
    rules: list[dict[str, Any]] = [
        {"window": KEYS + 40, "bucket_size": 100},
        {"rule": "chunk", "chunk_length": KEYS // 2 + 5, "num_buckets": 4, "chunks_before": 2},
    ]
    for rule in rules:
        options = {**rule, "causal": causal, "duplicates": duplicates, "dropout_p": dropout_p}
        out, dq, dv = gradients(q, v, rotations=rotations, num_hashes=2, dropout_seed=9876543210123, **options)
        wide_q, wide_v = q.clone().requires_grad_(), v.clone().requires_grad_()
        expected = lsh_attention_reference(wide_q, wide_v, rotations, dropout_seed=9876543210123, **options)
        expected_grads = torch.autograd.grad(expected.sin().sum(), (wide_q, wide_v))
        for a, b in zip((out, dq, dv), (expected, *expected_grads), strict=True):
            assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("factor_from", [256, 8])
def test_hashes_equal_those_of_matrix_products(causal: bool, factor_from: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, 700, 24, dtype=torch.float64)  # in fp64 there are no near-ties
    mask = torch.rand(2, 700) < 0.8
    segments = (torch.rand(2, 700) < 0.01).long().cumsum(1)
    ranks = compute_ranks(2, 700, mask, segments)
    spec = LSH(rule=Octaves(4, factor_from=factor_from), rounds=2, causal=causal)
    layout = octave_rows(ranks, spec.rule, causal)
    octaves = list(range(int(layout.octave.max()) + 1))
    rotations = draw_rotations(1, 3, 2, 24, columns_for(octaves, factor_from))
    expected = row_buckets(hash_octaves(q, rotations, octaves, factor_from), layout)
    found = kernels.hash_rows(q, ranks.document.int(), Rotations(rotations, 0), spec)
    # the layouts differ in order: compare the bucket of each (token, octave)
    for row in range(2):
        places = torch.arange(int(layout.exists[row].sum()))
        by_document = sorted(
            places.tolist(), key=lambda n: (int(ranks.document[row, layout.token[row, n]]), int(layout.octave[row, n]))
        )
        assert torch.equal(found[row, :, :, : len(by_document)].long(), expected[row][..., by_document].long())


@pytest.mark.parametrize(
    "rule",
    [
        {"window": 8},
        {"window": 100, "causal": False},
        {"window": 8, "duplicates": "once", "dropout_p": 0.2, "dropout_seed": 3},
        {"window": 700, "bucket_size": 600},
        {"rule": "chunk", "chunk_length": 48, "num_buckets": 16, "chunks_after": 1, "causal": False},
        {"rule": "chunk", "chunk_length": 500, "num_buckets": 4},
        {"local": 30},
        {"local": 900},
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_number_of_threads(rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads by one thread each, by several each, and more threads than there is work for."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 3, 3000, 12, requires_grad=True) for _ in range(3))
    documents = (torch.arange(3000) // 1700)[None]

    def run() -> list[torch.Tensor]:
        if "local" in rule:
            out, leaves = local_attention(q, k, v, window=rule["local"], segment_ids=documents), [q, k, v]
        else:
            out, leaves = lsh_attention(q, v, seed=1, segment_ids=documents, **rule), [q, v]
        return [out, *torch.autograd.grad(out.sin().sum(), leaves)]

    threads, found = torch.get_num_threads(), []
    try:
        for shared_from in (0, 10**9):
            monkeypatch.setattr(tasks, "SHARED_FROM", shared_from)
            for number in (1, 2, 4, 7):
                torch.set_num_threads(number)
                found.append(run())
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "rule",
    [
        LSH(rule=Octaves(window=5), rounds=2),
        LSH(rule=Octaves(window=70, num_buckets=2), rounds=2),
        LSH(rule=Octaves(window=1100), rounds=2),
        LSH(rule=Chunks(20, 3, 0, factors=(8,)), rounds=2),
        LSH(rule=Chunks(20, 1, 2, factors=(8,)), rounds=2),
        LSH(rule=Chunks(900, 2, 2, factors=(8,)), rounds=2),
        Local(rule=Band(5)),
        Local(rule=Band(600)),
        Local(rule=Chunks(9, 1, 1)),
    ],
    ids=lambda spec: str(spec.rule),
)
def test_pieces_of_one_phase_add_to_no_token_in_common(rule: LSH | Local, causal: bool) -> None:
    torch.manual_seed(0)
    spec, q = replace(rule, causal=causal), torch.randn(1, 1, 4000, 8)
    document = (torch.arange(4000) // 1500).masked_fill(torch.rand(4000) < 0.1, -1)[None]
    rotations = Rotations(None, 0)
    hashed = [kernels.hash_rows(q, document, rotations, spec)] if isinstance(spec, LSH) else []
    rows = kernels.sorted_rows(hashed, document, spec)(0, 0)
    pieces, ends = schedule_runs(rows.runs, kernels.options_of(spec, 0, q, True, 0))
    assert sorted(run for first, last in pieces for run in range(first, last)) == list(range(len(rows.runs)))
    for first, last in pairwise([0, *ends]):
        touched: set[int] = set()
        for piece in pieces[first:last]:
            mine: set[int] = set()
            for query, query_end, key, key_end, *_ in rows.runs[piece[0] : piece[1]]:
                places = [*range(query, query_end), *range(key, key_end)]
                mine |= {int(rows.tokens[place % len(rows.tokens)]) for place in places} - {-1}
            assert not mine & touched
            touched |= mine


def test_calls_from_several_threads_at_once() -> None:
    q, v = torch.randn(1, 4, 700, 16), torch.randn(1, 4, 700, 16)
    expected = gradients(q, v, seed=3)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: gradients(q, v, seed=3), range(24)):
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_failing_task_is_raised_and_ends_the_others() -> None:
    ran = []

    def run(task: int) -> None:
        ran.append(task)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.run_phases([(1, lambda _: None), (100, run), (100, run)], 3)
    assert len(ran) <= 3


@pytest.mark.parametrize("factor_from", [256, 8])
def test_a_longer_sequence_hashes_its_beginning_alike_to_the_bit(factor_from: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 2, 500, 20)
    spec = LSH(rule=Octaves(4, factor_from=factor_from), rounds=3)
    rotations = Rotations(draw_rotations(1, 2, 3, 20, 300), 0)
    whole, slots = {}, torch.zeros(1, 500, dtype=torch.int32)
    for length in (500, 65, 64, 63, 17, 1):
        found = kernels.hash_rows(q[:, :, :length], slots[:, :length], rotations, spec)
        octaves, base = range((length - 1 >> 2).bit_length() + 1), 0
        for octave in octaves:
            rows = length if octave == octaves[-1] else min(4 << octave, length)
            part = found[..., base : base + rows]
            base += rows
            assert torch.equal(part, whole.setdefault(octave, part)[..., :rows])


def test_nan_is_not_hidden() -> None:
    """A diverged query must not look like one that was offered nothing."""
    q = torch.randn(1, 1, 40, 8)
    q[0, 0, 20] = torch.nan
    assert lsh_attention(q, q, seed=0, window=16, backend="numba").isnan().any()
    assert local_attention(q, q, q.nan_to_num(), window=4, backend="numba").isnan().any()


def test_memory_may_lie_anyhow() -> None:
    q, v = torch.randn(2, 100, 3, 8), torch.randn(3, 2, 8, 100)
    q, v = q.transpose(1, 2), v.permute(1, 0, 3, 2)
    strided = gradients(q, v, seed=0, window=8)
    for a, b in zip(strided, gradients(q.contiguous(), v.contiguous(), seed=0, window=8), strict=True):
        assert torch.equal(a, b)
    one = q[:, :, :1].expand(-1, -1, 100, -1)
    assert torch.equal(gradients(one, v, seed=0)[0], gradients(one.contiguous(), v, seed=0)[0])


def test_operators_keep_the_rules_of_torch_library() -> None:
    q, k, v = (torch.randn(1, 2, 40, 8, requires_grad=True) for _ in range(3))
    facts = [Sequences.of(q, torch.rand(1, 40) < 0.7).document], []
    spec = flatten(LSH(rule=Octaves(8), rounds=2))
    torch.library.opcheck(cpu.operators.hash_tokens, (q.detach(), None, 5, *facts, spec))
    buckets = cpu.operators.hash_tokens(q.detach(), None, 5, *facts, spec)
    torch.library.opcheck(cpu.operators.attend, (q, None, v, [buckets], *facts, spec, 0))
    local = flatten(Local(rule=Band(8)))
    torch.library.opcheck(cpu.operators.attend, (q, k, v, [], [Sequences.of(q).document], [], local, 0))


def test_compiling_keeps_one_graph() -> None:
    def both(q: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        hashed = lsh_attention(q, v, key_padding_mask=mask, seed=1, window=8, backend="numba")
        return hashed + local_attention(q, v, v, window=5, backend="numba")

    mask = torch.rand(2, 90) < 0.8
    torch._dynamo.reset()
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    for length in (90, 90, 41):  # the second length recompiles
        q, v = (torch.randn(2, 2, length, 8, requires_grad=True) for _ in range(2))
        found, expected = (f(q, v, mask[:, :length]) for f in (compiled, both))
        assert torch.equal(found, expected)
        for a, b in zip(*(torch.autograd.grad(x.sin().sum(), (q, v)) for x in (found, expected)), strict=True):
            assert torch.equal(a, b)


def test_compiling_once_serves_all_seeds() -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    q = torch.randn(1, 1, 40, 8)
    compiled = torch.compile(lsh_attention, backend=count, fullgraph=True)
    for seed in range(100, 110):
        assert torch.equal(compiled(q, q, seed=seed), lsh_attention(q, q, seed=seed))
    assert graphs <= 2


def test_without_numba_the_plain_backend_serves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "reformer.ops.cpu", None)  # as if its import failed
    monkeypatch.setattr(backends, "_missing", {})
    q = torch.randn(1, 1, 90, 8)
    with pytest.raises(ValueError, match="backend='numba' is not to be had"):
        lsh_attention(q, q, backend="numba")
    monkeypatch.setattr(backends, "_missing", {})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(lsh_attention(q, q, seed=0), lsh_attention(q, q, seed=0, backend="plain"))
    assert sum("falls back to the slower plain backend" in record.message for record in caplog.records) == 1


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 90, 8)
    for name, expected in (("plain", backends.plain), ("numba", cpu)):
        monkeypatch.setenv("REFORMER_BACKEND", name)
        assert backends.choose_backend("auto", q, LSH()) is expected
    assert backends.choose_backend("plain", q, LSH()) is backends.plain
    assert backends.choose_decoder(q) is not backends.plain_decoder
    monkeypatch.setenv("REFORMER_BACKEND", "plain")
    assert backends.choose_decoder(q) is backends.plain_decoder
    monkeypatch.setenv("REFORMER_BACKEND", "plane")
    with pytest.raises(ValueError, match=r"REFORMER_BACKEND='plane' is none of .*; did you mean 'plain'"):
        lsh_attention(q, q, seed=0)


def test_other_devices_are_refused() -> None:
    q = torch.randn(1, 1, 4, 4, device="meta")
    with pytest.raises(ValueError, match="backend='numba' computes on the CPU and the tensors are on meta"):
        lsh_attention(q, q, backend="numba")


def test_importing_the_operations_compiles_and_loads_nothing() -> None:
    code = "import sys, reformer.ops.attention; print('numba' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


OTHER_VECTORS = """
import llvmlite.binding as llvm
features = llvm.get_host_cpu_features()
llvm.get_host_cpu_features = lambda: features
features.update({"avx512f": BYTES == 64 and features.get("avx512f"), "avx2": BYTES >= 32})
import numpy as np
import torch
from reformer.ops.cpu import rows
from reformer.ops.cpu.jit import VECTOR_BYTES, kernel
rows.scratch = kernel(lambda count, kind: np.full(count, np.nan, kind.dtype))  # what nobody wrote shows
from reformer.ops.attention import lsh_attention
from reformer.ops.hashing import draw_rotations
from reformer.ops.reference import lsh_attention_reference
assert VECTOR_BYTES <= BYTES
torch.manual_seed(0)
rotations = draw_rotations(0, 2, 2, 20, 64)
rules = [
    {"window": 8},
    {"window": 150, "bucket_size": 100, "causal": False},
    {"rule": "chunk", "chunk_length": 7, "num_buckets": 6, "duplicates": "once"},
]
for length in (1, 50, 211):
    for rule in rules:
        q, v = (torch.randn(1, 2, length, 20, dtype=torch.float64, requires_grad=True) for _ in range(2))
        mask = torch.rand(1, length) < 0.8
        found = lsh_attention(q, v, num_hashes=2, rotations=rotations, key_padding_mask=mask, backend="numba", **rule)
        expected = lsh_attention_reference(q, v, rotations, key_padding_mask=mask, **rule)
        both = [(x, *torch.autograd.grad(x.sin().sum(), (q, v))) for x in (found, expected)]
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(*both)), (length, rule)
"""


@pytest.mark.slow  # a minute of compiling each
@pytest.mark.parametrize("width", [16, 32, 64])
def test_vectors_of_other_machines(width: int, tmp_path: Path) -> None:
    """The code for AVX2 and for 128 bits is right too, and no kernel reads what nobody wrote."""
    if width > VECTOR_BYTES:
        pytest.skip("this machine has no such vectors")
    code = OTHER_VECTORS.replace("BYTES >=", f"{width} >=").replace("BYTES ==", f"{width} ==")
    code = code.replace("<= BYTES", f"<= {width}")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WITHIN_BOUNDS = """
import torch
import reformer
from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.cpu import tasks
rules = [
    {"window": 8},
    {"window": 40, "causal": False},
    {"window": 8, "duplicates": "once", "dropout_p": 0.1, "dropout_seed": 1},
    {"rule": "chunk", "chunk_length": 7, "num_buckets": 6, "duplicates": "once"},
    {"rule": "chunk", "chunk_length": 30},
]
torch.manual_seed(0)
for tasks.SHARED_FROM in (10**9, 0):
    for length in (1, 5, 70, 391):
        for rule in rules:
            q, v = (torch.randn(1, 3, length, 12, requires_grad=True) for _ in range(2))
            mask = torch.rand(1, length) < 0.8
            lsh_attention(q, v, num_hashes=2, seed=0, key_padding_mask=mask, **rule).sum().backward()
        for window in (3, 200):
            q, k, v = (torch.randn(1, 3, length, 12, requires_grad=True) for _ in range(3))
            local_attention(q, k, v, window=window).sum().backward()
config = reformer.ReformerConfig(vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, window=8)
model, ids = reformer.ReformerForCausalLM(config), torch.randint(3, 40, (2, 90))
model(ids, labels=ids).loss.backward()
cache = reformer.ReformerCache(config)
with torch.no_grad():
    for first, last in ((0, 37), (37, 38), (38, 40), (40, 61), (61, 90)):
        model.eval()(ids[:, first:last], past_key_values=cache)
"""


@pytest.mark.slow
def test_no_kernel_reaches_outside_its_arrays(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_BOUNDSCHECK": "1"}
    environment["REFORMER_BACKEND"] = "numba"
    done = subprocess.run(
        [sys.executable, "-c", WITHIN_BOUNDS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
