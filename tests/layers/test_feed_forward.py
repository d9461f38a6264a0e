import pytest
import torch
import torch.nn.functional as F

from reformer.layers.feed_forward import ACTIVATIONS, FeedForward


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pieces_equal_the_whole(activation: str) -> None:
    whole = FeedForward(8, 20, activation).double()
    pieces = FeedForward(8, 20, activation, chunk_size=7).double()
    pieces.load_state_dict(whole.state_dict())
    found = []
    for layer in (whole, pieces):
        x = torch.linspace(-2, 2, 2 * 17 * 8, dtype=torch.float64).view(2, 17, 8).requires_grad_()
        out = layer(x)
        out.sin().sum().backward()
        found.append([out.detach(), x.grad, *(p.grad for p in layer.parameters())])
        with torch.no_grad():
            assert (layer(x) - out).abs().max() < 1e-14
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(*found, strict=True))


def test_what_it_computes() -> None:
    x = torch.randn(1, 3, 8)
    gelu = FeedForward(8, 20)
    assert torch.equal(gelu(x), gelu.dense_out(F.gelu(gelu.dense_in(x))))
    gated = FeedForward(8, 20, "swiglu")
    value, gate = gated.dense_in(x).chunk(2, -1)
    assert torch.equal(gated(x), gated.dense_out(F.silu(gate) * value))


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation='tanh' is none of gelu, relu, silu, swiglu"):
        FeedForward(8, 20, "tanh")
