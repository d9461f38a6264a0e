"""What a reversible sequence refuses rather than getting wrong."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reformer.layers.reversible import ReversibleSequence
from tests.layers.branches import WIDTH, loss_of, sequence


class Fickle(nn.Module):
    """Saves more in its second run."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.runs = nn.Linear(WIDTH, WIDTH), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        for _ in range(self.runs):
            x = self.linear(x)
        return x


def test_a_branch_that_does_not_repeat_itself_is_an_error() -> None:
    model = ReversibleSequence([(nn.Linear(WIDTH, WIDTH), Fickle())])
    x = torch.randn(1, 3, WIDTH)
    with pytest.raises(RuntimeError, match=r"Fickle \(g of a reversible block\) saved 2 tensors .* and 4 when"):
        loss_of(*model(x, x)).backward()


def test_a_second_backward_is_refused_or_right() -> None:
    model = sequence(True)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    loss = loss_of(*model(x, x))
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    model.zero_grad()
    loss = loss_of(*model(x, x))
    loss.backward(retain_graph=True)
    first = copy.deepcopy([p.grad for p in model.parameters()])
    loss.backward()
    for once, p in zip(first, model.parameters(), strict=True):
        assert (p.grad - 2 * once).abs().max() < 1e-10


def test_a_second_derivative_is_refused() -> None:
    model = sequence(True)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss_of(*model(x, x)), list(model.parameters()), create_graph=True)


def test_an_output_changed_in_place_is_an_error() -> None:
    model = sequence(True)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    y1, y2 = model(x, x)
    with torch.no_grad():
        y1.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        (y1.sum() + y2.sum()).backward()


def test_weights_changed_before_the_backward_are_an_error() -> None:
    model = sequence(True)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    loss = loss_of(*model(x, x))
    with torch.no_grad():
        model.blocks[2].g.norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"weights of Branch \(g of a reversible block\) were changed in place"):
        loss.backward()
