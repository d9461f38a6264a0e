"""How often a forward and a training step make the host wait for the GPU: on a CPU, each look at a tensor counts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reformer.models import (
    ReformerConfig,
    ReformerForCausalLM,
    ReformerForConditionalGeneration,
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
)
from reformer.ops import backends

LOOKS = ("tolist", "numpy", "__array__", "cpu")


def waits() -> bool:
    """Whether who asks would wait for a GPU; not what is drawn on the CPU, nor Triton's interpreter."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if "/triton/" in frame.f_code.co_filename or frame.f_code.co_name in ("draw_seed", "draw_rotations"):
            return False
        frame = frame.f_back
    return True


class _Looks(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looks = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select", "aten.unique")
        if str(function).startswith(looks) and waits():
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    with monkeypatch.context() as patch, _Looks() as looks:
        for name in LOOKS:
            before = getattr(Tensor, name)

            def look(x: Tensor, *args: Any, name: str = name, before: Any = before, **kwargs: Any) -> Any:
                if waits():
                    looks.seen.append(name)
                return before(x, *args, **kwargs)

            patch.setattr(Tensor, name, look)
        yield looks.seen


def settings(**more: Any) -> ReformerConfig:
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 1, "window": 8}
    return ReformerConfig(**{**small, "local_window": 8, "num_hashes": 1, "conv_size": 3, **more})


IDS = torch.arange(2 * 40).view(2, 40) % 37 + 3
PADDED = (torch.arange(40) < torch.tensor([[40], [30]])).long()
DOCUMENTS = torch.arange(40).expand(2, -1) // 15
LABELLED = {"input_ids": IDS, "labels": IDS}
CHUNKS = {"rule": "chunk", "window": None, "chunk_length": 12}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Tensor]]] = {
    "plain": (ReformerForCausalLM, {}, LABELLED),
    "a mask without padding": (ReformerForCausalLM, {}, {**LABELLED, "attention_mask": torch.ones_like(IDS)}),
    "padding": (ReformerForCausalLM, {}, {**LABELLED, "attention_mask": PADDED}),
    "documents": (ReformerForCausalLM, {}, {**LABELLED, "segment_ids": DOCUMENTS}),
    "both": (ReformerForCausalLM, {}, {**LABELLED, "attention_mask": PADDED, "segment_ids": DOCUMENTS}),
    "learned positions": (
        ReformerForCausalLM,
        {"position_embedding": "learned", "max_position_embeddings": 40},
        {**LABELLED, "attention_mask": PADDED},
    ),
    "two-sided": (ReformerForMaskedLM, {"causal": False}, {**LABELLED, "attention_mask": PADDED}),
    "classes of texts": (
        ReformerForSequenceClassification,
        {"causal": False, "num_labels": 3},
        {"input_ids": IDS, "attention_mask": PADDED, "labels": torch.tensor([0, 2])},
    ),
    "classes of tokens": (
        ReformerForTokenClassification,
        {"causal": False, "num_labels": 40},
        {**LABELLED, "attention_mask": PADDED},
    ),
    "answers": (
        ReformerForQuestionAnswering,
        {"causal": False},
        {
            "input_ids": IDS,
            "attention_mask": PADDED,
            "start_positions": torch.tensor([1, 2]),
            "end_positions": torch.tensor([3, 4]),
        },
    ),
    "exact layers": (
        ReformerForCausalLM,
        {"attention_pattern": ("local", "full"), "shifted_keys": True},
        {**LABELLED, "attention_mask": PADDED, "segment_ids": DOCUMENTS},
    ),
    "encoder-decoder": (ReformerForConditionalGeneration, {}, {**LABELLED, "attention_mask": PADDED}),
    "chunks": (ReformerForCausalLM, CHUNKS, LABELLED),
    "chunks and documents": (ReformerForCausalLM, CHUNKS, {**LABELLED, "segment_ids": DOCUMENTS}),
}


@pytest.mark.parametrize(("case", "training"), [*((case, True) for case in CASES), ("plain", False), ("both", False)])
def test_a_forward_waits_once(case: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFORMER_BACKEND", "triton")
    monkeypatch.setitem(backends._missing, "numba", "a GPU has no use for it")
    kind, options, batch = CASES[case]
    torch.manual_seed(0)
    model = kind(settings(**options)).train(training)
    model(**batch)  # rotations of evaluation are drawn, kernels compiled
    with counted(monkeypatch) as seen:
        loss = model(**batch).loss
    assert len(seen) == 1, seen
    if training:
        with counted(monkeypatch) as seen:
            loss.backward()
        assert not seen
