"""Heads over the two-sided encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from reformer.models import (
    ReformerConfig,
    ReformerForCausalLM,
    ReformerForConditionalGeneration,
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
    ReformerModel,
    ReformerPreTrainedModel,
)
from reformer.models.model import pool
from tests.over import over

HEADS: dict[type[ReformerPreTrainedModel], Any] = {
    ReformerForMaskedLM: AutoModelForMaskedLM,
    ReformerForSequenceClassification: AutoModelForSequenceClassification,
    ReformerForTokenClassification: AutoModelForTokenClassification,
    ReformerForQuestionAnswering: AutoModelForQuestionAnswering,
}
RULES: list[dict[str, Any]] = [
    {},
    {"rule": "chunk", "chunk_length": 8, "chunks_after": 1, "num_buckets": 4},
    {"attention_pattern": ("full",), "residual": "single", "reversible": False, "position_embedding": "learned"},
]


def make(kind: Any, **settings: Any) -> Any:
    small: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "window": 4,
        "local_window": 4,
        "num_labels": 3,
        "causal": False,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    return kind(ReformerConfig(**over(small, settings))).double()


def labels_for(kind: Any, ids: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if kind is ReformerForSequenceClassification:
        return {"labels": torch.tensor([2, 0])}
    if kind is ReformerForQuestionAnswering:
        return {"start_positions": torch.tensor([3, 5]), "end_positions": torch.tensor([4, 9])}
    labels = ids.clone() if kind is ReformerForMaskedLM else torch.randint(3, ids.shape, generator=generator)
    return {"labels": labels.masked_fill(torch.rand(ids.shape, generator=generator) > 0.5, -100)}


def tokens() -> Tensor:
    return torch.randint(3, 40, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", RULES, ids=str)
@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_every_head_learns_saves_and_loads(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    model, ids = make(kind, **settings), tokens()
    output = model(ids, **labels_for(kind, ids))
    output.loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert 0 <= int(output.correct) <= int(output.predicted)
    model.eval().save_pretrained(tmp_path)
    again = HEADS[kind].from_pretrained(tmp_path, dtype=torch.float64)
    assert type(again) is kind
    assert torch.equal(again(ids)[0], model(ids)[0])
    assert torch.equal(model(ids, return_dict=False)[0], model(ids)[0])
    reversible = settings.get("reversible", True)
    if reversible:
        plain = make(kind, **settings, reversible=False)
        plain(ids, **labels_for(kind, ids)).loss.backward()
        torch.manual_seed(0)
        assert plain.model.embeddings.token.weight.grad is not None


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("settings", [{}, RULES[2], {"pooling": "first"}, {"pooling": "last"}], ids=str)
def test_padding_changes_nothing(kind: Any, settings: dict[str, Any]) -> None:
    model, ids = make(kind, **settings).eval(), tokens()
    lengths = (30, 17)
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    labels = labels_for(kind, ids)
    if kind in (ReformerForMaskedLM, ReformerForTokenClassification):
        labels["labels"] = labels["labels"].masked_fill(~mask, -100)
    together = model(ids, attention_mask=mask.long(), **labels)
    losses = []
    for i, length in enumerate(lengths):
        own = {k: v[i : i + 1, :length] if v.dim() == 2 else v[i : i + 1] for k, v in labels.items()}
        alone = model(ids[i : i + 1, :length], **own)
        padded, single = together[1][i : i + 1], alone[1]
        if kind is not ReformerForSequenceClassification:
            padded = padded[:, :length]
        assert (padded - single).abs().max() < 1e-10
        losses.append(alone.loss * alone.predicted)
    assert torch.allclose(sum(losses) / together.predicted, together.loss)
    left = model(F.pad(ids[1:, :17], (5, 0)), attention_mask=F.pad(torch.ones(1, 17), (5, 0)))[0]
    if kind is ReformerForSequenceClassification:
        assert (left - together.logits[1:]).abs().max() < 1e-10


def test_losses_are_those_of_the_conventions() -> None:
    ids = tokens()
    for kind in (ReformerForMaskedLM, ReformerForTokenClassification, ReformerForSequenceClassification):
        model, wanted = make(kind), labels_for(kind, ids)["labels"]
        output = model(ids, labels=wanted)
        logits = output.logits.flatten(0, -2)
        assert torch.allclose(output.loss, F.cross_entropy(logits, wanted.flatten()))
        count = int((wanted != -100).sum())
        assert int(output.predicted) == count
        assert int(output.correct) == int((logits.argmax(-1) == wanted.flatten()).sum())
    model, spans = make(ReformerForQuestionAnswering), labels_for(ReformerForQuestionAnswering, ids)
    output = model(ids, **spans)
    ends = [(output.start_logits, spans["start_positions"]), (output.end_logits, spans["end_positions"])]
    assert torch.allclose(output.loss, sum(F.cross_entropy(*pair) for pair in ends) / 2)
    outside = model(ids, start_positions=torch.tensor([3, 99]), end_positions=torch.tensor([4, -100]))
    assert int(outside.predicted) == 1
    padded = model(ids, attention_mask=(torch.arange(30) < 20).long().expand(2, -1))
    assert (padded.start_logits.softmax(-1)[:, 20:] == 0).all()


def test_classes_several_classes_and_numbers() -> None:
    ids = tokens()
    model = make(ReformerForSequenceClassification)
    several = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    output = model(ids, labels=several)
    assert torch.allclose(output.loss, F.binary_cross_entropy_with_logits(output.logits, several.double()))
    assert int(output.predicted) == 6
    number = make(ReformerForSequenceClassification, num_labels=1)
    output = number(ids, labels=torch.tensor([0.5, 2.0]))
    assert torch.allclose(output.loss, F.mse_loss(output.logits[:, 0], torch.tensor([0.5, 2.0]).double()))
    with pytest.raises(ValueError, match="labels hold 3; num_labels=3, so 0 to 2 are valid"):
        make(ReformerForSequenceClassification)(ids, labels=torch.tensor([3, 0]))
    with pytest.raises(ValueError, match=r"labels have shape \[2, 2\]; for multi_label_classification"):
        model(ids, labels=torch.zeros(2, 2))
    causal = make(ReformerForSequenceClassification, causal=True, pooling="last").eval()
    assert torch.equal(causal(ids).logits, causal(ids, attention_mask=torch.ones_like(ids)).logits)


def test_pooling() -> None:
    hidden = torch.randn(3, 5, 2)
    real = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0] * 5]).bool()
    assert torch.allclose(pool(hidden, real, "mean")[0], hidden[0, 1:3].mean(0))
    assert torch.equal(pool(hidden, real, "first")[:2], torch.stack((hidden[0, 1], hidden[1, 0])))
    assert torch.equal(pool(hidden, real, "last")[:2], torch.stack((hidden[0, 2], hidden[1, 4])))
    for how in ("mean", "first", "last"):
        assert not pool(hidden, real, how)[2].any()
        assert torch.allclose(pool(hidden, torch.ones(3, 5).bool(), how), pool(hidden, None, how))
    model = make(ReformerModel).eval()
    output = model(tokens())
    assert torch.equal(output.pooler_output, output.last_hidden_state.mean(1))
    assert make(ReformerModel, causal=True)(tokens()).pooler_output is None
    with pytest.raises(ValueError, match="the first token of a causal model sees nothing else"):
        make(ReformerForSequenceClassification, causal=True, pooling="first")
    for kind in (ReformerForMaskedLM, ReformerForTokenClassification, ReformerForQuestionAnswering):
        with pytest.raises(ValueError, match="reads both ways; make its config with causal=False"):
            make(kind, causal=True)


def test_a_two_sided_model_sees_both_ways_and_twice_the_window() -> None:
    """A token's output depends on tokens behind it, and on none that no layer reaches."""
    model = make(ReformerModel, attention_pattern=("local",), num_hidden_layers=1, local_window=4).eval()
    ids = tokens()[:1]
    changed = ids.clone()
    changed[0, 20] = 3 + (ids[0, 20] - 2) % 37
    moved = (model(ids).last_hidden_state - model(changed).last_hidden_state).abs().amax(-1)[0] > 1e-12
    assert moved.nonzero()[:, 0].tolist() == list(range(17, 24))


