"""Models of transformers' Reformer to ours and back: the same weights, the same function."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from reformer.errors import InputError
from reformer.interop.transformers.settings import changes_of, config_of, settings_of
from reformer.models import (
    ReformerConfig,
    ReformerForCausalLM,
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerModel,
    ReformerPreTrainedModel,
)
from reformer.ops.checks import check_integer
from reformer.settings import ModelSettings
from reformer.settings.json_file import first_name, read_object
from reformer.training.checkpoint import reading

logger = logging.getLogger(__name__)

HEADS: dict[str, type[ReformerPreTrainedModel]] = {
    "ReformerModel": ReformerModel,
    "ReformerModelWithLMHead": ReformerForCausalLM,
    "ReformerForMaskedLM": ReformerForMaskedLM,
    "ReformerForSequenceClassification": ReformerForSequenceClassification,
    "ReformerForQuestionAnswering": ReformerForQuestionAnswering,
}
"""Classes of theirs, and ours that compute the same."""

OUTPUTS: dict[str, dict[str, str]] = {
    "ReformerModel": {},
    "ReformerModelWithLMHead": {"lm_head.weight": "lm_head.decoder.weight", "lm_head.bias": "lm_head.bias"},
    "ReformerForMaskedLM": {"lm_head.weight": "lm_head.decoder.weight", "lm_head.bias": "lm_head.bias"},
    "ReformerForSequenceClassification": {
        f"{mine}.{what}": f"classifier.{yours}.{what}"
        for mine, yours in (("dense", "dense"), ("classifier", "out_proj"))
        for what in ("weight", "bias")
    },
    "ReformerForQuestionAnswering": {f"qa_outputs.{what}": f"qa_outputs.{what}" for what in ("weight", "bias")},
}
"""Names of the weights of each head, ours and theirs."""


APPLIED_BIAS = "lm_head.decoder.bias"
"""The bias of the output layer that transformers applies from 5.24 on; beside it there is one that it does not."""


def from_transformers(model_or_dir: transformers.PreTrainedModel | str | Path, length: int | None = None) -> Any:
    """A model of ours that computes what a Reformer of transformers computes, from a live one or a folder.

    `length`: tokens of the first call that transformers would see, which fixes its number of buckets where its
    configuration has none (`num_buckets=None`); None: the longest that it takes.
    The bias of the output layer is applied, as published checkpoints want it; transformers 5 before 5.24 leaves it out.
    Raises InputError for a head that ours does not have, named, and for a folder that holds no such model.
    """
    if length is not None:
        check_integer("length", length, 1)
    theirs: Any = _load(Path(model_or_dir)) if isinstance(model_or_dir, str | Path) else model_or_dir
    base = type(theirs).__name__
    if not isinstance(theirs.config, transformers.ReformerConfig) or base not in HEADS:
        raise InputError(f"{base} has a head that ours does not have; there are {', '.join(HEADS)}")
    more: dict[str, Any] = {}
    if base == "ReformerForSequenceClassification":
        more = {"pooling": "first", "id2label": theirs.config.id2label, "problem_type": theirs.config.problem_type}
    config = ReformerConfig(**settings_of(theirs.config, length), **more, dtype=theirs.dtype)
    ours: Any = HEADS[base](config)
    weights_of_theirs = theirs.state_dict()
    if APPLIED_BIAS in weights_of_theirs:
        weights_of_theirs["lm_head.bias"] = weights_of_theirs[APPLIED_BIAS]
    weights = {
        mine: weights_of_theirs[yours].reshape(ours.get_parameter(mine).shape)
        for mine, yours in _names(config.settings, base)
    }
    nn.Module.to(ours, theirs.device, theirs.dtype)
    ours.load_state_dict(weights)
    ours.train(theirs.training)
    return ours


def to_transformers(model: ReformerPreTrainedModel) -> transformers.PreTrainedModel:
    """A Reformer of transformers that computes what a model of ours computes.

    What transformers' configuration cannot say is logged as a warning: rotations of our own, differing dropouts, and
    the bias of the output layer, which is carried over and which transformers 5 before 5.24 does not apply.
    Raises InputError that lists all settings which transformers' Reformer does not have.
    """
    base = next((name for name, kind in HEADS.items() if isinstance(model, kind)), None)
    if base is None:
        raise InputError(f"transformers has no Reformer like {type(model).__name__}; there are {', '.join(HEADS)}")
    settings = model.config.settings
    if base == "ReformerForSequenceClassification" and settings.pooling != "first":
        raise InputError(f"transformers' Reformer classifies by the first token; pooling={settings.pooling!r} differs")
    config = config_of(settings, head=base == "ReformerModelWithLMHead")
    config.id2label, config.problem_type = model.config.id2label, model.config.problem_type
    config.architectures = [base]
    theirs: Any = getattr(transformers, base)(config).to(model.device, model.dtype)
    weights_of_ours, wanted = model.state_dict(), theirs.state_dict()
    weights = {yours: weights_of_ours[mine].reshape(wanted[yours].shape) for mine, yours in _names(settings, base)}
    if APPLIED_BIAS in wanted:
        weights[APPLIED_BIAS] = weights["lm_head.bias"]
    missing = [name for name in wanted if name not in weights and "mask_value" not in name]
    assert not missing, missing
    theirs.load_state_dict(weights, strict=False)
    for change in changes_of(settings):
        logger.warning("in transformers %s", change)
    if "lm_head.bias" in weights and APPLIED_BIAS not in wanted and bool(weights["lm_head.bias"].any()):
        logger.warning("transformers does not apply the bias of its output layer, which is not 0 in this model")
    theirs.train(model.training)
    return theirs


def read_type(folder: Path) -> str:
    """The type of the model in a folder. Raises InputError for a folder that holds none."""
    return str(_read(folder).get("model_type"))


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / "config.json")
    except InputError as error:
        raise InputError(f"{folder} holds no model: {error}") from None


def _load(folder: Path) -> transformers.PreTrainedModel:
    written = _read(folder)
    if written.get("model_type") != "reformer":
        raise InputError(f"{folder} holds a model of type {written.get('model_type')!r}, not 'reformer'")
    name = first_name(written, "architectures", "ReformerModelWithLMHead")
    if name not in HEADS:
        raise InputError(f"{folder}: {name} has a head that ours does not have; there are {', '.join(HEADS)}")
    kind: Any = getattr(transformers, name)
    with reading(folder):
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if report["missing_keys"]:
        wrong = ", ".join(sorted(map(str, report["missing_keys"]))[:3])
        raise InputError(f"{folder} holds weights of another model: {wrong} are missing")
    return model


def _names(settings: ModelSettings, head: str) -> Iterator[tuple[str, str]]:
    """Names of all weights, ours and theirs."""
    mine, yours = ("", "") if head == "ReformerModel" else ("model.", "reformer.")
    yield f"{mine}embeddings.token.weight", f"{yours}embeddings.word_embeddings.weight"
    position, table = f"{mine}embeddings.position", f"{yours}embeddings.position_embeddings"
    if settings.position_embedding == "axial":
        assert settings.axial_shape is not None
        for axis in range(len(settings.axial_shape)):
            yield f"{position}.tables.{axis}.weight", f"{table}.weights.{axis}"
    else:
        yield f"{position}.table.weight", f"{table}.embedding.weight"
    for layer in range(settings.num_hidden_layers):
        kind = settings.attention_pattern[layer % len(settings.attention_pattern)]
        ours, theirs = f"{mine}layers.blocks.{layer}", f"{yours}encoder.layers.{layer}"
        for part in ("query_key", "value") if kind == "lsh" else ("query", "key", "value"):
            yield f"{ours}.f.attention.{part}.weight", f"{theirs}.attention.self_attention.{part}.weight"
        yield f"{ours}.f.attention.out.weight", f"{theirs}.attention.output.dense.weight"
        for what in ("weight", "bias"):
            yield f"{ours}.f.norm.{what}", f"{theirs}.attention.layer_norm.{what}"
            yield f"{ours}.g.norm.{what}", f"{theirs}.feed_forward.layer_norm.{what}"
            yield f"{ours}.g.feed_forward.dense_in.{what}", f"{theirs}.feed_forward.dense.dense.{what}"
            yield f"{ours}.g.feed_forward.dense_out.{what}", f"{theirs}.feed_forward.output.dense.{what}"
    for what in ("weight", "bias"):
        yield f"{mine}norm.{what}", f"{yours}encoder.layer_norm.{what}"
    yield from OUTPUTS[head].items()
