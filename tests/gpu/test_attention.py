"""LSH and local attention by the kernels: values and gradients against the plain backend in fp64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reformer.ops import attention
from reformer.ops.flat import flatten
from reformer.ops.hashing import draw_rotations
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Local, Octaves, make_lsh
from tests.gpu.cases import compare, documents, padded, vectors, with_gradients

CASES: dict[str, dict[str, Any]] = {
    "bucket": {"window": 32, "num_hashes": 2},
    "one round": {"window": 32, "num_hashes": 1},
    "large tiles": {"window": 64, "num_hashes": 2},
    "negative scale": {"window": 32, "num_hashes": 1, "scale": -0.5},
    "narrow window, coarse buckets": {"window": 5, "bucket_size": 20, "num_hashes": 2},
    "wide window": {"window": 70, "bucket_size": 30, "num_hashes": 1},
    "bucket, two-sided": {"window": 32, "num_hashes": 2, "causal": False},
    "bucket, own values": {"window": 32, "num_hashes": 2, "successor_values": False},
    "bucket, two-sided, successors": {"window": 32, "num_hashes": 2, "causal": False, "successor_values": True},
    "few buckets": {"window": 16, "num_hashes": 2, "num_buckets": 2, "scale": 0.5},
    "chunk": {"rule": "chunk", "chunk_length": 32, "num_hashes": 2},
    "chunk, own values": {"rule": "chunk", "chunk_length": 32, "num_hashes": 2, "successor_values": False},
    "chunk, one round, own values": {"rule": "chunk", "chunk_length": 32, "num_hashes": 1, "successor_values": False},
    "chunk, two-sided": {"rule": "chunk", "chunk_length": 20, "num_hashes": 2, "causal": False, "chunks_after": 1},
    "short ring": {"rule": "chunk", "chunk_length": 64, "num_hashes": 1, "chunks_before": 3, "num_buckets": [2, 4]},
    "long chunks": {"rule": "chunk", "chunk_length": 90, "num_hashes": 1, "chunks_before": 1},
    "local window": {"rule": "window", "window": 33},
    "local window, two-sided": {"rule": "window", "window": 70, "causal": False},
    "local chunk": {"rule": "chunk", "chunk_length": 32},
    "local chunk, two-sided": {"rule": "chunk", "chunk_length": 20, "chunks_after": 1, "causal": False, "scale": 0.3},
}

MAIN = ["bucket", "bucket, two-sided", "chunk", "local window", "local chunk, two-sided"]
DELIVERIES = [
    "bucket, own values",
    "bucket, two-sided, successors",
    "chunk, own values",
    "chunk, one round, own values",
]


def case(name: str) -> dict[str, Any]:
    return CASES[name] | ({} if name.startswith("local") else {"seed": 3})


def tensors(name: str) -> int:
    return 4 if name.startswith("local") else 3


@pytest.fixture(autouse=True)
def fused_in_the_interpreter(device: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """On a GPU fp32 takes small tiles and no fused backward; here it has to show that they are right."""
    if device == "cpu" and "small_tiles" not in request.node.name:
        from reformer.ops.gpu import kernels

        monkeypatch.setattr(kernels, "NARROW", (*kernels.NARROW, torch.float32))


@pytest.mark.parametrize("name", ["wide window", "local window, two-sided", "bucket"])
def test_fp32_takes_small_tiles(name: str, device: str) -> None:
    *inputs, grad = vectors((1, 1, 133, 32), tensors(name), torch.float32, device)
    compare(inputs, grad, **case(name))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, device: str) -> None:
    *inputs, grad = vectors((1, 2, 133, 32), tensors(name), torch.float32, device)
    compare(inputs, grad, **case(name))


@pytest.mark.parametrize("name", [*MAIN, *DELIVERIES, "one round"])
@pytest.mark.parametrize(
    "masks", ["both", *(pytest.param(one, marks=pytest.mark.slow) for one in ("padding", "documents"))]
)
def test_padding_and_documents(name: str, masks: str, device: str) -> None:
    *inputs, grad = vectors((2, 1, 90, 16), tensors(name), torch.float32, device)
    mask = padded(2, 90, device) if masks != "documents" else None
    if mask is not None:  # whatever stands in padding, it is seen by nobody
        inputs = [torch.where(mask[:, None, :, None], x, torch.nan) for x in inputs]
        grad = torch.where(mask[:, None, :, None], grad, 0.0)
    ids = documents(2, 90, device) if masks != "padding" else None
    compare(inputs, grad, key_padding_mask=mask, segment_ids=ids, **case(name))


@pytest.mark.parametrize("name", ["bucket", "chunk", "chunk, two-sided", "local window", "local chunk, two-sided"])
def test_dropout(name: str, device: str) -> None:
    *inputs, grad = vectors((1, 2, 80, 16), tensors(name), torch.float32, device)
    compare(inputs, grad, dropout_p=0.3, dropout_seed=9876543210123, **case(name))


def test_they_show_that_they_are_right(device: str) -> None:
    """What `auto` asks of them on a GPU."""
    from reformer.ops.gpu import backend
    from reformer.ops.proof import why_not

    for dtype in (torch.float32, torch.float16) if device == "cpu" else (torch.float32, torch.float16, torch.bfloat16):
        assert why_not(backend, torch.device(device), dtype) == ""


@pytest.mark.parametrize("name", ["bucket", "chunk", "local window"])
def test_fp16_takes_the_true_maximum(name: str, device: str) -> None:
    *inputs, grad = vectors((1, 1, 100, 32), tensors(name), torch.float16, device)
    inputs[0] = inputs[0] * 4  # of norm 23: a fixed shift would underflow
    compare(inputs, grad, **case(name))


@pytest.mark.parametrize("width", [8, 24, 64])
def test_head_widths(width: int, device: str) -> None:
    *inputs, grad = vectors((1, 1, 70, width), 3, torch.float32, device)
    compare(inputs, grad, **case("bucket"))


def test_rounds_in_groups_are_the_same_softmax(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from reformer.ops.gpu import kernels

    *inputs, grad = vectors((1, 2, 90, 16), 3, torch.float32, device)
    options = {"window": 16, "num_hashes": 3, "seed": 1, "backend": "triton", "key_padding_mask": padded(1, 90, device)}
    options["key_padding_mask"][:] = True
    options["key_padding_mask"][:, 40:50] = False
    together = with_gradients(inputs, grad, **options)
    monkeypatch.setattr(kernels, "PARTS", 0)
    for a, b in zip(together, with_gradients(inputs, grad, **options), strict=True):
        assert (a - b).abs().max() < 1e-5


def test_rows_are_sorted_once_a_step(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward keeps them for its backward; what a reversible block keeps are buckets."""
    from reformer.ops.gpu import kernels
    from reformer.ops.replay import Tape

    sorts = []
    order_rows = kernels.order_rows
    monkeypatch.setattr(kernels, "order_rows", lambda *a: sorts.append(1) or order_rows(*a))
    *inputs, grad = vectors((1, 1, 40, 16), 3, torch.float32, device)
    options = {"window": 8, "num_hashes": 1, "seed": 0, "backend": "triton"}
    with_gradients(inputs, grad, **options)
    assert len(sorts) == 1
    tape = Tape()
    with tape.record(), torch.no_grad():
        attention.lsh_attention(*inputs, **options)
    assert [x.dtype for x in tape.values] == [torch.uint8]
    with tape.replay():
        with_gradients(inputs, grad, **options)
    assert len(sorts) == 3


