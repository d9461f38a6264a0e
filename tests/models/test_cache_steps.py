"""Steps over a cache, captured, replayed and compiled."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from reformer.layers.caches import lsh
from reformer.models import ReformerCache, ReformerForCausalLM
from reformer.ops.plain import decode as plain_decoder
from tests.models.caching import (
    decoder,  # noqa: F401 - a fixture that all tests take
    tokens,
)
from tests.models.conftest import Make


def replayed(lm: ReformerForCausalLM, x: Tensor, start: int, capture: Any) -> None:
    """Greedy logits by a captured step, captured anew where memory moves, equal the full forward's."""
    with torch.no_grad():
        full = lm(x).logits
        cache = ReformerCache(lm.config)
        lm(x[:, :start], past_key_values=cache)
        replay, captured, captures = None, None, 0
        for at in range(start, x.shape[1]):
            token = x[:, at : at + 1]
            if (place := cache.make_ready()) == captured:
                assert replay is not None
                out = replay(token)
                cache.count_replay()
            else:
                replay, out = capture(lm, cache, token)
                captured, captures = place, captures + 1
            assert (out - full[:, at : at + 1]).abs().max() < 1e-9
        assert cache.get_seq_length() == x.shape[1]
        assert captures <= 5


def test_a_step_can_be_captured_and_replayed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a CUDA graph, the host's part of a recorded step is frozen: operations on fixed memory alone."""
    monkeypatch.setattr(lsh, "choose_decoder", lambda _: plain_decoder)
    monkeypatch.setenv("REFORMER_BACKEND", "plain")
    monkeypatch.setattr("reformer.ops.questions.capturing", lambda _: True)

    def capture(lm: ReformerForCausalLM, cache: ReformerCache, token: Tensor) -> tuple[Any, Tensor]:
        kept: list[Tensor] = []

        def step(x: Tensor) -> Tensor:
            kept.append(lm(x, past_key_values=cache).logits)
            return kept[-1]

        graph = make_fx(step)(token)  # which runs it too
        return graph, kept[-1]

    replayed(make(attention_pattern=("local", "lsh", "full")).eval(), tokens(2, 150), 20, capture)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_in_a_cuda_graph(make: Make) -> None:
    def capture(lm: ReformerForCausalLM, cache: ReformerCache, token: Tensor) -> tuple[Any, Tensor]:
        static, graph = token.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = lm(static, past_key_values=cache).logits

        def replay(x: Tensor) -> Tensor:
            static.copy_(x)
            graph.replay()
            return out

        return replay, replay(token)  # the capture itself computes nothing

    lm = make(attention_pattern=("local", "lsh", "full")).cuda().eval()
    replayed(lm, tokens(2, 150).cuda(), 20, capture)


def test_a_step_compiles_to_whole_graphs(make: Make) -> None:
    """One graph for a whole octave behind the bookkeeping: nothing in a step depends on numbers of the host."""
    lm, x = make(attention_pattern=("local", "lsh", "full")).eval(), tokens(2, 100)
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(lm, backend=counter)
    with torch.no_grad():
        full = lm(x).logits
        cache = ReformerCache(lm.config)
        lm(x[:, :70], past_key_values=cache)
        frames = []
        for at in range(70, 100):
            out = step(x[:, at : at + 1], past_key_values=cache).logits
            assert (out - full[:, at : at + 1]).abs().max() < 1e-9
            frames.append(counter.frame_count)
    assert frames[-1] == frames[2]
