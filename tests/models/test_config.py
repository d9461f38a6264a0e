import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from reformer.models import ReformerConfig
from reformer.models.model import ReformerModel
from reformer.settings import ModelSettings

OTHER_VALUES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 48,
    "embedding_size": 24,
    "num_hidden_layers": 5,
    "num_decoder_layers": 2,
    "share_layers": True,
    "attention_pattern": ("lsh", "full"),
    "num_attention_heads": 3,
    "head_dim": 10,
    "attention_bias": True,
    "intermediate_size": 77,
    "hidden_act": "swiglu",
    "norm": "rmsnorm",
    "layer_norm_eps": 1e-12,
    "position_embedding": "axial",
    "lsh_rotary": True,
    "axial_shape": (4, 8),
    "axial_dims": (16, 32),
    "max_position_embeddings": 333,
    "causal": False,
    "reversible": False,
    "stream_merge": "mean",
    "num_hashes": 7,
    "num_hashes_eval": 9,
    "share_rotations": True,
    "num_buckets": (4, 6),
    "rule": "chunk",
    "rule_version": 2,
    "successor_values": False,
    "conv_size": 7,
    "shifted_keys": True,
    "chunk_length": 11,
    "chunks_before": 2,
    "chunks_after": 1,
    "duplicates": "once",
    "attention_scale": 0.125,
    "hash_seed": 5,
    "hash_rotations": "transformers",
    "local_rule": "chunk",
    "local_chunk_length": 21,
    "local_chunks_before": 0,
    "local_chunks_after": 2,
    "length_multiple": 9,
    "embedding_dropout": 0.1,
    "attention_dropout": 0.2,
    "lsh_dropout": 0.3,
    "hidden_dropout": 0.4,
    "attention_output_dropout": 0.5,
    "feed_forward_dropout": 0.6,
    "chunk_size_feed_forward": 32,
    "loss_chunk": 64,
    "label_smoothing": 0.1,
    "pooling": "last",
    "residual": "single",
    "decoder_start_token_id": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 2,
    "bos_token_id": 3,
    "eos_token_id": 4,
}


OF_THE_OTHER_RULE: dict[str, Any] = {"window": 13, "bucket_size": 5, "factor_from": 17, "local_window": 19}


@pytest.mark.parametrize("values", [OTHER_VALUES, OF_THE_OTHER_RULE], ids=["other values", "of the other rule"])
def test_every_field_survives_its_round_trip(values: dict[str, Any], tmp_path: Path) -> None:
    names = {field.name for field in fields(ModelSettings)}
    assert names == {*OTHER_VALUES, *OF_THE_OTHER_RULE}, "a new field belongs into this test"
    config = ReformerConfig(**values)
    config.save_pretrained(tmp_path)
    for loaded in (
        ReformerConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        ReformerConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        for name, value in values.items():
            assert getattr(loaded, name) == value, name
        assert loaded.settings == config.settings
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "reformer_torch"


def test_defaults_survive_too(tmp_path: Path) -> None:
    ReformerConfig().save_pretrained(tmp_path)
    assert ReformerConfig.from_pretrained(tmp_path).settings == ModelSettings()


def test_what_is_left_open_follows_the_others(tmp_path: Path) -> None:
    """By every way: a changed field, `replace`, a loaded folder, a file that was edited."""
    asked = ReformerConfig(hidden_size=512)
    expected = asked.settings.worked_out()
    assert (expected.head_dim, expected.intermediate_size) == (128, 2048)
    config = ReformerConfig()
    config.save_pretrained(tmp_path)
    loaded = ReformerConfig.from_pretrained(tmp_path, hidden_size=512)
    assert (loaded.head_dim, loaded.intermediate_size) == (128, 2048)
    assert AutoConfig.from_pretrained(tmp_path, hidden_size=512).settings == asked.settings
    assert replace(config.settings, hidden_size=512) == asked.settings
    config.hidden_size = 512
    assert config.settings == asked.settings
    assert config.to_dict() == asked.to_dict()
    assert ReformerModel(config).config.head_dim == 128


def test_what_was_asked_for_stays(tmp_path: Path) -> None:
    ReformerConfig(head_dim=64, vocab_size=259).save_pretrained(tmp_path)
    loaded = ReformerConfig.from_pretrained(tmp_path, hidden_size=512)
    assert (loaded.head_dim, loaded.intermediate_size) == (64, 2048)
    assert "vocab_size" not in loaded.to_dict()["left_open"]
    config = ReformerConfig()
    config.head_dim = 32
    assert config.settings == ModelSettings(head_dim=32)


def test_a_number_that_somebody_wrote_into_the_file_counts(tmp_path: Path) -> None:
    ReformerConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["head_dim"] == 64  # for other libraries to read
    assert written["vocab_size"] == 259
    assert {"head_dim", "vocab_size", "window"} <= set(written["left_open"])
    (tmp_path / "config.json").write_text(json.dumps(written | {"head_dim": 32}))
    assert ReformerConfig.from_pretrained(tmp_path).settings == ModelSettings(head_dim=32)


def test_another_rule_takes_no_number_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chunks = ReformerConfig(rule="chunk")
    assert (chunks.num_buckets, chunks.window) == ((32, 64), None)
    assert replace(chunks.settings, rule="bucket") == ModelSettings()
    chunks.save_pretrained(tmp_path)
    assert ReformerConfig.from_pretrained(tmp_path, rule="bucket").settings == ModelSettings()
    chunks.rule = "bucket"
    assert chunks.settings == ModelSettings()
    ReformerConfig(rule="chunk", chunk_length=8, num_buckets=6).save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        assert ReformerConfig.from_pretrained(tmp_path, rule="bucket").settings == ModelSettings()
    assert "chunk_length=8 is dropped: it goes with another rule than rule='bucket'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "chunk", "window": 8}, "window=8 goes with rule='bucket' and the rule is 'chunk': leave one out"),
        ({"chunks_before": 1}, "chunks_before=1 goes with rule='chunk' and the rule is 'bucket'"),
        ({"local_rule": "chunk", "local_window": 8}, "local_window=8 goes with local_rule='window' and the rule is"),
        ({"local_chunk_length": 8}, "local_chunk_length=8 goes with local_rule='chunk' and the rule is 'window'"),
        ({"length_multiple": 2}, "length_multiple=2 goes with rule='chunk'"),
        ({"local_window": 0}, "local_window=0 must be an integer of at least 1"),
    ],
)
def test_options_of_the_other_rule_are_refused(settings: dict[str, Any], message: str) -> None:
    for kind in (ModelSettings, ReformerConfig):
        with pytest.raises(ValueError, match=message):
            kind(**settings)


