import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reformer.layers.reversible import ReversibleSequence
from tests.layers.branches import WIDTH, Branch, loss_of, sequence

Prepare = Callable[[ReversibleSequence], None]


def gradients(
    reversible: bool,
    prepare: Prepare | None = None,
    *,
    input_grad: bool = True,
    autocast: bool = False,
    model: ReversibleSequence | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """Outputs, gradients and the next random number of one step."""
    model = model or sequence(reversible, **kwargs)
    if prepare:
        prepare(model)
    torch.manual_seed(1)
    x = torch.randn(2, 37, WIDTH, dtype=next(model.parameters()).dtype, requires_grad=input_grad)
    mask = torch.ones(2, 37, dtype=torch.bool)
    mask[1, 30:] = False
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y1, y2 = model(x, x * 2, {"key_padding_mask": mask})
    loss_of(y1, y2).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if input_grad:
        found["input"] = x.grad
    return {**found, "y1": y1.detach(), "y2": y2.detach(), "next random": torch.rand(4)}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert a.keys() == b.keys()
    for name in a:
        error = float((a[name] - b[name]).abs().max())
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("chunk", [0, 7])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gradients_equal_plain_autograd(dropout: float, chunk: int) -> None:
    assert_same(gradients(True, dropout=dropout, chunk=chunk), gradients(False, dropout=dropout, chunk=chunk))


def test_in_evaluation_mode() -> None:
    assert_same(gradients(True, lambda m: m.eval()), gradients(False, lambda m: m.eval()))


def test_under_autocast() -> None:
    """Streams in fp32, branches in bf16: the recovered inputs differ in the last bit, and so may a rounding to bf16."""
    a, b = (gradients(r, autocast=True, dtype=torch.float32) for r in (True, False))
    for name in a:
        scale = max(1.0, float(b[name].abs().max()))
        assert (a[name] - b[name]).abs().max() < 0.02 * scale, name
    a, b = (gradients(r, autocast=True) for r in (True, False))  # autocast leaves fp64 alone, and the state is replayed
    assert_same(a, b)


def test_autocast_is_replayed() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), self.linear(x).dtype))
            return self.linear(x)

    model = ReversibleSequence([(Spy(), Spy())])
    with torch.autocast("cpu", torch.bfloat16):
        y1, y2 = model(torch.randn(1, 3, WIDTH), torch.randn(1, 3, WIDTH))
    (y1.sum() + y2.sum()).backward()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0] == (True, torch.bfloat16, torch.bfloat16)


def test_inputs_without_gradient() -> None:
    assert_same(gradients(True, input_grad=False), gradients(False, input_grad=False))


def test_frozen_parameters() -> None:
    def freeze_some(model: ReversibleSequence) -> None:
        for i, p in enumerate(model.parameters()):
            p.requires_grad_(i % 3 == 0)

    def freeze_lower_half(model: ReversibleSequence) -> None:
        model.blocks[:2].requires_grad_(False)

    for prepare in (freeze_some, freeze_lower_half, lambda m: m.requires_grad_(False)):
        assert_same(gradients(True, prepare), gradients(False, prepare))
    assert_same(
        gradients(True, freeze_lower_half, input_grad=False), gradients(False, freeze_lower_half, input_grad=False)
    )


def test_an_adapter_in_a_frozen_model() -> None:
    class Adapted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.down, self.up = inner, nn.Linear(WIDTH, 2).double(), nn.Linear(2, WIDTH).double()

        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self.inner(x, **kwargs) + self.up(self.down(x))

    def adapt(model: ReversibleSequence) -> None:
        model.requires_grad_(False)
        torch.manual_seed(9)
        for block in model.blocks:
            block.f = Adapted(block.f)

    for input_grad in (True, False):
        found = gradients(True, adapt, input_grad=input_grad)
        assert_same(found, gradients(False, adapt, input_grad=input_grad))
        assert sum("down" in name for name in found) == 8


def test_blocks_that_save_nothing() -> None:
    """They are never asked to recover; the block below does it through them."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(WIDTH, dtype=torch.float64))

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return x.roll(1, 1) + self.by

    def put_between(model: ReversibleSequence) -> None:
        for i in (1, 2):
            model.blocks[i].f, model.blocks[i].g = Shift(), Shift()

    def put_on_top(model: ReversibleSequence) -> None:
        model.blocks[3].f, model.blocks[3].g = Shift(), Shift()

    for prepare in (put_between, put_on_top):
        assert_same(gradients(True, prepare), gradients(False, prepare))


def test_gradients_for_some_parameters_only() -> None:
    for names in (["blocks.0.f.norm.weight"], ["blocks.3.g.norm.bias", "blocks.1.f.layer.out.weight"]):
        found = []
        for reversible in (True, False):
            model = sequence(reversible)
            torch.manual_seed(1)
            x = torch.randn(1, 20, WIDTH, dtype=torch.float64)
            wanted = [dict(model.named_parameters())[name] for name in names]
            found.append(torch.autograd.grad(loss_of(*model(x, x)), wanted))
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(*found, strict=True))


def test_no_grad_gives_the_same_and_keeps_nothing() -> None:
    model = sequence(True).eval()
    x = torch.randn(1, 20, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        a = model(x, x)
    b = model(x, x)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not a[0].requires_grad


def test_hooks_on_parameters_and_accumulation() -> None:
    counts = []
    for reversible in (True, False):
        model, calls = sequence(reversible), []
        for name, p in model.named_parameters():
            p.register_post_accumulate_grad_hook(lambda p, name=name, calls=calls: calls.append(name))
        gradients(reversible, model=model)
        gradients(reversible, model=model)
        counts.append(sorted(calls))
    assert counts[0] == counts[1]


def test_gradient_scaling() -> None:
    a = gradients(True)
    model = sequence(True)
    torch.manual_seed(1)
    x = torch.randn(2, 37, WIDTH, dtype=torch.float64)
    mask = torch.ones(2, 37, dtype=torch.bool)
    mask[1, 30:] = False
    (loss_of(*model(x, x * 2, {"key_padding_mask": mask})) * 1024).backward()
    for name, p in model.named_parameters():
        assert (p.grad / 1024 - a[name]).abs().max() < 1e-9


def test_kwargs_that_need_gradients() -> None:
    """What a branch takes besides its stream (an encoder's output) is an ordinary input of the graph."""

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH).double()

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.linear(x) * memory

    found = []
    for reversible in (True, False):
        torch.manual_seed(0)
        model = ReversibleSequence([(Cross(), Branch(nn.Linear(WIDTH, WIDTH)).double()) for _ in range(3)])
        model.reversible = reversible
        memory = torch.randn(1, 5, WIDTH, dtype=torch.float64, requires_grad=True)
        x = torch.randn(1, 5, WIDTH, dtype=torch.float64)
        loss_of(*model(x, x, {"memory": memory * 2})).backward()
        found.append(memory.grad)
    assert (found[0] - found[1]).abs().max() < 1e-10


