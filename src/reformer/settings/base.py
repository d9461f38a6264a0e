"""Settings: dataclasses whose values are checked when an instance is made, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from reformer.errors import InputError
from reformer.ops.checks import nearest

RENAMED = {"logit_scale": "attention_scale"}
"""Names of before, and of now."""

OF_OTHERS = {
    # transformers' Reformer
    "attention_head_size": "head_dim",
    "attention_probs_dropout_prob": "attention_dropout",
    "attn_layers": "attention_pattern",
    "axial_norm_std": "axial_dims",
    "axial_pos_embds": "position_embedding",
    "axial_pos_embds_dim": "axial_dims",
    "axial_pos_shape": "axial_shape",
    "chunk_size_lm_head": "loss_chunk",
    "feed_forward_size": "intermediate_size",
    "hidden_dropout_prob": "hidden_dropout",
    "is_decoder": "causal",
    "local_attention_probs_dropout_prob": "attention_dropout",
    "local_attn_chunk_length": "local_chunk_length",
    "local_num_chunks_after": "local_chunks_after",
    "local_num_chunks_before": "local_chunks_before",
    "lsh_attention_probs_dropout_prob": "lsh_dropout",
    "lsh_attn_chunk_length": "chunk_length",
    "lsh_num_chunks_after": "chunks_after",
    "lsh_num_chunks_before": "chunks_before",
    # reformer-pytorch
    "attn_chunks": "chunk_size_feed_forward",
    "bucket_length": "bucket_size",
    "depth": "num_hidden_layers",
    "dim": "hidden_size",
    "dim_head": "head_dim",
    "emb_dim": "embedding_size",
    "ff_chunks": "chunk_size_feed_forward",
    "ff_dropout": "feed_forward_dropout",
    "ff_mult": "intermediate_size",
    "heads": "num_attention_heads",
    "max_seq_len": "max_position_embeddings",
    "n_hashes": "num_hashes",
    "n_local_attn_heads": "attention_pattern",
    "num_tokens": "vocab_size",
    "post_attn_dropout": "attention_output_dropout",
    "weight_tie": "share_layers",
    "weight_tie_embedding": "tie_word_embeddings",
    # other models of transformers
    "d_model": "hidden_size",
    "ffn_dim": "intermediate_size",
    "hidden_activation": "hidden_act",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "rms_norm_eps": "layer_norm_eps",
    "sliding_window": "local_window",
}
"""What other libraries call a field."""


def hint_at(name: str, names: Sequence[str]) -> str:
    """What a field is called now or here, or the nearest name there is, or nothing."""
    if RENAMED.get(name) in names:
        return f"; it is {RENAMED[name]!r} now"
    return f"; it is {OF_OTHERS[name]!r} here" if OF_OTHERS.get(name) in names else nearest(name, names)


@dataclass(kw_only=True)
class Settings:
    """Fields whose types and values are checked when an instance is made."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name in (each.name for each in fields(self)):
            value, kind = getattr(self, name), kinds[name]
            if isinstance(value, list):
                value = tuple(value)
                setattr(self, name, value)
            if not _fits(value, kind):
                raise InputError(f"{name}={value!r} is of the wrong kind; it must be {_in_words(kind)}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated kind; integers are numbers too, truth values are neither."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, get_args(kind)[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {_in_words(get_args(kind)[0]).removeprefix('a ').removeprefix('an ')}s"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(kind, str(kind))
