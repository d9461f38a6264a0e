"""Models of transformers' Reformer and ours compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import reformer
from reformer.interop.transformers import from_transformers, to_transformers
from reformer.models import ReformerConfig, ReformerForCausalLM, ReformerModel
from tests.interop.models import random_batch, random_config, random_model


def outputs(model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=tokens, attention_mask=mask, return_dict=True)
    out = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return out if mask is None else out[mask.bool()]


def first_call(theirs: transformers.PreTrainedModel) -> int:
    """A first call that fixes the number of buckets there, where the configuration has none; its length."""
    length = 3 * max(theirs.config.lsh_attn_chunk_length, theirs.config.local_attn_chunk_length) + 1
    outputs(theirs, torch.ones(1, length, dtype=torch.long), None)
    return length


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("number", range(40))
def test_the_same_outputs_both_ways(number: int, padded: bool) -> None:
    config = random_config(number)
    theirs = random_model(config)
    buckets = config.num_buckets
    length = first_call(theirs)
    theirs.config.num_buckets = buckets
    ours = from_transformers(theirs, length)
    assert isinstance(ours, ReformerForCausalLM if config.is_decoder else ReformerModel)
    back = to_transformers(ours)
    for k in range(3):
        tokens, mask = random_batch(10 * number + k, config.vocab_size, config.max_position_embeddings - 24, padded)
        wanted = outputs(theirs, tokens, mask)
        torch.testing.assert_close(outputs(ours, tokens, mask), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(outputs(back, tokens, mask), wanted, rtol=0, atol=0)


def used_weights(theirs: Any) -> dict[str, torch.Tensor]:
    """All but the bias that transformers does not use where it has another one."""
    weights = dict(theirs.state_dict())
    if "lm_head.decoder.bias" in weights:
        del weights["lm_head.bias"]
    return weights


@pytest.mark.parametrize("number", range(0, 40, 4))
def test_a_round_trip_keeps_names_weights_and_settings(number: int) -> None:
    theirs = random_model(random_config(number, num_buckets=4))
    back = to_transformers(from_transformers(theirs))
    assert type(back) is type(theirs)
    assert list(back.state_dict()) == list(theirs.state_dict())
    for name, weight in used_weights(theirs).items():
        assert torch.equal(weight, back.state_dict()[name]), name
    drop = {"architectures", "dtype", "use_cache", "_name_or_path", "transformers_version"}
    wanted, found = ({k: v for k, v in m.config.to_dict().items() if k not in drop} for m in (theirs, back))
    irrelevant = {
        "lsh": [k for k in wanted if k.startswith(("lsh_", "num_buckets", "num_hashes", "hash_seed"))],
        "local": [k for k in wanted if k.startswith("local_")],
    }
    for kind, keys in irrelevant.items():
        if kind not in theirs.config.attn_layers:
            wanted, found = ({k: v for k, v in d.items() if k not in keys} for d in (wanted, found))
    if not theirs.config.axial_pos_embds:
        wanted, found = ({k: v for k, v in d.items() if not k.startswith("axial")} for d in (wanted, found))
    assert found == wanted


def test_gradients_are_the_same() -> None:
    """Theirs trains on multiples of the chunks, and on the whole grid of axial positions."""
    config = random_config(3, is_decoder=True, attn_layers=["local", "lsh", "lsh"], axial_pos_embds=True, num_buckets=4)
    config.axial_pos_shape, config.max_position_embeddings = (4, 12), 48
    config.lsh_attn_chunk_length, config.local_attn_chunk_length = 4, 8
    theirs = random_model(config).train()
    ours = from_transformers(theirs)
    tokens = torch.randint(1, config.vocab_size, (2, 48))
    for model in (theirs, ours):
        model(input_ids=tokens, labels=tokens).loss.backward()
    back = to_transformers(ours)
    for name, weight in used_weights(theirs).items():
        assert torch.equal(weight, back.state_dict()[name])
    pairs = {
        "model.embeddings.token.weight": "reformer.embeddings.word_embeddings.weight",
        "model.layers.blocks.1.f.attention.query_key.weight": (
            "reformer.encoder.layers.1.attention.self_attention.query_key.weight"
        ),
        "model.layers.blocks.0.f.attention.key.weight": (
            "reformer.encoder.layers.0.attention.self_attention.key.weight"
        ),
        "model.layers.blocks.2.g.feed_forward.dense_in.bias": "reformer.encoder.layers.2.feed_forward.dense.dense.bias",
    }
    for mine, yours in pairs.items():
        torch.testing.assert_close(
            ours.get_parameter(mine).grad,
            theirs.get_parameter(yours).grad,
            rtol=1e-6,
            atol=1e-8,  # theirs recovers its streams with an error
        )


def test_left_padding_needs_their_positions() -> None:
    theirs = random_model(random_config(5, is_decoder=True, num_buckets=4))
    ours = from_transformers(theirs)
    tokens = torch.randint(1, theirs.config.vocab_size, (2, 30))
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[1, :7] = 0
    slots = torch.arange(30)[None]
    with torch.no_grad():
        wanted = theirs(input_ids=tokens, attention_mask=mask).logits
        found = ours(input_ids=tokens, attention_mask=mask, position_ids=slots).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-9, atol=1e-9)


def test_the_bias_that_they_leave_out_is_applied(caplog: pytest.LogCaptureFixture) -> None:
    theirs = random_model(random_config(7, is_decoder=True, num_buckets=4))
    tokens, applied = torch.randint(1, theirs.config.vocab_size, (1, 20)), theirs.lm_head.decoder.bias
    bias = torch.nn.init.normal_(theirs.lm_head.bias if applied is None else applied)
    ours = from_transformers(theirs)
    wanted = outputs(theirs, tokens, None) + (bias.detach() if applied is None else 0)
    torch.testing.assert_close(outputs(ours, tokens, None), wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(to_transformers(ours).lm_head.bias, bias)
    assert ("does not apply the bias" in caplog.text) == (applied is None)


PUBLISHED = {
    "crime-and-punishment": {
        "attn_layers": ["local", "lsh"],
        "hidden_size": 256,
        "num_attention_heads": 2,
        "attention_head_size": 64,
        "feed_forward_size": 512,
        "axial_pos_shape": (512, 1024),
        "axial_pos_embds_dim": (64, 192),
        "max_position_embeddings": 524_288,
        "num_buckets": [64, 128],
        "num_hashes": 1,
        "vocab_size": 320,
    },
    "enwik8": {
        "attn_layers": ["local", "lsh"],
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "attention_head_size": 128,
        "feed_forward_size": 4096,
        "axial_pos_shape": (128, 512),
        "axial_pos_embds_dim": (256, 768),
        "max_position_embeddings": 65_536,
        "num_buckets": 512,
        "num_hashes": 4,
        "lsh_attn_chunk_length": 256,
        "local_attn_chunk_length": 128,
        "vocab_size": 258,
    },
}
"""The published checkpoints' configurations, with two layers."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_of_the_published_checkpoints(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ReformerConfig(**PUBLISHED[name], is_decoder=True, hash_seed=11, use_cache=False)
    theirs = transformers.ReformerModelWithLMHead(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = from_transformers(tmp_path).double()  # in fp32 some of many near-ties of the hash fall otherwise
    tokens = torch.randint(2, config.vocab_size, (1, 1500))
    wanted = outputs(theirs.double(), tokens, None)
    torch.testing.assert_close(outputs(ours, tokens, None), wanted, rtol=1e-9, atol=1e-9)


def test_models_of_another_kind_are_named() -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=40
    )
    with pytest.raises(ValueError, match="BertModel has a head that ours does not have"):
        from_transformers(transformers.BertModel(config))


