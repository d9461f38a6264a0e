"""The convolution in front of queries and keys: documents, padding, bits that depend on nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reformer.ops import environment
from reformer.ops.convolution import short_convolution, tap_offsets


@pytest.fixture(autouse=True)
def _backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.PREFERENCE, backend)


def dense(x: Tensor, weight: Tensor, causal: bool) -> Tensor:
    size = weight.shape[1]
    before = size - 1 if causal else size // 2
    padded = F.pad(x.transpose(1, 2), (before, size - 1 - before))
    return F.conv1d(padded, weight[:, None], groups=x.shape[2]).transpose(1, 2)


def document_by_document(x: Tensor, weight: Tensor, causal: bool, mask: Tensor, segments: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for row in range(len(x)):
        for document in segments[row].unique():
            slots = ((segments[row] == document) & mask[row]).nonzero()[:, 0]
            if len(slots):
                rows = torch.full_like(slots, row)
                out = out.index_put((rows, slots), dense(x[row : row + 1, slots], weight, causal)[0])
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_equals_a_dense_convolution_of_each_document(size: int, causal: bool) -> None:
    for length in (1, 2, 7, 50):
        torch.manual_seed(length)
        x, weight = torch.randn(2, length, 19, dtype=torch.float64), torch.randn(19, size, dtype=torch.float64)
        mask, segments = torch.rand(2, length) < 0.7, (torch.rand(2, length) < 0.2).long().cumsum(1)
        everywhere, one = torch.ones_like(mask), torch.zeros_like(segments)
        for given in (None, (mask, one), (everywhere, segments), (mask, segments)):
            leaf = x if given is None else torch.where(given[0][..., None], x, torch.nan)  # padding is never read
            leaf, weight = leaf.clone().requires_grad_(), weight.requires_grad_()
            if given is None:
                found, wanted = short_convolution(leaf, weight, causal=causal), dense(leaf, weight, causal)
            else:
                options = {"key_padding_mask": given[0], "segment_ids": given[1]}
                found = short_convolution(leaf, weight, causal=causal, **options)
                wanted = document_by_document(leaf, weight, causal, *given)
            assert (found - wanted).abs().max() < 1e-12
            grad = torch.randn_like(found)
            gradients = [
                torch.autograd.grad(out + 0 * (x * weight.sum(1)), (leaf, weight), grad, allow_unused=True)
                for out in (found, wanted)
            ]
            for a, b in zip(*gradients, strict=True):
                assert (a - (torch.zeros_like(a) if b is None else b)).abs().max() < 1e-12


def test_a_token_s_bits_depend_on_no_length_piece_or_mask() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, weight = torch.randn(2, 300, 37).to(dtype), torch.randn(37, 4)
        whole = short_convolution(x, weight)
        assert whole.dtype == dtype
        assert torch.equal(short_convolution(x[:1, :70], weight), whole[:1, :70])
        assert torch.equal(short_convolution(x[:, 97:130], weight)[:, 3:], whole[:, 100:130])
        spread = torch.randn(2, 600, 37).to(dtype)
        spread[:, 1::2] = x
        mask = torch.zeros(2, 600, dtype=torch.bool)
        mask[:, 1::2] = True
        out = short_convolution(spread, weight, key_padding_mask=mask)
        assert torch.equal(out[:, 1::2], whole)
        assert not out[:, ::2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_in_fp32_and_rounds_once(dtype: torch.dtype) -> None:
    x, weight = torch.randn(1, 200, 24).to(dtype), torch.randn(24, 4)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = short_convolution(x, weight)
    wide_x, wide = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = dense(wide_x, wide, True)
    grad = torch.randn_like(expected).to(dtype)
    found, wanted = (
        torch.autograd.grad(out, (x, weight), grad),
        torch.autograd.grad(expected, (wide_x, wide), grad.double()),
    )
    eps = torch.finfo(dtype).eps
    assert (out.double() - expected).abs().max() < eps * expected.abs().max()
    assert [g.dtype for g in found] == [dtype, torch.float32]
    assert (found[0].double() - wanted[0]).abs().max() < eps * wanted[0].abs().max()
    assert (found[1].double() - wanted[1]).abs().max() < 1e-5 * wanted[1].abs().max()


def test_offsets() -> None:
    assert tap_offsets(4, True) == [-3, -2, -1, 0]
    assert tap_offsets(4, False) == [-2, -1, 0, 1]
    assert tap_offsets(1, False) == [0]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch.compile does so while it traces
def test_it_compiles_to_one_graph() -> None:
    x, weight = torch.randn(1, 30, 8, requires_grad=True), torch.randn(8, 4)
    found = torch.compile(short_convolution, fullgraph=True, backend="aot_eager")(x, weight)
    assert torch.equal(found, short_convolution(x, weight))
    assert torch.equal(
        torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(short_convolution(x, weight).sum(), x)[0]
    )


def test_empty_sequences() -> None:
    x = torch.randn(2, 0, 8, requires_grad=True)
    short_convolution(x, torch.randn(8, 4)).sum().backward()


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"they must be \[b, l, hidden\] and \[hidden, size\]"):
        short_convolution(torch.randn(1, 5, 8), torch.randn(7, 4))
    with pytest.raises(ValueError, match="size=0"):
        short_convolution(torch.randn(1, 5, 8), torch.randn(8, 0))
    with pytest.raises(ValueError, match="key_padding_mask has shape"):
        short_convolution(torch.randn(1, 5, 8), torch.randn(8, 2), key_padding_mask=torch.ones(1, 4))