def test_length_multiple_is_for_either_kind_of_chunks() -> None:
    assert ModelSettings(local_rule="chunk", length_multiple=6).local.rule.multiple == 6  # type: ignore[union-attr]
    assert ModelSettings(rule="chunk", length_multiple=6).lsh.rule.multiple == 6  # type: ignore[union-attr]


def test_derived_values() -> None:
    config = ReformerConfig(hidden_size=96, num_attention_heads=3)
    assert (config.head_dim, config.intermediate_size, config.num_buckets) == (32, 384, None)
    assert ReformerConfig(rule="chunk", max_position_embeddings=4096).num_buckets == 128
    long = ReformerConfig(rule="chunk", max_position_embeddings=524_288, chunk_length=64)
    assert long.num_buckets == (128, 128)
    assert ReformerConfig(rule="chunk", max_position_embeddings=30).num_buckets == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hashs": 3}, "no field 'num_hashs'; did you mean 'num_hashes'"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=256"),
        ({"window": 0}, "window=0 must be an integer of at least 1"),
        ({"norm": "layer_norm"}, "norm='layer_norm' is none of layernorm, rmsnorm; did you mean 'layernorm'"),
        ({"attention_pattern": ["local", "lhs"]}, "did you mean 'lsh'"),
        ({"attention_pattern": []}, "attention_pattern is empty"),
        ({"position_embedding": "axial"}, "needs axial_shape"),
        ({"position_embedding": "axial", "axial_shape": [4, 4], "axial_dims": [100, 100]}, "add up to 200; they must"),
        ({"position_embedding": "axial", "axial_shape": [4], "axial_dims": [100, 156]}, "has 1 axes"),
        ({"head_dim": 3}, "head_dim=3 is odd"),
        (
            {"rule_version": 1},
            "rule_version=1 is none that this library computes, which is 2: train the model again, or",
        ),
        ({"num_buckets": 48}, "a power of two"),
        ({"rule": "chunk", "num_buckets": [4, 3]}, "an even number"),
        ({"hash_rotations": "transformers"}, "goes with rule='chunk'"),
        ({"lsh_rotary": True}, "lsh_rotary=True needs rule='chunk'"),
        ({"length_multiple": 0}, "length_multiple=0"),
        ({"hidden_dropout": 1.0}, "hidden_dropout=1.0"),
        ({"pad_token_id": 259}, "pad_token_id=259 must be an integer from 0 to 258"),
        ({"causal": "false"}, "causal='false' is of the wrong kind; it must be true or false"),
        ({"attention_pattern": 3}, "attention_pattern=3 is of the wrong kind; it must be a list of texts"),
        ({"attention_scale": "x"}, "attention_scale='x' is of the wrong kind; it must be a number"),
        ({"hash_seed": 1.5}, "hash_seed=1.5 is of the wrong kind; it must be an integer"),
        ({"head_dim": "8"}, "head_dim='8' is of the wrong kind; it must be an integer or none"),
        ({"output_attentions": True}, "never forms the matrix"),
    ],
)
def test_bad_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReformerConfig(**settings)


def test_a_value_changed_later_is_checked_by_the_model() -> None:
    config = ReformerConfig()
    config.num_hashes = 0
    with pytest.raises(ValueError, match="num_hashes=0"):
        ReformerModel(config)
