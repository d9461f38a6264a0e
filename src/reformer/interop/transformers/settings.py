"""Configurations of transformers' Reformer and ours (`docs/interop.md` has the table)."""

from math import lcm, prod
from typing import Any

import transformers

from reformer.errors import InputError
from reformer.ops.bucket_counts import automatic_buckets
from reformer.ops.spec import Chunks
from reformer.settings import ModelSettings

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}
"""Theirs and ours, where they compute the same."""


def settings_of(config: transformers.ReformerConfig, length: int | None) -> dict[str, Any]:
    """Our settings of a configuration of theirs.

    `length`: that of the model's first call, tokens, from which transformers works out the number of buckets where
    the configuration has none; None: its longest.
    Raises InputError for an activation that ours does not have.
    """
    if config.hidden_act not in ACTIVATIONS:
        raise InputError(f"hidden_act={config.hidden_act!r} is not among {', '.join(ACTIVATIONS)}; ours has no other")
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.attn_layers),
        "attention_pattern": tuple(config.attn_layers),
        "num_attention_heads": config.num_attention_heads,
        "head_dim": config.attention_head_size,
        "intermediate_size": config.feed_forward_size,
        "hidden_act": ACTIVATIONS[config.hidden_act],
        "layer_norm_eps": config.layer_norm_eps,
        "position_embedding": "axial" if config.axial_pos_embds else "learned",
        "max_position_embeddings": config.max_position_embeddings,
        "causal": config.is_decoder,
        "rule": "chunk",
        "successor_values": False,
        "conv_size": 0,
        "local_rule": "chunk",
        "length_multiple": length_multiple(config),
        "embedding_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.local_attention_probs_dropout_prob,
        "hidden_dropout": config.hidden_dropout_prob,
        "chunk_size_feed_forward": config.chunk_size_feed_forward,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _first(config.eos_token_id),
    }
    if config.axial_pos_embds:
        settings |= {"axial_shape": tuple(config.axial_pos_shape), "axial_dims": tuple(config.axial_pos_embds_dim)}
    if "local" in config.attn_layers:
        settings |= {
            "local_chunk_length": config.local_attn_chunk_length,
            "local_chunks_before": config.local_num_chunks_before,
            "local_chunks_after": config.local_num_chunks_after,
        }
    if "lsh" in config.attn_layers:
        settings |= {
            "chunk_length": config.lsh_attn_chunk_length,
            "chunks_before": config.lsh_num_chunks_before,
            "chunks_after": config.lsh_num_chunks_after,
            "num_hashes": config.num_hashes,
            "num_buckets": _buckets(config, length),
            "lsh_dropout": config.lsh_attention_probs_dropout_prob,
            "hash_rotations": "own" if config.hash_seed is None else "transformers",
            "hash_seed": config.hash_seed or 0,
        }
    return settings


def length_multiple(config: Any) -> int:
    """The least common multiple of the chunk lengths, to which transformers pads a whole model."""
    chunks = {"lsh": config.lsh_attn_chunk_length, "local": config.local_attn_chunk_length}
    return lcm(*(chunks[kind] for kind in set(config.attn_layers)))