def test_what_they_lack_is_listed() -> None:
    model = ReformerForCausalLM(ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match=r"position_embedding='rotary'.*local_rule='window'"):
        to_transformers(model)
    with pytest.raises(ValueError, match="hidden_act='gelu_new'"):
        from_transformers(random_model(random_config(1, hidden_act="gelu_new")))
    mixed = {"position_embedding": "learned", "max_position_embeddings": 64, "hidden_size": 16}
    with pytest.raises(ValueError, match=r"conv_size=4, not 0.*successor_values=True, not False"):
        to_transformers(chunked(conv_size=4, successor_values=None))
    chunks = {"rule": "chunk", "local_rule": "chunk", "chunk_length": 4, "local_chunk_length": 6, **AS_THEIRS}
    wrong = ReformerForCausalLM(ReformerConfig(**mixed, **chunks, num_hidden_layers=2, num_attention_heads=2))
    with pytest.raises(ValueError, match="length_multiple=1, not 12"):
        to_transformers(wrong)


AS_THEIRS = {"successor_values": False, "conv_size": 0}


def chunked(**settings: object) -> ReformerForCausalLM:
    common = {"position_embedding": "learned", "max_position_embeddings": 64, "hidden_size": 16}
    chunks = {"rule": "chunk", "local_rule": "chunk", "chunk_length": 4, "local_chunk_length": 4, "num_hashes": 2}
    chunks |= AS_THEIRS
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40, "pad_token_id": 0}
    return ReformerForCausalLM(ReformerConfig(**{**common, **chunks, **sizes, **settings})).double().eval()


