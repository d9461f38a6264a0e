"""Reversible residual layers: training memory that does not grow with depth (Kitaev et al. 2020, section 3).

Ordinary autograd runs, but nothing that a block saves for its backward is kept. Pack hooks hand out empty slots;
when the backward asks for the first of them, the block's inputs are recovered from its outputs (Gomez et al. 2017)
by one more run of g and of f, which also saves the same tensors again, in the same order, and fills the slots.
The graph is the one that hooks, wrappers (DDP, FSDP2) and `torch.autograd.grad` expect.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import get_device_states, set_device_states

from reformer.layers.blocks import Block, BlockCall, Kwargs, Streams, call_block
from reformer.layers.streams import stream_type
from reformer.ops.replay import Tape
from reformer.ops.transforms import refuse_transforms

OnBlock = Callable[[Tensor, Tensor], None]


class ReversibleBlock(Block):
    """y1 = x1 + f(x2), y2 = x2 + g(y1)."""


class ReversibleSequence(nn.Module):
    """A sequence of (f, g) pairs over two streams, which are kept in fp32, or wider if the inputs are.

    With `reversible=False`, the same function with ordinary autograd. `depth` cycles the pairs (shared weights).
    """

    def __init__(
        self, blocks: Iterable[tuple[nn.Module, nn.Module]], *, reversible: bool = True, depth: int | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ReversibleBlock(f, g) for f, g in blocks)
        self.reversible = reversible
        self.depth = len(self.blocks) if depth is None else depth

    def forward(
        self,
        x1: Float[Tensor, "b l hidden"],
        x2: Float[Tensor, "b l hidden"],
        f_kwargs: Kwargs | Sequence[Kwargs] | None = None,
        g_kwargs: Kwargs | Sequence[Kwargs] | None = None,
        on_block: OnBlock | None = None,
    ) -> tuple[Float[Tensor, "b l hidden"], Float[Tensor, "b l hidden"]]:
        """Run all blocks; keyword arguments are for every branch alike, or one mapping a block.

        `on_block(y1, y2)` is called after each block.
        """
        streams = x1.to(stream_type(x1.dtype)), x2.to(stream_type(x2.dtype))
        per_block = zip(self._per_block(f_kwargs), self._per_block(g_kwargs), strict=True)
        run = _run_reversibly if self.reversible and torch.is_grad_enabled() else _run
        blocks: list[Any] = [self.blocks[i % len(self.blocks)] for i in range(self.depth)]
        return run(blocks, streams, per_block, on_block)

    def _per_block(self, kwargs: Kwargs | Sequence[Kwargs] | None) -> Sequence[Kwargs]:
        if kwargs is None or isinstance(kwargs, Mapping):
            return [kwargs or {}] * self.depth
        return kwargs


class _Call(BlockCall):
    """With ordinary autograd."""

    def run(self, block: Block, streams: Streams) -> Streams:
        x1, x2 = streams
        y1 = x1 + block.f(x2, **self.f_kwargs)
        return y1, x2 + block.g(y1, **self.g_kwargs)


def _run(
    blocks: Sequence[Block], streams: Streams, per_block: Iterable[tuple[Kwargs, Kwargs]], on_block: OnBlock | None
) -> Streams:
    for block, kwargs in zip(blocks, per_block, strict=True):
        streams = call_block(block, _Call(streams, *kwargs))
        if on_block is not None:
            on_block(*streams)
    return streams


@torch.compiler.disable(
    reason="the second run of a reversible stack is eager, so the first must be; compile with fullgraph=False, or "
    "build the model with reversible=False, or compile its branches"
)
def _run_reversibly(
    blocks: Sequence[Block], streams: Streams, per_block: Iterable[tuple[Kwargs, Kwargs]], on_block: OnBlock | None
) -> Streams:
    refuse_transforms("a reversible stack with a graph")
    below = None
    frame = None
    for block, kwargs in zip(blocks, per_block, strict=True):
        frame = _Frame(block, streams, *kwargs)
        if below is not None:
            below.above = frame
        streams = call_block(block, frame)
        del frame.streams, frame.behind
        if on_block is not None:
            on_block(*streams)
        below = frame
    if frame is not None:
        frame.outputs = (streams[0].detach(), streams[1].detach())
        frame.versions = (streams[0]._version, streams[1]._version)
    return streams


class _Slot:
    """Stands in the graph for a saved tensor, until its block is recovered; it dies with the node that holds it."""

    __slots__ = ("__weakref__", "frame", "tensor")

    def __init__(self, frame: "_Frame") -> None:
        self.frame: _Frame | None = frame
        self.tensor: Tensor | None = None


@torch.compiler.disable
def _fill(slot: _Slot) -> Tensor:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a reversible sequence has no second derivative (create_graph=True); build it with reversible=False"
        )
    if slot.frame is not None:
        slot.frame.recover()
    assert slot.tensor is not None
    return slot.tensor


class _Branch:
    """One run of f or g, and what running it again takes."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.slots: list[weakref.ref[_Slot]] = []
        self.tape = Tape()

    def record(self, frame: "_Frame", x: Tensor, kwargs: Kwargs) -> Tensor:
        """The first run: nothing that it saves is kept."""
        self.needs_grad = x.requires_grad
        self.modes = [(module, module.training) for module in self.module.modules()]
        self.weights = [(p, p._version) for p in self.module.parameters() if not p.is_inference()]
        self.random = _random_state(x)
        self.autocast = _autocast_state(x.device.type)
        self.buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]

        def pack(_: Tensor) -> _Slot:
            slot = _Slot(frame)
            self.slots.append(weakref.ref(slot))
            return slot

        with saved_tensors_hooks(pack, _fill), self.tape.record():
            added: Tensor = self.module(x, **kwargs)
        return added

    def replay(self, x: Tensor, kwargs: Kwargs) -> Tensor:
        """The second run, with the same random, autocast and gradient states, which fills the slots."""
        count = 0

        def pack(tensor: Tensor) -> None:
            nonlocal count
            slot = self.slots[count]() if count < len(self.slots) else None
            count += 1
            if slot is not None:
                slot.tensor, slot.frame = tensor.detach(), None

        def unpack(_: None) -> Tensor:
            raise RuntimeError("the graph of a recovered block has no backward of its own")

        if any(p._version != version for p, version in self.weights):
            raise RuntimeError(
                f"weights of {type(self.module).__name__} ({self.name} of a reversible block) were changed in place "
                "between its forward and its backward"
            )
        _set_random_state(self.random)
        hooks = saved_tensors_hooks(pack, unpack)
        with _buffers(self.buffers), hooks, self.tape.replay(), _autocast(self.autocast), _modes(self.modes):
            out = self.module(x.requires_grad_(self.needs_grad), **kwargs)
        if count != len(self.slots):
            raise RuntimeError(
                f"{type(self.module).__name__} ({self.name} of a reversible block) saved {len(self.slots)} tensors in "
                f"its forward and {count} when it was run again: it must do the same on the same inputs"
            )
        return out.detach()


