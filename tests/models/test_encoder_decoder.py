"""The encoder-decoder: gradients, one run of the encoder, decoding, conventions."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from reformer.layers import cross_attention
from reformer.layers.cross_attention import CrossAttention
from reformer.models import ReformerCache, ReformerConfig, ReformerForConditionalGeneration, save_cache
from tests.over import over

VARIANTS: list[dict[str, Any]] = [
    {},
    {"position_embedding": "sinusoidal", "num_decoder_layers": 1, "stream_merge": "mean", "hidden_act": "swiglu"},
    {"tie_word_embeddings": True, "embedding_size": 8, "share_layers": True, "num_hidden_layers": 4, "norm": "rmsnorm"},
    {"rule": "chunk", "chunk_length": 8, "num_buckets": 4, "attention_bias": True, "loss_chunk": 7},
    {"attention_pattern": ("full",), "position_embedding": "learned", "max_position_embeddings": 64},
]
PLAIN: dict[str, Any] = {"attention_pattern": ("full",), "residual": "single", "reversible": False}


def make(**settings: Any) -> ReformerForConditionalGeneration:
    small: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "window": 4,
        "local_window": 4,
        "num_hashes": 2,
    }
    torch.manual_seed(0)
    return ReformerForConditionalGeneration(ReformerConfig(**over(small, settings))).double()


def pairs() -> dict[str, Tensor]:
    """Two sources and two targets, the second of each shorter."""
    generator = torch.Generator().manual_seed(1)
    source, labels = (torch.randint(3, 40, (2, n), generator=generator) for n in (21, 13))
    labels[1, 9:] = -100
    mask = torch.ones(2, 21, dtype=torch.long)
    mask[1, 15:] = 0
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)
    model(**pairs()).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_gradients_are_those_of_plain_autograd(settings: dict[str, Any]) -> None:
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1, "label_smoothing": 0.1}
    model = make(**settings, **dropout)
    plain = make(**settings, **dropout, reversible=False)
    plain.load_state_dict(model.state_dict())
    found, wanted = gradients(model), gradients(plain)
    assert set(found) == set(wanted) == {name for name, _ in model.named_parameters()}
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max().clamp(min=1), name


def test_the_encoder_runs_once_forward_and_once_to_recover() -> None:
    model = make(num_decoder_layers=5)
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    for side in ("encoder", "decoder"):
        for i, block in enumerate(getattr(model, side).layers.blocks):
            block.f.register_forward_hook(count(f"{side} {i}"))
    output = model(**pairs())
    assert set(calls.values()) == {1}
    output.loss.backward()
    assert set(calls.values()) == {2}
    assert len(calls) == 7


@pytest.mark.parametrize("settings", [*VARIANTS, PLAIN], ids=str)
def test_decoding_over_a_cache_is_that_without(settings: dict[str, Any]) -> None:
    model = make(**settings).eval()
    source = {name: value for name, value in pairs().items() if name != "labels"}
    for options in ({}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.6}):
        common: dict[str, Any] = {**source, "max_new_tokens": 15, "do_sample": False, **options}
        found = model.generate(**common)
        assert torch.equal(found, model.generate(**common, use_cache=False))
        assert (found[:, 0] == 1).all()
    torch.manual_seed(3)
    model.generate(**source, max_new_tokens=5, do_sample=True, num_return_sequences=3)


def test_tokens_one_by_one_give_the_whole_forward() -> None:
    model, batch = make().eval(), pairs()
    inputs = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    whole = model(**source, decoder_input_ids=inputs).logits
    cache, states = ReformerCache(model.config), model.encoder(**source)
    parts = [
        model(
            attention_mask=batch["attention_mask"],
            encoder_outputs=states,
            decoder_input_ids=part,
            past_key_values=cache,
        ).logits
        for part in inputs.split((4, 1, 1, 7), dim=1)
    ]
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-10
    with pytest.raises(ValueError, match="belongs to its sources"):
        save_cache(cache, Path("never"), model)


def test_beams_share_the_keys_of_their_source() -> None:
    model = make().eval()
    caches: list[ReformerCache] = []
    hook = model.decoder.register_forward_hook(
        lambda _, args, kwargs, out: caches.append(out.past_key_values), with_kwargs=True
    )
    source = {name: value for name, value in pairs().items() if name != "labels"}
    model.generate(**source, num_beams=4, max_new_tokens=6, do_sample=False)
    hook.remove()
    cross = caches[-1].cross
    assert [layer.keys.shape[0] for layer in cross if layer.keys is not None] == [2, 2]
    assert {layer.repeats for layer in cross} == {4}
    bytes_of_keys = sum(2 * 21 * 16 * 8 * 2 + 2 * 21 for _ in cross)  # two rows; keys and values, and the mask
    assert sum(layer.bytes() for layer in cross) == bytes_of_keys
    before = cross[0].keys
    cross[0].select(torch.tensor([5, 4, 0, 0]))  # the other source first, and fewer beams
    assert before is not None
    assert cross[0].keys is not None
    assert torch.equal(cross[0].keys, before[[1, 0]])
    cross[0].select(torch.tensor([0, 2, 3]))  # no longer as many of each
    assert cross[0].repeats == 1
    assert torch.equal(cross[0].keys, before[[1, 0, 0]])


def test_padding_of_source_and_target_changes_nothing() -> None:
    model, batch = make().eval(), pairs()
    whole = model(**batch)
    alone = model(input_ids=batch["input_ids"][1:, :15], labels=batch["labels"][1:, :9])
    assert (whole.logits[1:, :9] - alone.logits).abs().max() < 1e-10
    left = {
        "input_ids": F.pad(batch["input_ids"][1:, :15], (6, 0)),
        "attention_mask": batch["attention_mask"][1:].flip(1),
        "labels": batch["labels"][1:, :9],
    }
    assert (model(**left).logits - alone.logits).abs().max() < 1e-10
    nothing = model(
        input_ids=batch["input_ids"], attention_mask=torch.zeros(2, 21, dtype=torch.long), labels=batch["labels"]
    )
    assert nothing.logits.isfinite().all()


def test_a_loss_with_smoothed_labels_that_counts_tokens() -> None:
    model, batch = make(label_smoothing=0.2), pairs()
    output = model(**batch)
    flat, labels = output.logits.flatten(0, 1), batch["labels"].flatten()
    assert torch.allclose(output.loss, F.cross_entropy(flat, labels, label_smoothing=0.2))
    assert int(output.predicted) == 22
    assert torch.allclose(model(**batch, num_items_in_batch=11).loss * 11, output.loss * 22, rtol=0.2)
    model.eval()
    output = model(**batch)
    assert torch.allclose(output.loss, F.cross_entropy(output.logits.flatten(0, 1), labels))
    pieces = make(label_smoothing=0.2, loss_chunk=5).eval()
    pieces.load_state_dict(model.state_dict())
    again = pieces(**batch)
    assert again.logits is None
    assert torch.allclose(again.loss, output.loss)
    assert int(again.correct) == int(output.correct)


def test_saving_loading_and_the_embeddings_of_both_sides(tmp_path: Path) -> None:
    model = make(tie_word_embeddings=True, num_decoder_layers=3)
    assert model.decoder.embeddings is model.encoder.embeddings
    assert not any(name.startswith("decoder.embeddings") for name, _ in model.named_parameters())
    assert model.config.decoder_start_token_id == 1
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert type(again) is ReformerForConditionalGeneration
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    # products may round otherwise where weights begin at another address
    assert (again.eval()(**pairs()).logits - model.eval()(**pairs()).logits).abs().max() < 1e-12
    assert again.lm_head.weight is again.encoder.embeddings.token.weight
    moved = copy.deepcopy(again)
    assert moved.decoder.embeddings is moved.encoder.embeddings
    again.resize_token_embeddings(44)
    assert again(**pairs()).logits.shape[-1] == 44
    assert again.lm_head.weight is again.decoder.get_input_embeddings().weight


def test_a_plain_transformer_has_one_stream() -> None:
    model = make(**PLAIN, position_embedding="sinusoidal")
    x = torch.randn(1, 7, 16, dtype=torch.float64)
    wanted = x
    for block in model.encoder.layers.blocks:
        wanted = wanted + block.f(wanted)
        wanted = wanted + block.g(wanted)
    kwargs: list[dict[str, Any]] = [{} for _ in range(model.encoder.layers.depth)]
    assert torch.equal(model.encoder.layers(x, x, kwargs)[0], wanted)
    assert model.encoder(inputs_embeds=x).last_hidden_state.shape[-1] == 16
    assert len(model.encoder(inputs_embeds=x, output_hidden_states=True).hidden_states) == 3
    with pytest.raises(ValueError, match="residual='single' cannot be recovered"):
        make(residual="single")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cross_attention_in_pieces(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(16, 24, 4, dropout=dropout).double()
    x = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    source = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])

    def run() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        out = layer(x, source, mask)
        return out, *torch.autograd.grad(out.square().sum(), (x, source, *layer.parameters()))

    whole = run()
    monkeypatch.setattr(cross_attention, "SCORES", 2 * 4 * 5 * 3)
    pieces = run()
    assert all(value.isfinite().all() for value in pieces)
    if not dropout:
        for a, b in zip(whole, pieces, strict=True):
            assert (a - b).abs().max() < 1e-12
        with torch.no_grad():
            assert (layer(x, source, mask) - whole[0]).abs().max() < 1e-12
    assert not whole[0][1].any()
    q, k, v = (
        m(s).unflatten(-1, (4, 4)).transpose(1, 2)
        for m, s in ((layer.query, x), (layer.key, source), (layer.value, source))
    )
    scores = (q[:1] @ k[:1].mT / 2).masked_fill(~mask[0], -torch.inf).softmax(-1)
    dense = layer.out((scores @ v[:1]).transpose(1, 2).flatten(2))
    if not dropout:
        assert (dense - whole[0][:1]).abs().max() < 1e-12


def test_pieces_of_cross_attention_within_the_reversible_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(make())
    monkeypatch.setattr(cross_attention, "SCORES", 2 * 2 * 21 * 4)
    pieces = gradients(make())
    assert set(pieces) == set(whole)
    assert all((pieces[name] - gradient).abs().max() < 1e-12 for name, gradient in whole.items())


def test_tokens_may_be_renamed_after_the_model_was_made() -> None:
    model = make().eval()
    model.config.eos_token_id = model.config.bos_token_id = model.generation_config.eos_token_id = 2
    source = {name: value for name, value in pairs().items() if name != "labels"}
    assert model.generate(**source, max_new_tokens=3, do_sample=False).shape[0] == 2


def test_refusals() -> None:
    model, batch = make(), pairs()
    with pytest.raises(ValueError, match="the target is missing"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match=r"labels have shape \[2, 13\]; they must be \[b, l\] = \[2, 4\]"):
        model(**batch, decoder_input_ids=batch["labels"][:, :4].abs())
    with pytest.raises(ValueError, match="encoder_hidden_states are missing"):
        model.decoder(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="this model has no cross-attention"):
        model.encoder(input_ids=batch["input_ids"], encoder_hidden_states=torch.zeros(2, 3, 32))
    with pytest.raises(ValueError, match="the source's attention_mask has shape"):
        model(input_ids=batch["input_ids"], encoder_outputs=model.encoder(batch["input_ids"]), labels=batch["labels"],
              attention_mask=torch.ones(2, 3))  # fmt: skip
    with pytest.raises(ValueError, match="a decoder needs a token to start with"):
        make(eos_token_id=None)
    with pytest.raises(ValueError, match="begins each target anew"):
        model.eval().generate(batch["input_ids"], past_key_values=ReformerCache(model.config), max_new_tokens=2)