def test_one_set_of_weights_for_several_layers() -> None:
    found = []
    for reversible in (True, False):
        model = sequence(reversible, depth=2)
        model.depth = 5
        found.append(gradients(reversible, model=model))
    assert_same(*found)


def test_streams_are_fp32_at_least() -> None:
    model = sequence(True, dtype=torch.bfloat16)
    x = torch.randn(1, 9, WIDTH, dtype=torch.bfloat16)
    assert [y.dtype for y in model(x, x)] == [torch.float32] * 2


def test_modes_are_replayed() -> None:
    found = []
    for reversible in (True, False):
        model = sequence(reversible)
        torch.manual_seed(1)
        x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
        loss = loss_of(*model(x, x))
        model.eval()
        loss.backward()
        assert not any(module.training for module in model.modules())
        found.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*found, strict=True))


def test_branches_run_once_forward_and_once_more_backward() -> None:
    model = sequence(True)
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, Branch):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    loss_of(*model(x, x)).backward()
    assert sorted(calls) == sorted(2 * [f"blocks.{i}.{part}" for i in range(4) for part in "fg"])


def test_live_memory_does_not_grow_with_depth() -> None:
    """Tensors that are alive after the forward, in bytes; fake ones, which compiling leaves behind, have none."""
    real = (Tensor, nn.Parameter)

    def alive(depth: int) -> int:
        torch.manual_seed(0)
        model = sequence(True, depth=depth, dropout=0.1)
        x = torch.randn(1, 512, WIDTH, dtype=torch.float64)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        gc.collect()
        before = {t.untyped_storage().data_ptr() for t in gc.get_objects() if type(t) in real}
        out = model(x, x)
        gc.collect()
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in gc.get_objects()
            if type(t) in real and t.untyped_storage().data_ptr() not in weights | before
        }
        assert out[0].requires_grad
        return sum(storages.values())

    stream = 512 * WIDTH * 8
    assert alive(12) - alive(3) < 9 * stream / 2  # a layer keeps its buckets (bytes) and random states (5 kB a branch)


DYNAMO_WARNS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@DYNAMO_WARNS
def test_compiled_branches() -> None:
    found = []
    for reversible in (True, False):
        model = sequence(reversible, depth=2, dropout=0.0)
        if reversible:
            for block in model.blocks:
                block.g = torch.compile(block.g, backend="aot_eager")
        found.append({k.replace("_orig_mod.", ""): v for k, v in gradients(reversible, model=model).items()})
    assert_same(*found)


@DYNAMO_WARNS
def test_a_compiled_model_around_the_sequence() -> None:
    class Model(nn.Module):
        def __init__(self, reversible: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            blocks = [(Branch(nn.Linear(WIDTH, WIDTH), 0.0), Branch(nn.Linear(WIDTH, WIDTH), 0.0)) for _ in range(3)]
            self.layers = ReversibleSequence(blocks, reversible=reversible)

        def forward(self, x: Tensor) -> Tensor:
            return loss_of(*self.layers(x * 2, x))

    x, found = torch.randn(2, 5, WIDTH), []
    for reversible in (True, False):
        model = Model(reversible)
        run = torch.compile(model, backend="aot_eager") if reversible else model
        run(x).backward()
        found.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_buffers_count_each_forward_once(norm: str) -> None:
    """Running statistics and power iterations: gradients and buffers of plain autograd, over two steps."""

    def branch() -> nn.Module:
        if norm == "spectral":
            return nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        return nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Unflatten(0, (2, 5)))

    results = []
    for reversible in (True, False):
        torch.manual_seed(0)
        stack = ReversibleSequence([(branch(), branch()) for _ in range(3)], reversible=reversible).double()
        for _ in range(2):
            x = torch.randn(2, 5, 6, dtype=torch.float64)
            y1, y2 = stack(x, x)
            (y1.sin().sum() + y2.cos().sum()).backward()
        results.append([*(p.grad for p in stack.parameters()), *stack.buffers()])
    for a, b in zip(*results, strict=True):
        assert a is not None
        assert (a.double() - b.double()).abs().max() < 1e-9
