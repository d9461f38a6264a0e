"""transformers' own Trainer over our models: label smoothing and counts of labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from reformer.data.tokenizer import ByteTokenizer
from reformer.data.windows import Collate
from reformer.layers.blocks import Block
from reformer.models import causal_lm
from tests.ecosystem.models import tiny

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    return TrainingArguments(str(folder), report_to=[], use_cpu=True, disable_tqdm=True, max_steps=1, **changes)


def test_label_smoothing_is_of_the_next_token(tmp_path: Path) -> None:
    model = tiny()
    ids = torch.randint(2, 40, (2, 12))
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.05))
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": ids})
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, ids[:, 1:].flatten(), label_smoothing=0.05)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_counts_of_labels_are_counts_of_predictions() -> None:
    """Windows cut into pieces and documents kept apart: what nobody predicts has no label."""
    torch.manual_seed(0)
    windows = []
    for length in (40, 33):
        ids = torch.randint(3, 40, (length,))
        ids[[0, 9, 20]] = ByteTokenizer.end
        windows.append({"input_ids": ids, "labels": ids, "segment_ids": (torch.arange(length) > 15).long()})
    for apart in (True, False):
        batch = Collate(ByteTokenizer(), apart=apart, shifted=True)(windows)
        output = tiny(vocab_size=259)(**batch)
        assert int(output.predicted) == int((batch["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize("pattern", [("local", "lsh"), ("full",)])
def test_flattened_documents_do_not_see_each_other(pattern: Any) -> None:
    """`DataCollatorWithFlattening` packs documents into one row, and position_ids begin again at 0."""
    model = tiny(attention_pattern=pattern)
    documents = [torch.randint(2, 40, (length,)).tolist() for length in (7, 1, 12)]
    batch = DataCollatorWithFlattening()([{"input_ids": ids} for ids in documents])
    output = model(**batch)
    alone = [model(torch.tensor([ids]), labels=torch.tensor([ids])) for ids in documents]
    assert int(output.predicted) == sum(int(one.predicted) for one in alone) == 17
    expected = sum(one.loss * one.predicted for one in alone) / 17
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    logits = torch.cat([one.logits for one in alone], dim=1)
    assert (output.logits - logits).abs().max() < 1e-5
    whole, positions = batch["input_ids"], torch.arange(5, 25)[None]  # positions that go on are one document
    one = model(whole, segment_ids=torch.zeros_like(whole), position_ids=positions)
    assert torch.equal(model(whole, position_ids=positions).logits, one.logits)


def test_logits_that_are_asked_for_come_with_a_loss_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    model, ids = tiny(loss_chunk=5), torch.randint(2, 40, (2, 12))
    whole = tiny()(ids, labels=ids)
    for keep in (1, 3, torch.tensor([2, 5])):
        output = model(ids, labels=ids, logits_to_keep=keep)
        expected = whole.logits[:, -keep:] if isinstance(keep, int) else whole.logits[:, keep]
        assert (output.logits - expected).abs().max() < 1e-6
        assert output.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert model(ids, labels=ids).logits is None


def test_labels_that_are_counted_and_not_learned_are_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collator of others gives each token a label, the first of a document too."""
    said: list[str] = []
    monkeypatch.setattr(causal_lm.logger, "warning_once", said.append)
    model, ids = tiny(), torch.randint(2, 40, (2, 12))
    documents = (torch.arange(12) > 5).long().expand(2, -1)
    model(ids, labels=ids, segment_ids=documents)
    model(ids, labels=ids, num_items_in_batch=22)
    labels = ids.clone()
    labels[:, 6] = -100
    model(ids, labels=labels, segment_ids=documents, num_items_in_batch=20)
    assert not said
    model(ids, labels=ids, segment_ids=documents, num_items_in_batch=22)
    assert "loss is too small" in said[0]


@pytest.mark.parametrize(
    "changes", [{}, {"reversible": False}, {"reversible": False, "residual": "single"}], ids=["twin", "plain", "single"]
)
def test_blocks_in_wrappers_of_checkpointing(changes: dict[str, Any]) -> None:
    grads = []
    for wrapped in (False, True):
        model = tiny(**changes, hidden_dropout=0.1).train()
        if wrapped:
            apply_activation_checkpointing(
                model, checkpoint_wrapper_fn=checkpoint_wrapper, check_fn=lambda module: isinstance(module, Block)
            )
        torch.manual_seed(3)
        ids = torch.randint(2, 40, (2, 12), generator=torch.Generator().manual_seed(1))
        model(ids, labels=ids, seed=4).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_hook_on_a_block_sees_its_streams() -> None:
    model, seen = tiny(), []
    model.model.layers.blocks[0].register_forward_hook(lambda _, inputs, output: seen.append(output[0].behind))
    states = model(torch.randint(2, 40, (2, 12)), output_hidden_states=True).hidden_states
    assert torch.equal(torch.cat(seen[0], -1), states[1])