def test_rows_far_apart(device: str) -> None:
    """Their distance does not fit into 32 bits."""
    count = (2 << 30) + 16  # untouched memory costs nothing on a CPU
    memory = (
        torch.from_numpy(np.zeros(count, np.float16))
        if device == "cpu"
        else torch.zeros(count, dtype=torch.float16, device=device)
    )
    far = memory.as_strided((1, 1, 3, 16), (0, 0, 1 << 30, 1))
    near, v = vectors((1, 1, 3, 16), 2, torch.float16, device)
    far.copy_(near)
    options = {"window": 8, "num_hashes": 1, "seed": 0, "backend": "triton"}
    assert torch.equal(attention.lsh_attention(far, v, **options), attention.lsh_attention(near, v, **options))


def test_rows_beyond_32_bits(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were so many."""
    from reformer.ops.gpu import kernels

    monkeypatch.setattr(kernels, "WIDE", kernels.WIDE[1:] * 2)
    *inputs, grad = vectors((1, 2, 70, 32), 3, torch.float32, device)
    compare(inputs, grad, **case("bucket"))


@pytest.mark.parametrize("length", [1, 2, 17])
def test_short_sequences(length: int, device: str) -> None:
    *inputs, grad = vectors((1, 1, length, 16), 3, torch.float32, device)
    compare(inputs, grad, window=8, num_hashes=2, seed=0)


def test_twice_gives_the_same_bits(device: str) -> None:
    *inputs, grad = vectors((1, 1, 70, 16), 3, torch.float32, device)
    first, second = (with_gradients(inputs, grad, backend="triton", **case("bucket")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_as_one_graph(masked: bool, device: str) -> None:
    *inputs, grad = vectors((2, 1, 40, 16), 3, torch.float32, device)
    options = {"backend": "triton", "window": 8, "num_hashes": 1, "seed": 0}
    if masked:
        options |= {"key_padding_mask": padded(2, 40, device), "segment_ids": documents(2, 40, device)}
    expected = with_gradients(inputs, grad, **options)
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled = torch.compile(lambda q, v: attention.lsh_attention(q, v, **options), fullgraph=True, backend=backend)
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = compiled(*leaves)
    found = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(found, expected, strict=True))


def test_operators_keep_the_rules_of_torch_library(device: str) -> None:
    from reformer.ops.gpu import kernels
    from reformer.ops.gpu.backend import operators
    from reformer.ops.sequences import Sequences

    q, k, v = (x.requires_grad_() for x in vectors((1, 1, 40, 16), 3, torch.float32, device))
    sequences, spec = Sequences.of(q, (torch.arange(40, device=device) % 5 > 0)[None]), LSH(rule=Octaves(8), rounds=1)
    facts = *kernels.prepare(sequences, spec), flatten(spec)
    buckets = operators.hash_tokens(q.detach(), None, 5, *facts)
    rows = operators.sort_rows(q.detach(), buckets, *facts)
    local = *kernels.prepare(sequences, Local(rule=Band(8))), flatten(Local(rule=Band(8)))
    for operator, arguments in (
        (operators.hash_tokens, (q.detach(), None, 5, *facts)),
        (operators.sort_rows, (q.detach(), buckets, *facts)),
        (operators.attend, (q, None, v, rows, *facts, 0)),
        (operators.attend, (q, k, v, [], *local, 0)),
    ):
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator, arguments, test_utils=checks)


def test_what_the_kernels_do_not_do_is_refused(device: str) -> None:
    q = torch.randn(1, 1, 8, 16, device=device)
    with pytest.raises(ValueError, match="backend='triton' has no duplicates='once'; choose 'auto'"):
        attention.lsh_attention(q, q, duplicates="once", backend="triton")
    with pytest.raises(ValueError, match=r"and the tensors are torch\.float64"):
        attention.lsh_attention(q.double(), q.double(), backend="triton")
    wide = torch.randn(1, 1, 8, 200, device=device)
    with pytest.raises(ValueError, match="heads of up to 128 numbers and these have 200"):
        attention.lsh_attention(wide, wide, backend="triton")


HALF = [(name, torch.bfloat16, 64) for name in CASES]
HALF += [(name, dtype, width) for name in MAIN for dtype, width in ((torch.float16, 64), (torch.bfloat16, 128))]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "dtype", "width"), HALF)
def test_half_precision_at_full_width(name: str, dtype: torch.dtype, width: int, device: str) -> None:
    *inputs, grad = vectors((2, 2, 700, width), tensors(name), dtype, device)
    inputs[0] = inputs[0] / 2  # logits as in a model
    compare(inputs, grad, **case(name))
    first, second = (with_gradients(inputs, grad, backend="triton", **case(name)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


SMALL = [("bucket", 0.3, 0, torch.float16, 90)]
LARGE = [(name, p, i, torch.bfloat16, 700) for name in [*MAIN, "one round"] for p in (0.0, 0.3) for i in range(3)]
LARGE = [each for each in LARGE if each[2] == 0 or each[0] in ("bucket", "chunk")]


@pytest.mark.parametrize(
    ("name", "dropout_p", "configuration", "dtype", "length"),
    [*SMALL, *(pytest.param(*each, marks=pytest.mark.gpu) for each in LARGE)],
)
def test_half_precision_with_padding_documents_and_dropout(
    name: str, dropout_p: float, configuration: int, dtype: torch.dtype, length: int, device: str
) -> None:
    """In all configurations that tuning may choose; bits twice the same."""
    *inputs, grad = vectors((2, 2, length, 64), tensors(name), dtype, device)
    inputs[0] = inputs[0] / 2  # logits as in a model
    mask = padded(2, length, device)
    grad = torch.where(mask[:, None, :, None], grad, 0.0)
    options = case(name) | {"key_padding_mask": mask, "segment_ids": documents(2, length, device)}
    options |= {"dropout_p": dropout_p, "dropout_seed": 9876543210123}
    compare(inputs, grad, **options)
    first, second = (with_gradients(inputs, grad, backend="triton", **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [32, 64, 128])
@pytest.mark.parametrize("rounds", [1, 16])
def test_long_sequences(window: int, rounds: int, device: str) -> None:
    """More octaves than one level of hashing has; bits twice the same."""
    *inputs, grad = vectors((1, 2, 40_001, 64), 3, torch.bfloat16, device)
    options = {"window": window, "num_hashes": rounds, "seed": 5, "factor_from": 64}
    out, *grads = with_gradients(inputs, grad, backend="triton", **options)
    expected, *expected_grads = with_gradients([x.float() for x in inputs], grad.float(), backend="plain", **options)
    for a, b in zip((out, *grads), (expected, *expected_grads), strict=True):
        far = (a.float() - b).abs() > 0.05 * b.abs().clamp(min=1)
        assert far.float().mean() < 1e-3  # near-ties of the hash fall otherwise here and there
    again = with_gradients(inputs, grad, backend="triton", **options)
    assert all(torch.equal(a, b) for a, b in zip((out, *grads), again, strict=True))


@pytest.mark.gpu
def test_offsets_beyond_32_bits(device: str) -> None:
    """A head far behind in memory gives what it gives alone."""
    if torch.cuda.get_device_properties(0).total_memory < 40 << 30:
        pytest.skip("needs a GPU of 40 GiB")
    length, heads = 1 << 20, 16
    q, v = (torch.randn(1, length, heads, 64, device=device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(2))
    rotations = draw_rotations(0, heads, 2, 64, 128)
    options: dict[str, Any] = {"window": 64, "num_hashes": 2, "backend": "triton"}
    with torch.no_grad():
        out = attention.lsh_attention(q, v, rotations=rotations, **options)[:, 15:]
        alone = attention.lsh_attention(q[:, 15:], v[:, 15:], rotations=rotations[15:], **options)
    assert (out.float() - alone.float()).abs().max() < 0.02  # rounds may be grouped otherwise


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
def test_cuda_graphs(masked: bool, device: str) -> None:
    *inputs, _ = vectors((1, 4, 3000, 64), 3, torch.bfloat16, device)
    options: dict[str, Any] = {"window": 64, "num_hashes": 2, "seed": 0}
    if masked:
        options["key_padding_mask"] = torch.ones(1, 3000, dtype=torch.bool, device=device)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(2):  # compiles, and lays out what does not depend on the data
            attention.lsh_attention(*inputs, **options)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        out = attention.lsh_attention(*inputs, **options)
    for x in inputs:
        x.normal_()
    if masked:
        options["key_padding_mask"][:, 1000:2500] = False
    graph.replay()
    assert torch.equal(out, attention.lsh_attention(*inputs, **options))


@pytest.mark.gpu
def test_auto_takes_the_kernels_and_autocast_is_left_alone(device: str) -> None:
    *inputs, grad = vectors((1, 2, 500, 64), 3, torch.float32, device)
    options = {"window": 64, "num_hashes": 2, "seed": 0}
    expected = with_gradients(inputs, grad, backend="triton", **options)
    with torch.autocast("cuda", torch.bfloat16):
        found = with_gradients(inputs, grad, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["lsh", "local"])
def test_reversible_layers_take_the_orders_of_their_forward(kind: str, device: str, monkeypatch: Any) -> None:
    """Gradients of a reversible stack equal those of ordinary autograd; each of its two runs sorts once."""
    from reformer.layers.attention import LocalAttention, LSHAttention
    from reformer.layers.reversible import ReversibleSequence
    from reformer.ops import backends
    from reformer.ops.gpu import kernels

    sorts = []
    order_rows = kernels.order_rows
    monkeypatch.setattr(kernels, "order_rows", lambda *a: sorts.append(1) or order_rows(*a))
    monkeypatch.setattr(attention, "choose_backend", lambda _, q, at: backends.choose_backend("triton", q, at))
    make = {
        "lsh": lambda: LSHAttention(16, 1, num_hashes=2, window=8),
        "local": lambda: LocalAttention(16, 1, window=8),
    }
    torch.manual_seed(0)
    blocks = [(make[kind](), torch.nn.Linear(16, 16)) for _ in range(2)]
    x = torch.randn(1, 50, 16, device=device)
    gradients = []
    for reversible in (True, False):
        stack = ReversibleSequence(blocks, reversible=reversible).to(device)
        torch.manual_seed(1)
        y1, y2 = stack(x, x)
        gradients.append(torch.autograd.grad((y1 * y2).sum(), list(stack.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() < 1e-3 * b.abs().max()
    assert len(sorts) == (2 * (2 + 1) if kind == "lsh" else 0)


@pytest.mark.parametrize("rule", ["bucket", "chunk"])
def test_heads_apart_give_what_they_give_together(rule: str, device: str) -> None:
    """Hashes and dropout go by the number of a head among all (`LSH.part_of`)."""
    torch.manual_seed(0)
    q, v = (torch.randn(2, 4, 70, 16, device=device) for _ in range(2))
    options: dict[str, Any] = {"window": 16} if rule == "bucket" else {"chunk_length": 16}
    spec = make_lsh(rule=rule, num_hashes=2, dropout=0.3, **options)
    fixed: dict[str, Any] = {"seed": 5, "dropout_seed": 7, "backend": "triton"}
    together = attention.attend_by_content(q, v, spec, Sequences.of(q), **fixed)
    apart = replace(spec, part_of=(2, 4))
    out = attention.attend_by_content(q[:, 2:], v[:, 2:], apart, Sequences.of(q[:, 2:]), **fixed)
    assert (out - together[:, 2:]).abs().max() < 1e-4