def test_losses_add_up_over_micro_batches() -> None:
    """As the Trainer accumulates: sums divided by the items of the whole batch."""
    ids = tokens()
    cases = [
        (ReformerForSequenceClassification, {}, torch.tensor([2, 0]), 2),
        (ReformerForSequenceClassification, {"num_labels": 1}, torch.tensor([0.5, 2.0]), 2),
        (ReformerForSequenceClassification, {}, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), 6),
        (ReformerForTokenClassification, {}, torch.randint(3, ids.shape), ids.numel()),
    ]
    for kind, settings, labels, items in cases:
        model = make(kind, **settings).eval()
        whole = model(ids, labels=labels).loss
        parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=items).loss for i in (0, 1)]
        assert torch.allclose(sum(parts), whole)


@pytest.mark.parametrize("kind", [ReformerModel, ReformerForCausalLM, *HEADS, ReformerForConditionalGeneration])
def test_rotations_of_a_given_seed(kind: Any) -> None:
    """In training, whatever the generator is at; in evaluation instead of `hash_seed`."""
    changes = {"causal": kind is ReformerForCausalLM, "attention_pattern": ("lsh",), "pad_token_id": 0}
    model = make(kind, **changes, eos_token_id=1, decoder_start_token_id=1)
    ids = torch.randint(2, 40, (2, 30))
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}

    def first(**options: Any) -> Tensor:
        output = model(**inputs, **options)
        return (output[0] if kind is not ReformerForConditionalGeneration else output.logits).detach()

    for mode in (True, False):
        model.train(mode)
        assert torch.equal(first(seed=3), first(seed=3))
        assert not torch.equal(first(seed=3), first(seed=4))
        state = torch.get_rng_state()
        first(seed=3)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first(), first(seed=0)) or model.config.is_encoder_decoder  # hash_seed