class _Frame(BlockCall):
    """One block of one forward. Frames know the frame above them, whose inputs are their outputs.

    In the backward the block is called with it again, from the streams behind it to those in front.
    """

    def __init__(self, block: Block, streams: Streams, f_kwargs: Kwargs, g_kwargs: Kwargs) -> None:
        super().__init__(streams, f_kwargs, g_kwargs)
        self.block, self.f, self.g = block, _Branch("f", block.f), _Branch("g", block.g)
        self.above: _Frame | None = None
        self.outputs: Streams | None = None
        self.inputs: Streams | None = None
        self.versions: tuple[int, int] | None = None
        self.device: torch.device | None = None

    def run(self, block: Block, streams: Streams) -> Streams:
        """The first run, or the second, which goes backwards."""
        if self.device is None:
            x1, x2 = streams
            self.device = x1.device
            y1 = x1 + self.f.record(self, x2, self.f_kwargs)
            return y1, x2 + self.g.record(self, y1, self.g_kwargs)
        y1, y2 = streams
        x2 = y2 - self.g.replay(y1.detach(), self.g_kwargs)
        return y1 - self.f.replay(x2.detach(), self.f_kwargs), x2

    def recover(self) -> None:
        """Work out the inputs and all saved tensors of the block, once."""
        pending: list[_Frame] = []  # a block that saves nothing is never asked: recover through it
        frame: _Frame | None = self
        while frame is not None and frame.inputs is None and frame.outputs is None:
            pending.append(frame)
            frame = frame.above
        if frame is not None and frame.inputs is None:
            frame._recover()
        for below in reversed(pending):
            assert below.above is not None
            below.outputs, below.above.inputs, below.above = below.above.inputs, None, None
            below._recover()

    def _recover(self) -> None:
        assert self.outputs is not None
        y1, y2 = self.outputs
        if self.versions is not None and self.versions != (y1._version, y2._version):
            raise RuntimeError("an output of a reversible sequence was changed in place; its backward needs it")
        self.streams = y1.to(self.device), y2.to(self.device)
        before = _random_state(self.streams[0])
        try:
            with torch.enable_grad():
                self.block(self)
        finally:
            _set_random_state(before)
        self.inputs, self.outputs = (self.behind[0].detach(), self.behind[1].detach()), None
        del self.streams, self.behind


_RandomState = tuple[Tensor, str, Any, Any]


def _random_state(x: Tensor) -> _RandomState:
    return torch.get_rng_state(), x.device.type, *get_device_states(x)


def _set_random_state(state: _RandomState) -> None:
    cpu, device_type, devices, states = state
    torch.set_rng_state(cpu)
    set_device_states(devices, states, device_type=device_type)


@contextmanager
def _modes(modes: Sequence[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Every module in training or evaluation mode as it was."""
    now = [module.training for module, _ in modes]
    for module, training in modes:
        module.training = training
    try:
        yield
    finally:
        for (module, _), training in zip(modes, now, strict=True):
            module.training = training


@contextmanager
def _buffers(before: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Every buffer as it was, and afterwards as it is now: running statistics count each token once."""
    now = [buffer.clone() for buffer, _ in before]
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for (buffer, _), value in zip(before, now, strict=True):
                buffer.copy_(value)


_AutocastState = tuple[str, bool, torch.dtype, bool]


def _autocast_state(device_type: str) -> _AutocastState | None:
    if not torch.amp.is_autocast_available(device_type):
        return None
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return device_type, enabled, dtype, torch.is_autocast_cache_enabled()


@contextmanager
def _autocast(state: _AutocastState | None) -> Iterator[None]:
    if state is None:
        yield
        return
    device_type, enabled, dtype, cache = state
    with torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache):
        yield
