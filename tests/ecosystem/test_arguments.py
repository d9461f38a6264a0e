"""What programs for transformers models pass to any model, and call on it.

Kinds of check: `token_type_ids`, masks of other kinds, gradient checkpointing, embeddings that others wrap, output
embeddings, continuous batching, module names for sharding, padding without a mask, smaller tables of tokens.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from transformers import BertTokenizerFast, pipeline

import reformer
from reformer import InputError
from reformer.models import ReformerForCausalLM, ReformerForConditionalGeneration, ReformerForSequenceClassification
from tests.ecosystem.models import CLASSES, inputs_of, tiny

SINGLE = [kind for kind in CLASSES if kind is not ReformerForConditionalGeneration]


@pytest.mark.parametrize("kind", SINGLE)
def test_token_type_ids_are_taken(kind: Any) -> None:
    model = tiny(kind)
    inputs = inputs_of(model)
    types = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(model(**inputs)[0], model(**inputs, token_type_ids=types)[0])


def test_a_pipeline_with_a_tokenizer_that_makes_them(tmp_path: Any) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    model = tiny(ReformerForSequenceClassification, num_labels=3)
    found = pipeline("text-classification", model=model, tokenizer=tokenizer)(["a b", "c"])
    assert [set(one) for one in found] == [{"label", "score"}] * 2


@pytest.mark.parametrize("kind", CLASSES)
def test_masks_that_are_added_are_refused(kind: Any) -> None:
    model = tiny(kind)
    inputs = inputs_of(model)
    mask = torch.ones(2, 12)
    mask[0, 8:] = 0
    as_floats = model(**inputs, attention_mask=mask)[0]
    assert torch.equal(as_floats, model(**inputs, attention_mask=mask.long())[0])
    added = torch.zeros(2, 12).masked_fill(mask == 0, torch.finfo(torch.float32).min)
    with pytest.raises(ValueError, match=r"attention_mask holds 4 numbers other than 0 and 1"):
        model(**inputs, attention_mask=added)


@pytest.mark.parametrize("kind", CLASSES)
def test_gradient_checkpointing_goes_on_and_off(kind: Any) -> None:
    model = tiny(kind).train()
    model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    output = model(**inputs_of(model))[0]
    output.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", CLASSES)
def test_modules_to_shard_exist(kind: Any) -> None:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    model = tiny(kind)
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy is not None
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= names


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of transformers, at a call of peft's
@pytest.mark.parametrize("options", [{"target_modules": ["token", "query_key"]}, {"trainable_token_indices": [3, 4]}])
def test_adapters_on_embeddings(options: dict[str, Any]) -> None:
    model = tiny()
    inputs = inputs_of(model)
    before = model(**inputs).logits.detach()
    adapted = get_peft_model(model, LoraConfig(**{"target_modules": ["query_key"], **options}, task_type="CAUSAL_LM"))
    assert torch.equal(adapted(**inputs).logits, before)
    adapted.train()
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is not None]
    assert any("embeddings.token" in name for name in trained)
    with pytest.raises(ValueError, match="input_ids hold 40"):
        adapted(torch.full((1, 4), 40))


@pytest.mark.parametrize("merge", ["concat", "mean"])
@pytest.mark.parametrize("tied", [True, False])
def test_output_embeddings_take_hidden_states_or_are_none(merge: Any, tied: bool) -> None:
    model = tiny(stream_merge=merge, tie_word_embeddings=tied)
    inputs = inputs_of(model)
    head = model.get_output_embeddings()
    assert (head is None) == (tied and merge == "concat")
    if head is not None:
        assert torch.equal(head(model.model(**inputs).last_hidden_state), model(**inputs).logits)
    model.resize_token_embeddings(44)
    assert model(torch.full((1, 3), 43)).logits.shape == (1, 3, 44)


def test_continuous_batching_is_refused_at_once() -> None:
    model = tiny()
    for call in (
        lambda: model.generate_batch([[3, 4]]),
        lambda: model.init_continuous_batching(),
        lambda: model.generate(torch.tensor([[3, 4]]), cache_implementation="paged"),
    ):
        with pytest.raises(ValueError, match=r"continuous batching .* is not supported"):
            call()


@pytest.mark.parametrize("kind", CLASSES)
def test_quantizers_find_every_linear_layer(kind: Any) -> None:
    """They replace `nn.Linear`, and leave its subclasses alone."""
    layers = [module for module in tiny(kind).modules() if isinstance(module, torch.nn.Linear)]
    assert layers
    assert {type(layer) for layer in layers} == {torch.nn.Linear}


@pytest.mark.parametrize("kind", [ReformerForCausalLM, ReformerForConditionalGeneration])
def test_an_assistant_drafts(kind: Any) -> None:
    ids = inputs_of(tiny())["input_ids"][:1]
    for depth in (1, 2):  # one that is often wrong, and the model itself
        model, assistant = tiny(kind), tiny(kind, num_hidden_layers=depth)
        options = {"max_new_tokens": 12, "do_sample": False}
        assert torch.equal(model.generate(ids, **options, assistant_model=assistant), model.generate(ids, **options))


def test_layers_and_the_operation_refuse_masks_that_are_added() -> None:
    q, x = torch.randn(2, 2, 12, 8), torch.randn(2, 12, 16)
    added = torch.zeros(2, 12).masked_fill(torch.arange(12) > 8, -1e9)
    calls = [partial(reformer.lsh_attention, q, q, seed=0)]
    calls += [
        partial(kind(16, 2), x) for kind in (reformer.LSHAttention, reformer.LocalAttention, reformer.FullAttention)
    ]
    for call in calls:
        with pytest.raises(ValueError, match="key_padding_mask holds 6 numbers other than 0 and 1"):
            call(key_padding_mask=added)
        call(key_padding_mask=(added == 0).float())


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_causal_classifier_finds_padding_by_its_token(pooling: str) -> None:
    model = tiny(ReformerForSequenceClassification, causal=True, pooling=pooling)
    ids = torch.randint(2, 40, (3, 12))
    ids[0, 8:], ids[1, :3] = 0, 0
    ids[2, 5] = 0  # a token like others, between others
    mask = torch.ones_like(ids)
    mask[0, 8:], mask[1, :3] = 0, 0
    assert torch.equal(model(ids).logits, model(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("kind", CLASSES)
def test_special_tokens_stay_inside_of_a_smaller_table(kind: Any, tmp_path: Path) -> None:
    model = tiny(kind, eos_token_id=30)
    with pytest.raises(InputError, match=r"eos_token_id=30 .* model\.config\.eos_token_id"):
        model.resize_token_embeddings(20)
    model.config.eos_token_id = 3
    if model.config.is_encoder_decoder:
        model.config.decoder_start_token_id = 3
    model.resize_token_embeddings(20)
    model.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 20
