from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reformer.layers.feed_forward import ACTIVATIONS, FeedForward
from reformer.layers.norm import make_norm
from reformer.layers.reversible import ReversibleSequence
from reformer.ops import feed_forward


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


def norm() -> nn.Module:
    return make_norm("layernorm", 8, 1e-5)


Change = Callable[[FeedForward], object]


def no_change(_: FeedForward) -> None:
    """As it is."""


def step(
    reversible: bool,
    activation: str = "gelu",
    chunk: int = 0,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    change: Change = no_change,
) -> dict[str, Tensor]:
    """Outputs and gradients of two blocks whose g is a feed-forward layer."""
    torch.manual_seed(0)
    blocks = [
        (
            nn.Sequential(norm(), nn.Linear(8, 8)),
            nn.Sequential(norm(), FeedForward(8, 20, activation, chunk), nn.Dropout(dropout)),
        )
        for _ in range(2)
    ]
    model = ReversibleSequence(blocks, reversible=reversible).to(dtype)
    for block in model.blocks:
        change(block.g[1])
    x = torch.linspace(-2, 2, 3 * 17 * 8).view(3, 17, 8).to(dtype).requires_grad_()
    torch.manual_seed(1)
    y1, y2 = model(x, x.flip(1))
    (y1.sin() + y2.cos()).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**grads, "y1": y1.detach(), "y2": y2.detach(), "x": x.grad}


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype
        assert (x - b[name]).abs().max() <= tolerance * max(1.0, float(b[name].abs().max())), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [0, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_the_second_run(activation: str, chunk: int, dropout: float) -> None:
    same(*(step(reversible, activation, chunk, dropout=dropout) for reversible in (True, False)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_other_types(dtype: torch.dtype) -> None:
    exact, plain = step(False), step(False, dtype=dtype)
    for found in (step(True, chunk=chunk, dtype=dtype) for chunk in (0, 7)):
        assert found["blocks.0.g.1.dense_in.weight"].dtype == dtype
        for name, x in exact.items():
            error, usual = (float((grads[name].double() - x).norm() / x.norm()) for grads in (found, plain))
            assert error < 2 * usual + 1e-6, (name, error, usual)


def freeze(layer: FeedForward) -> None:
    layer.dense_in.requires_grad_(False)
    layer.dense_out.bias.requires_grad_(False)


def without_bias(layer: FeedForward) -> None:
    layer.dense_out.bias = None


def double_output(layer: FeedForward) -> None:
    layer.dense_in.register_forward_hook(lambda _module, _inputs, output: output * 2)


class Adapted(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input.sum(-1, keepdim=True)


def adapt(layer: FeedForward) -> None:
    layer.dense_out = Adapted(20, 8).double()


def patch(layer: FeedForward) -> None:
    forward = layer.dense_in.forward
    layer.dense_in.forward = lambda x: forward(x) + 1


@pytest.mark.parametrize("change", [freeze, without_bias, double_output, adapt, patch])
def test_layers_that_were_changed(change: Change) -> None:
    torch.manual_seed(0)
    found = [step(reversible, chunk=7, change=change) for reversible in (True, False)]
    same(*found)


@pytest.mark.parametrize("chunk", [0, 7])
def test_it_is_computed_twice(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    activate = feed_forward.activate
    monkeypatch.setattr(feed_forward, "activate", lambda x, name: (tokens.append(len(x)), activate(x, name))[1])
    step(True, chunk=chunk)
    assert sum(tokens) == 2 * 2 * 3 * 17  # runs, blocks, tokens


def test_with_dropout_behind_it_activations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda b, x, w, **kw: (tokens.append(len(x)), addmm(b, x, w, **kw))[1])
    step(True, dropout=0.3)
    assert sum(tokens) == 2 * 2 * 2 * 3 * 17  # layers of weights, runs, blocks, tokens


def test_hooks_that_come_and_go_between_forward_and_backward() -> None:
    expected = step(True)
    for early in (True, False):
        hooks = []

        def begin(layer: FeedForward, early: bool = early, hooks: list = hooks) -> None:
            if early:
                hooks.append(layer.dense_in.register_forward_hook(lambda *_: None))
            layer.register_forward_hook(lambda layer, *_: change(layer))

        def change(layer: FeedForward, early: bool = early, hooks: list = hooks) -> None:
            if early:
                hooks[0].remove()
            else:
                layer.dense_in.register_forward_hook(lambda *_: None)

        same(step(True, change=begin), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("inside", [False, True])
def test_under_autocast_of_either_run(inside: bool, dropout: float) -> None:
    """The layer computes in the type of its forward, wherever its backward is called."""
    found = []
    for around in (inside, not inside):
        torch.manual_seed(0)
        g = nn.Sequential(FeedForward(8, 20), nn.Dropout(dropout))
        model, x = ReversibleSequence([(nn.Linear(8, 8), g)]), torch.linspace(-2, 2, 80).view(2, 5, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            y1, y2 = model(x, x)
            loss = (y1 * y2).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
        assert all(grad.dtype == torch.float32 for grad in found[-1].values())
    for name, grad in found[0].items():
        if name.startswith("blocks.0.g"):
            assert torch.equal(grad, found[1][name]), name


def test_nothing_to_compute() -> None:
    for shape in ((0, 5, 8), (2, 0, 8)):
        model = ReversibleSequence([(nn.Linear(8, 8), FeedForward(8, 20, chunk_size=2))])
        x = torch.zeros(shape, requires_grad=True)
        sum(y.sum() for y in model(x, x)).backward()
        assert x.grad.shape == shape
