"""Weights of reformer-pytorch's models in ours (`docs/interop.md` has the table of its options)."""

from collections.abc import Iterator
from typing import Any

import reformer_pytorch.reformer_pytorch as theirs
import torch
from axial_positional_embedding import AxialPositionalEmbedding
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.layers.reversible import ReversibleSequence
from reformer.models import ReformerConfig, ReformerForCausalLM, ReformerModel
from reformer.models.stack import make_stack
from reformer.ops.checks import check_integer
from reformer.settings import ModelSettings

ACTIVATIONS: dict[type[nn.Module], str] = {nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu"}


def from_reformer_pytorch(
    model: nn.Module, length: int | None = None
) -> ReformerForCausalLM | ReformerModel | ReversibleSequence:
    """A model of ours with the weights and options of a ReformerLM, or a stack of ours with those of a Reformer.

    A stack takes and gives two streams: `y1, y2 = stack(x, x)`, and `(y1 + y2) / 2` is what a Reformer returns.
    `length`: tokens, a multiple of two buckets, whose number of buckets is taken, where reformer-pytorch takes that
    of each input; None: the longest of a ReformerLM.
    Raises InputError that lists all options which ours does not have, and for a Reformer without `length`.
    """
    if length is not None:
        check_integer("length", length, 1)
    if isinstance(model, theirs.Reformer):
        if length is None:
            raise InputError("a Reformer does not say for which length it is; give length")
        settings = ModelSettings(**_settings_of_layers(model, length), position_embedding="none")
        stack = make_stack(settings).to(_like(model))
        assert isinstance(stack, ReversibleSequence)
        stack.load_state_dict(dict(_layers(model, settings)))
        return stack.train(model.training)
    if not isinstance(model, theirs.ReformerLM):
        raise InputError(f"{type(model).__name__} is neither a ReformerLM nor a Reformer of reformer-pytorch")
    options = _settings_of_layers(model.reformer, length or model.max_seq_len)
    config = ReformerConfig(**options, **_settings_of_ends(model))
    head = isinstance(model.out, nn.Sequential)
    if head and not config.causal:
        raise InputError("causal=False with an output layer: ours has no such head; give return_embeddings=True")
    converted = ReformerForCausalLM(config) if head else ReformerModel(config)
    prefix = "model." if head else ""
    weights = {f"{prefix}layers.{name}": weight for name, weight in _layers(model.reformer, config.settings)}
    weights |= {f"{prefix}{name}": weight for name, weight in _ends(model)}
    if head:
        weights |= _head(model)
    nn.Module.to(converted, _like(model))
    converted.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    converted.train(model.training)
    return converted


def _like(model: nn.Module) -> Tensor:
    return next(model.parameters())


def _attention(model: theirs.Reformer) -> theirs.LSHSelfAttention:
    return model.layers.blocks[0].f.net.fn


def _settings_of_layers(model: theirs.Reformer, length: int) -> dict[str, Any]:
    if wrong := _foreign(model):
        raise InputError(f"these options of reformer-pytorch have no counterpart: {'; '.join(wrong)}")
    attention, feed_forward = _attention(model), model.layers.blocks[0].g.net.fn.fn
    multiple = 2 * attention.bucket_size
    padded = -(-length // multiple) * multiple
    return {
        "hidden_size": model.dim,
        "num_hidden_layers": model.depth,
        "attention_pattern": ("lsh",),
        "num_attention_heads": attention.heads,
        "head_dim": attention.dim_head,
        "attention_bias": True,
        "intermediate_size": feed_forward.w2.in_features,
        "hidden_act": ACTIVATIONS[type(feed_forward.act)],
        "layer_norm_eps": model.layers.blocks[0].f.net.norm.eps,
        "causal": attention.lsh_attn.causal,
        "stream_merge": "mean",
        "rule": "chunk",
        "num_hashes": attention.lsh_attn.n_hashes,
        "num_buckets": padded // attention.bucket_size,
        "chunk_length": attention.bucket_size,
        "length_multiple": multiple,
        "duplicates": "count" if attention.lsh_attn._allow_duplicate_attention else "once",
        "share_rotations": not attention.lsh_attn._random_rotations_per_head,
        "attention_scale": attention.dim_head**-0.5,
        "successor_values": False,
        "conv_size": 0,
        "lsh_dropout": attention.lsh_attn.dropout.p,
        "attention_output_dropout": attention.post_attn_dropout.p,
        "pad_token_id": None,
        "eos_token_id": None,
    }


def _foreign(model: theirs.Reformer) -> list[str]:
    """Options that ours does not have."""
    f, g = model.layers.blocks[0].f.net, model.layers.blocks[0].g.net
    if isinstance(f, theirs.ReZero):
        return ["use_rezero=True (ours has a norm in front of each branch)"]
    attention = f.fn
    memories = any(not isinstance(block.g.net.fn, theirs.Chunk) for block in model.layers.blocks)
    wrong = {
        "use_scale_norm=True (ours has LayerNorm)": isinstance(f.norm, theirs.ScaleNorm),
        "pkm_layers (product-key memory)": memories,
        f"num_mem_kv={attention.num_mem_kv}": attention.num_mem_kv > 0,
        f"n_local_attn_heads={attention.n_local_attn_heads} (ours has local layers)": attention.n_local_attn_heads > 0,
        "use_full_attn=True": attention.use_full_attn,
        f"full_attn_thres={attention.full_attn_thres}": attention.full_attn_thres >= 2 * attention.bucket_size,
        "lsh_attend_across_buckets=False": not attention.lsh_attn._attend_across_buckets,
    }
    if not memories:
        feed_forward = g.fn.fn
        wrong["ff_glu=True (ours has swiglu only)"] = feed_forward.glu
        wrong[f"ff_activation={type(feed_forward.act).__name__}"] = type(feed_forward.act) not in ACTIVATIONS
    return [name for name, here in wrong.items() if here]


def _settings_of_ends(model: theirs.ReformerLM) -> dict[str, Any]:
    if isinstance(model.to_model_dim, nn.Linear):
        width = model.token_emb.embedding_dim
        raise InputError(
            f"emb_dim={width} is not dim={model.reformer.dim}: reformer-pytorch adds positions before it widens the "
            "embeddings, ours behind"
        )
    rotary = isinstance(model.layer_pos_emb, theirs.FixedPositionalEmbedding)
    return {
        "vocab_size": model.token_emb.num_embeddings,
        "max_position_embeddings": model.max_seq_len,
        "position_embedding": "rotary" if rotary else "learned",
        "lsh_rotary": rotary,
    }


def _layers(model: theirs.Reformer, settings: ModelSettings) -> Iterator[tuple[str, Tensor]]:
    """Weights of the stack under our names; of layers that share theirs, a copy each."""
    rotary = settings.lsh_rotary
    for layer, block in enumerate(model.layers.blocks):
        f, g = block.f.net, block.g.net
        attention, feed_forward, name = f.fn, g.fn.fn, f"blocks.{layer}"
        query_key = attention.toqk.weight
        if rotary:
            query_key = _pairs_apart(query_key, attention.heads)
        parts = {
            "f.norm": f.norm,
            "g.norm": g.norm,
            "f.attention.out": attention.to_out,
            "g.feed_forward.dense_in": feed_forward.w1,
            "g.feed_forward.dense_out": feed_forward.w2,
        }
        for part, module in parts.items():
            yield f"{name}.{part}.weight", module.weight
            yield f"{name}.{part}.bias", module.bias
        yield f"{name}.f.attention.query_key.weight", query_key
        yield f"{name}.f.attention.value.weight", attention.tov.weight.repeat(attention.v_head_repeats, 1)


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """Rows (2i, 2i + 1) of each head, which reformer-pytorch turns together, to (i, i + d/2), which ours does."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _ends(model: theirs.ReformerLM) -> Iterator[tuple[str, Tensor]]:
    yield "embeddings.token.weight", model.token_emb.weight
    if isinstance(model.pos_emb, nn.Module) and not isinstance(model.pos_emb, theirs.Always):
        yield "embeddings.position.table.weight", _positions(model)
    yield "norm.weight", model.norm.weight
    yield "norm.bias", model.norm.bias


@torch.no_grad()
def _positions(model: theirs.ReformerLM) -> Tensor:
    """Absolute, axial (which adds its axes up) or fixed positions as a table of one vector a position."""
    if isinstance(model.pos_emb, AxialPositionalEmbedding):
        like = _like(model).new_zeros(1, model.max_seq_len, model.token_emb.embedding_dim)
    else:
        like = torch.zeros(1, model.max_seq_len, device=_like(model).device)
    table: Tensor = model.pos_emb(like)
    return table.reshape(model.max_seq_len, -1).to(_like(model).dtype)


def _head(model: theirs.ReformerLM) -> dict[str, Tensor]:
    last = model.out[1]
    if isinstance(last, theirs.MatrixMultiply):  # tied: the token embeddings, each divided by its norm
        weight = nn.functional.normalize(model.token_emb.weight, dim=-1)
        return {"lm_head.weight": weight, "lm_head.bias": weight.new_zeros(weight.shape[0])}
    return {"lm_head.weight": last.weight, "lm_head.bias": last.bias}
