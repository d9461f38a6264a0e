"""Going on from a model: low-rank adapters, positions beyond its length."""

import warnings
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from reformer.errors import InputError
from reformer.layers.positions import PositionTable
from reformer.models import ReformerConfig, ReformerForCausalLM, ReformerPreTrainedModel
from reformer.models.cache import differing
from reformer.settings import ModelSettings
from reformer.settings.json_file import first_name
from reformer.settings.lora import LoraSettings
from reformer.training.checkpoint import load_model, read_config, reading

LAYERS = "model"
"""The name of what models of all tasks but translation have in common."""

FREE = {
    "max_position_embeddings",
    "axial_shape",
    "embedding_dropout",
    "attention_dropout",
    "lsh_dropout",
    "hidden_dropout",
    "attention_output_dropout",
    "feed_forward_dropout",
    "chunk_size_feed_forward",
    "loss_chunk",
    "label_smoothing",
    "pooling",
    "num_hashes",
    "num_hashes_eval",
    "hash_seed",
    "reversible",
}
"""Settings that a trained model may change: they have no weights of their own, or some that can be carried over."""


HEADLESS = FREE | {"causal"}
"""Settings that a model of another task may change, which begins with another head."""


def start_from(
    folder: str,
    settings: ModelSettings,
    seed: int,
    kind: type[ReformerPreTrainedModel] = ReformerForCausalLM,
    **config: Any,
) -> ReformerPreTrainedModel:
    """The model in a folder with these settings, or one of another task on its layers.

    What is new in it depends on the seed; `config` goes beyond the settings.
    Raises InputError as `load_model` and `adapt` do.
    """
    set_seed(seed)
    return adapt(load_model(Path(folder)), settings, kind, **config)


def check_init(folder: str, settings: ModelSettings, kind: type[ReformerPreTrainedModel]) -> None:
    """InputError for settings that the model in a folder cannot take, before there is anything to train on."""
    written = read_config(Path(folder))
    same = first_name(written, "architectures", kind.__name__) == kind.__name__
    with reading(Path(folder)):
        config = ReformerConfig.from_pretrained(folder)
    _check_changes(config.settings, settings, FREE if same else HEADLESS)


def _check_changes(before: ModelSettings, after: ModelSettings, free: set[str]) -> None:
    fixed = [name for name in differing(before, after) if name not in free]
    if fixed:
        old, new = before.worked_out(), after.worked_out()
        named = [name for name in fixed if getattr(after, name) is not None] or fixed  # the others follow from these
        now = ", ".join(f"{name}={getattr(new, name)!r} (it has {getattr(old, name)!r})" for name in named)
        raise InputError(f"a trained model keeps what it is; leave out {now}")


def adapt(
    model: ReformerPreTrainedModel,
    settings: ModelSettings,
    kind: type[ReformerPreTrainedModel] = ReformerForCausalLM,
    **config: Any,
) -> ReformerPreTrainedModel:
    """The model with other settings, or for another task; learned positions beyond the trained ones are new.

    Raises InputError for settings whose weights are another model's, for fewer positions, and for a task that an
    encoder-decoder cannot go on to, or that cannot go on to one.
    """
    same = type(model) is kind and all(getattr(model.config, name) == value for name, value in config.items())
    changed = differing(model.config.settings, settings)
    _check_changes(model.config.settings, settings, FREE if same else HEADLESS)
    if same and not changed:
        return model
    fresh = kind(ReformerConfig(**asdict(settings), **config))
    weights = model.state_dict()
    if {"max_position_embeddings", "axial_shape"} & set(changed):
        _carry_positions(fresh, weights, model.config.settings, settings)
    if same:
        fresh.load_state_dict(weights)
        return fresh
    shared = {name: weight for name, weight in weights.items() if name.startswith(f"{LAYERS}.")}
    if not shared or not hasattr(fresh, LAYERS):
        raise InputError(
            f"a {kind.__name__} cannot go on from a {type(model).__name__}: they have no layers in common; "
            "leave out init"
        )
    fresh.load_state_dict({**fresh.state_dict(), **shared})
    return fresh


def _carry_positions(fresh: nn.Module, weights: dict[str, Any], before: ModelSettings, after: ModelSettings) -> None:
    if before.position_embedding == "axial":
        assert before.axial_shape is not None
        assert after.axial_shape is not None
        if before.axial_shape[1:] != after.axial_shape[1:]:
            raise InputError(
                f"axial_shape={list(after.axial_shape)}: only its first number can grow, from {before.axial_shape[0]}; "
                "the others say where each position stands"
            )
    for name, module in fresh.named_modules():
        if not isinstance(module, PositionTable):
            continue
        old, new = weights[f"{name}.weight"], module.weight.detach().clone()
        if len(old) > len(new):
            raise InputError(
                f"the positions are {prod(before.axial_shape or (len(old),))}; fewer would forget trained ones: "
                "leave max_position_embeddings and axial_shape as they are, or raise them"
            )
        new[: len(old)] = old
        weights[f"{name}.weight"] = new


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """A peft model: all weights frozen, low-rank matrices beside those of attention and feed-forward layers.

    Raises InputError without peft.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("lora needs peft: pip install 'reformer-torch[lora]'") from None
    names = [name for name, module in model.model.layers.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=[f"model.layers.{name}" for name in names],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, at a call of peft's
        return get_peft_model(model, config)


def merge_lora(model: Any) -> ReformerForCausalLM:
    """The model with its low-rank matrices added to the frozen ones."""
    with torch.no_grad():
        return model.merge_and_unload()
