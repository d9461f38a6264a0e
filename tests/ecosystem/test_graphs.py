"""One graph of a whole model: `torch.compile(fullgraph=True)` and `torch.export`, lengths open, masks of any kind."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer import InputError
from reformer.models import ReformerForCausalLM
from tests.ecosystem.models import CLASSES, inputs_of, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch.compile does so while it traces


def masked_inputs(model: Any, length: int) -> dict[str, Tensor]:
    mask = torch.ones(2, length, dtype=torch.long).tril_(length - 4)
    return {**inputs_of(model, length), "attention_mask": mask}


def small(kind: Any) -> Any:
    """Layers of both kinds under one head; a layer under the others, whose graphs differ in their heads alone."""
    return tiny(kind) if kind is ReformerForCausalLM else tiny(kind, num_hidden_layers=1, attention_pattern=("lsh",))


def assert_alike(found: Any, model: Any, inputs: dict[str, Tensor]) -> None:
    assert (found[0] - model(**inputs)[0]).abs().max() < 1e-5


IN_CI = (ReformerForCausalLM,)
"""Those whose graphs are not parts of another one's, but for the head."""

CASES = [
    *(
        pytest.param(kind, masked_inputs, marks=[] if kind in IN_CI else pytest.mark.slow, id=kind.__name__)
        for kind in CLASSES
    ),
    pytest.param(CLASSES[1], inputs_of, marks=pytest.mark.slow),
]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "make"), CASES)
def test_evaluation_is_one_graph(kind: Any, make: Any) -> None:
    torch._dynamo.reset()
    model = small(kind)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (12, 33):
        inputs = make(model, length)
        assert_alike(compiled(**inputs), model, inputs)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{"window": 64, "bucket_size": 4}, pytest.param({"rule": "chunk"}, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.slow
def test_texts_shorter_than_the_window(changes: dict[str, Any]) -> None:
    torch._dynamo.reset()
    if "rule" in changes:
        changes = {"rule": "chunk", "chunk_length": 4, "window": None, "num_buckets": 4}
    model = tiny(local_window=300, **changes)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (12, 70):
        inputs = masked_inputs(model, length)
        assert_alike(compiled(**inputs), model, inputs)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "make"), CASES)
def test_an_exported_program_takes_any_length(kind: Any, make: Any) -> None:
    model = small(kind)
    inputs = make(model, 12)
    lengths = {name: {1: torch.export.Dim.AUTO} for name in inputs}
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (), kwargs=inputs, dynamic_shapes=lengths), file)
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    for length in (12, 33):
        inputs = make(model, length)
        assert_alike(loaded(**inputs), model, inputs)


@pytest.mark.parametrize("single", [False, True])
def test_training_is_one_graph_where_it_can_be(single: bool) -> None:
    torch._dynamo.reset()
    model = tiny(reversible=False, **({"residual": "single"} if single else {})).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = inputs_of(model)
    grads = []
    for run in (compiled, model):
        model.zero_grad()
        run(**inputs, labels=inputs["input_ids"], seed=3).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*grads, strict=True))


def test_training_that_cannot_be_one_graph_says_why() -> None:
    torch._dynamo.reset()
    model = tiny().train()
    inputs = inputs_of(model)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="reversible=False"):
        torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    for changes in ({}, {"reversible": False}):
        with pytest.raises(InputError, match=r"model\.eval\(\)"):
            torch.export.export(tiny(**changes).train(), (), kwargs=inputs)


@pytest.mark.parametrize(
    "changes", [{}, {"reversible": False}, {"reversible": False, "attention_pattern": ("lsh",)}], ids=str
)
@pytest.mark.parametrize("transform", ["grad", "vmap", "both"])
def test_transforms_of_torch_func_are_refused(changes: dict[str, Any], transform: str) -> None:
    model = tiny(**changes)
    weights, ids = dict(model.named_parameters()), inputs_of(model)["input_ids"]

    def loss(weights: dict[str, Any], ids: Tensor) -> Any:
        return torch.func.functional_call(model, weights, (), {"input_ids": ids, "labels": ids}).loss

    run = loss if transform == "vmap" else torch.func.grad(loss)
    if transform != "grad":
        run, ids = torch.func.vmap(run, (None, 0)), ids[:, None]
    with pytest.raises(InputError, match=r"torch\.func.*in a loop over rows"):
        run(weights, ids)