def test_rings_that_are_longer_are_other_models() -> None:
    alike = chunked(hash_rotations="transformers")
    tokens = torch.randint(1, 40, (2, 13))
    wanted = outputs(alike, tokens, None)
    torch.testing.assert_close(outputs(to_transformers(alike), tokens, None), wanted, rtol=1e-9, atol=1e-9)
    for multiple, pattern in ((16, ("lsh",)), (8, ("local", "lsh"))):
        with pytest.raises(ValueError, match=f"length_multiple={multiple}, not 4"):
            to_transformers(chunked(length_multiple=multiple, attention_pattern=pattern))


def test_what_a_configuration_cannot_say_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    to_transformers(chunked(feed_forward_dropout=0.1))
    assert "all dropouts but those of attention become hidden_dropout=0.0" in caplog.text
    assert "rotations are drawn anew in every call" in caplog.text
    with pytest.raises(ValueError, match="chunks_after=1, not 0"):
        to_transformers(chunked(chunks_after=1))
    axial = {"position_embedding": "axial", "axial_shape": (16, 8), "axial_dims": (8, 8)}
    assert to_transformers(chunked(**axial)).config.max_position_embeddings == 128


@pytest.mark.parametrize("length", [0, -5, 2.5])
def test_lengths_are_positive_integers(length: float) -> None:
    with pytest.raises(ValueError, match=f"length={length}"):
        from_transformers(random_model(random_config(1)), length)


def test_folders_that_hold_no_reformer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        from_transformers(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert'"):
        from_transformers(tmp_path)
    random_model(random_config(3)).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="holds no checkpoint that can be read"):
        from_transformers(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no checkpoint that can be read"):
        from_transformers(tmp_path)


HEADS = ("ReformerForMaskedLM", "ReformerForSequenceClassification", "ReformerForQuestionAnswering")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("number", range(4))
def test_heads_go_there_and_back(head: str, number: int) -> None:
    labels = 5 if head.endswith("Classification") else 2
    config = random_config(number, is_decoder=False, num_labels=labels, num_buckets=4)
    torch.manual_seed(number)
    theirs: Any = getattr(transformers, head)(config).double().eval()
    if hasattr(theirs, "lm_head"):
        torch.nn.init.zeros_(theirs.lm_head.bias)  # which transformers leaves out
    ours = from_transformers(theirs)
    assert type(ours).__name__ == head
    tokens, _ = random_batch(number, config.vocab_size, 60, padded=False)
    for a, b in zip(ours(tokens).to_tuple(), theirs(tokens).to_tuple(), strict=True):
        assert (a - b).abs().max() < 1e-9
    again = to_transformers(ours)
    assert type(again) is type(theirs)
    assert again.config.num_labels == labels
    weights = again.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in theirs.state_dict().items())


def test_heads_that_transformers_has_not() -> None:
    config: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "causal": False}
    with pytest.raises(ValueError, match="transformers has no Reformer like ReformerForTokenClassification"):
        to_transformers(reformer.ReformerForTokenClassification(reformer.ReformerConfig(**config)))
    with pytest.raises(ValueError, match="classifies by the first token; pooling='mean' differs"):
        to_transformers(reformer.ReformerForSequenceClassification(reformer.ReformerConfig(**config)))