def _buckets(config: Any, length: int | None) -> int | tuple[int, ...]:
    if config.num_buckets is not None:
        return config.num_buckets if isinstance(config.num_buckets, int) else tuple(config.num_buckets)
    chunk, longest = config.lsh_attn_chunk_length, config.max_position_embeddings
    multiple = length_multiple(config)
    padded = max(longest // multiple, 1) * multiple if length is None else -(-length // multiple) * multiple
    buckets = automatic_buckets(padded, chunk, 2 * max(int((longest // chunk) ** 0.5), chunk))
    return buckets if isinstance(buckets, int) else tuple(buckets)


def _first(token: int | list[int] | None) -> int | None:
    return token[0] if isinstance(token, list) else token


def config_of(settings: ModelSettings, head: bool) -> transformers.ReformerConfig:
    """A configuration of theirs for a model of ours, with an output layer or without.

    Raises InputError that lists all settings which transformers' Reformer does not have.
    """
    settings = settings.worked_out()
    depth = settings.num_hidden_layers
    layers = [settings.attention_pattern[i % len(settings.attention_pattern)] for i in range(depth)]
    if wrong := _foreign(settings, set(layers), head):
        raise InputError(f"transformers' Reformer is another model: {'; '.join(wrong)}")
    axial = settings.position_embedding == "axial"
    lsh, local = (_chunks(spec.rule) for spec in (settings.lsh, settings.local))
    values: dict[str, Any] = {
        "vocab_size": settings.vocab_size,
        "hidden_size": settings.hidden_size,
        "attn_layers": layers,
        "num_attention_heads": settings.num_attention_heads,
        "attention_head_size": settings.head_dim,
        "feed_forward_size": settings.intermediate_size,
        "hidden_act": settings.hidden_act,
        "layer_norm_eps": settings.layer_norm_eps,
        "axial_pos_embds": axial,
        "max_position_embeddings": settings.max_position_embeddings,
        "is_decoder": settings.causal,
        "num_hashes": settings.num_hashes,
        "num_buckets": _number_or_list(lsh.factors),
        "hash_seed": settings.hash_seed if settings.hash_rotations == "transformers" else None,
        "lsh_attn_chunk_length": lsh.length,
        "lsh_num_chunks_before": lsh.before,
        "lsh_num_chunks_after": lsh.after,
        "lsh_attention_probs_dropout_prob": _given(settings.lsh_dropout, settings.attention_dropout),
        "local_attn_chunk_length": local.length,
        "local_num_chunks_before": local.before,
        "local_num_chunks_after": local.after,
        "local_attention_probs_dropout_prob": settings.attention_dropout,
        "hidden_dropout_prob": settings.hidden_dropout,
        # there it must divide the length
        "chunk_size_feed_forward": 1 if settings.chunk_size_feed_forward == 1 else 0,
        "pad_token_id": settings.pad_token_id,
        "bos_token_id": settings.bos_token_id,
        "eos_token_id": settings.eos_token_id,
    }
    if axial:
        assert settings.axial_shape is not None
        longest = max(settings.max_position_embeddings, prod(settings.axial_shape))
        values |= {"axial_pos_shape": settings.axial_shape, "axial_pos_embds_dim": settings.axial_dims}
        values["max_position_embeddings"] = longest
    config = transformers.ReformerConfig(**values)
    multiple, own = length_multiple(config), settings.length_multiple or 1
    chunks = {"lsh": lsh.length, "local": local.length}
    alike = {chunks[kind] for kind in layers} == {multiple} and multiple % own == 0
    if own != multiple and not alike:
        raise InputError(
            f"transformers' Reformer pads to a multiple of {multiple}, the least common one of its chunks, and so "
            f"shows other chunks to each other than this model: length_multiple={own}, not {multiple}"
        )
    return config


def _chunks(rule: object) -> Chunks:
    """The chunks of a rule; of a kind of layer that the model does not have, theirs and ours have the same."""
    return rule if isinstance(rule, Chunks) else Chunks()


def _number_or_list(factors: tuple[int, ...] | None) -> int | list[int] | None:
    if factors is None or len(factors) > 1:
        return None if factors is None else list(factors)
    return factors[0]


def changes_of(settings: ModelSettings) -> list[str]:
    """What a configuration of theirs cannot say of a model of ours, though it computes the same in evaluation."""
    dropouts = (settings.embedding_dropout, settings.attention_output_dropout, settings.feed_forward_dropout)
    changes = []
    if any(p is not None and p != settings.hidden_dropout for p in dropouts):
        changes.append(f"all dropouts but those of attention become hidden_dropout={settings.hidden_dropout}")
    if "lsh" in settings.attention_pattern and settings.hash_rotations == "own":
        changes.append("rotations are drawn anew in every call (hash_seed=None), in evaluation too")
    return changes


def _given(value: float | None, other: float) -> float:
    return other if value is None else value


def _foreign(settings: ModelSettings, kinds: set[str], head: bool) -> list[str]:
    """What transformers' Reformer does not have."""
    wanted: dict[str, tuple[Any, ...]] = {
        "norm": ("layernorm",),
        "residual": ("twin",),
        "position_embedding": ("axial", "learned"),
        "stream_merge": ("concat",),
        "embedding_size": (None, settings.hidden_size),
        "hidden_act": ("relu", "gelu", "silu"),
        "share_layers": (False,),
        "tie_word_embeddings": (False,),
        "attention_bias": (False,),
        "lsh_rotary": (False,),
    }
    if "lsh" in kinds:
        wanted |= {
            "rule": ("chunk",),
            "duplicates": ("count",),
            "attention_scale": (1.0,),
            "conv_size": (0,),
            "share_rotations": (False,),
            "num_hashes_eval": (None, settings.num_hashes),
        }
    if "local" in kinds:
        wanted["local_rule"] = ("chunk",)
    if settings.causal and head:
        wanted |= {"chunks_after": (0,)} if "lsh" in kinds else {}
        wanted |= {"local_chunks_after": (0,)} if "local" in kinds else {}
    wrong = [
        f"{name}={getattr(settings, name)!r}, not {' or '.join(repr(value) for value in values)}"
        for name, values in wanted.items()
        if getattr(settings, name) not in values
    ]
    if "lsh" in kinds and settings.lsh.successor_values:
        wrong.append(f"successor_values={settings.successor_values!r}, not False")
    if "full" in kinds:
        wrong.append("attention_pattern has 'full', not only 'lsh' and 'local'")
    if settings.axial_shape is not None and len(settings.axial_shape) != 2:
        wrong.append(f"axial_shape={list(settings.axial_shape)} has {len(settings.axial_shape)} axes, not 2")
    return wrong
