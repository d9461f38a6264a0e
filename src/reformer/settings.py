"""The fields of a model, without torch: the one source for `ReformerConfig`, the TOML file and the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from reformer.ops.bucket_counts import automatic_buckets
from reformer.ops.checks import check_choice, check_integer, check_probability, nearest
from reformer.ops.spec import LOCAL_RULES, LSH, LSH_RULES, OPTIONS, Local, make_local, make_lsh

RULE_VERSION = 2
"""The meaning of LSH layers that this library computes (`docs/rule.md`)."""

RENAMED = {"logit_scale": "attention_scale"}
"""Names of before, and of now."""

ATTENTION_KINDS = ("local", "lsh", "full")


def check_rule_version(version: object) -> None:
    """ValueError for a model that was trained with another meaning of its layers."""
    if version != RULE_VERSION:
        raise ValueError(
            f"rule_version={version!r} is none that this library computes, which is {RULE_VERSION}: "
            "train the model again, or convert it again from the original"
        )


def hint_at(name: str, names: Sequence[str]) -> str:
    """What a field is called now, or the nearest name there is, or nothing."""
    return f"; it is {RENAMED[name]!r} now" if RENAMED.get(name) in names else nearest(name, names)


@dataclass(kw_only=True)
class Settings:
    """Fields whose types and values are checked when an instance is made."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                setattr(self, name, value)
            if not _fits(value, kind):
                raise ValueError(f"{name}={value!r} is of the wrong kind; it must be {_in_words(kind)}")

    @classmethod
    def unchecked(cls, **values: Any) -> Self:
        """Defaults under `values`, neither checked nor worked out: where flags are still to be laid over them."""
        settings = object.__new__(cls)
        settings.__dict__.update({field.name: field.default for field in fields(cls)} | values)
        return settings


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


@dataclass(kw_only=True)
class ModelSettings(Settings):
    """What a model is. Values are checked and normalised when an instance is made."""

    vocab_size: int = 259
    """Tokens of the vocabulary; the default is 256 bytes behind 3 special tokens."""
    hidden_size: int = 256
    """Width of each of the two residual streams."""
    embedding_size: int | None = None
    """Width of factorised token embeddings; None: hidden_size, not factorised."""
    num_hidden_layers: int = 6
    """Layers, each an attention and a feed-forward branch."""
    num_decoder_layers: int | None = None
    """Layers of the decoder of an encoder-decoder; None: num_hidden_layers."""
    share_layers: bool = False
    """One set of weights for each entry of attention_pattern, used by all layers of that entry."""
    attention_pattern: tuple[str, ...] = ("local", "lsh")
    """Kinds of attention, cycled over the layers: local, lsh, full."""
    num_attention_heads: int = 4
    """Attention heads."""
    head_dim: int | None = None
    """Width of a head; None: hidden_size / num_attention_heads."""
    attention_bias: bool = False
    """A bias behind the output of attention."""
    intermediate_size: int | None = None
    """Width of the feed-forward layers; None: 4 * hidden_size."""
    hidden_act: Literal["gelu", "relu", "silu", "swiglu"] = "gelu"
    """Activation of the feed-forward layers."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation in front of each branch and behind the last."""
    layer_norm_eps: float = 1e-6
    """Epsilon of the normalisation."""
    position_embedding: Literal["rotary", "axial", "learned", "sinusoidal", "none"] = "rotary"
    """How positions enter; rotary turns queries and keys of local and full layers."""
    lsh_rotary: bool = False
    """Rotary positions in LSH layers too, behind the hash (rule="chunk"), as in reformer-pytorch."""
    axial_shape: tuple[int, ...] | None = None
    """Grid of axial positions; its product is the longest document."""
    axial_dims: tuple[int, ...] | None = None
    """Widths of the axes of axial positions; they add up to hidden_size."""
    max_position_embeddings: int = 65_536
    """Longest document, tokens: a hard limit for learned positions; sizes the chunk rule's automatic buckets."""
    causal: bool = True
    """See no later tokens."""
    residual: Literal["twin", "single"] = "twin"
    """Two residual streams, or one as in the plain Transformer, which cannot be recovered (reversible=False)."""
    reversible: bool = True
    """Recover activations in the backward; False: the same function with ordinary autograd."""
    stream_merge: Literal["concat", "mean"] = "concat"
    """How the two streams become one behind the last layer."""
    num_hashes: int = 4
    """Hash rounds of LSH layers."""
    num_hashes_eval: int | None = None
    """Hash rounds in evaluation; None: num_hashes."""
    share_rotations: bool = False
    """One set of rotations for all heads."""
    num_buckets: int | tuple[int, ...] | None = None
    """The most buckets, a power of two, or none for no limit; rule="chunk": even factors, worked out if not given."""
    rule: Literal["bucket", "chunk"] = "bucket"
    """Which keys a hashed query sees: its bucket's last ones, or equal chunks as in the older implementations."""
    window: int = 32
    """The most neighbours on a side, tokens (rule="bucket")."""
    bucket_size: int | None = None
    """Mean tokens of a bucket at its fullest; None: window (rule="bucket")."""
    factor_from: int = 256
    """Buckets above which two hashes combine into one (rule="bucket")."""
    rule_version: int = RULE_VERSION
    """The meaning of LSH layers that the weights were trained with."""
    successor_values: bool | None = None
    """LSH layers deliver the value of the token behind a match, not its own; None: as causal."""
    conv_size: int = 8
    """Tokens of the convolution in front of queries and keys: LSH layers, full ones with shifted_keys; 0: none."""
    shifted_keys: bool = False
    """Full layers: with each value stands the key of the token before it (causal only)."""
    chunk_length: int = 64
    """Tokens of a chunk (rule="chunk")."""
    chunks_before: int = 1
    """Chunks seen in front of the own one (rule="chunk")."""
    chunks_after: int = 0
    """Chunks seen behind the own one (rule="chunk")."""
    duplicates: Literal["count", "once"] = "count"
    """Whether a key that several rounds offer counts as often, or once."""
    attention_scale: float = 1.0
    """Factor of the logits of LSH layers."""
    hash_seed: int = 0
    """Seed of the rotations in evaluation."""
    hash_rotations: Literal["own", "transformers"] = "own"
    """How rotations are drawn: as here, or as transformers' Reformer draws them under hash_seed."""
    local_rule: Literal["window", "chunk"] = "window"
    """Local layers: the last local_window tokens, or chunks as in transformers."""
    local_window: int = 64
    """Tokens that a local layer sees, self included; without causal, local_window - 1 on each side."""
    local_chunk_length: int = 64
    """Tokens of a chunk (local_rule="chunk")."""
    local_chunks_before: int = 1
    """Chunks seen in front of the own one (local_rule="chunk")."""
    local_chunks_after: int = 0
    """Chunks seen behind the own one (local_rule="chunk")."""
    length_multiple: int = 1
    """Rings of chunks are lengthened by padding to a multiple of this, as transformers' Reformer does."""
    embedding_dropout: float = 0.0
    """Dropout behind the embeddings."""
    attention_dropout: float = 0.0
    """Dropout of attention probabilities."""
    lsh_dropout: float | None = None
    """Dropout of attention probabilities in LSH layers; None: attention_dropout."""
    hidden_dropout: float = 0.0
    """Dropout of what each branch adds to its stream."""
    attention_output_dropout: float | None = None
    """Dropout of what attention branches add; None: hidden_dropout."""
    feed_forward_dropout: float | None = None
    """Dropout of what feed-forward branches add; None: hidden_dropout."""
    chunk_size_feed_forward: int = 0
    """Tokens of a piece of the feed-forward layers; 0: all at once."""
    loss_chunk: int = 0
    """Tokens of a piece of the loss; 0: all at once."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over all tokens, in training."""
    pooling: Literal["mean", "first", "last"] = "mean"
    """What stands for a whole text: the mean over its real tokens, the first of them, or the last."""
    tie_word_embeddings: bool = False
    """Predict with the token embeddings; those of an encoder-decoder are one table for both."""
    pad_token_id: int | None = 0
    """Padding."""
    bos_token_id: int | None = None
    """Begin of a text."""
    eos_token_id: int | None = 1
    """End of a text."""
    decoder_start_token_id: int | None = None
    """What stands in front of the target of an encoder-decoder; None: eos_token_id."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                check_choice(name, getattr(self, name), get_args(kind))
        super().__post_init__()
        self._check_numbers()
        self._check_attention()
        self._check_positions()
        self._check_tokens()

    def _check_numbers(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            check_integer(name, getattr(self, name), 1)
        for name in ("max_position_embeddings", "length_multiple"):
            check_integer(name, getattr(self, name), 1)
        for name in ("embedding_size", "num_decoder_layers", "head_dim", "intermediate_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        for name in ("chunk_size_feed_forward", "loss_chunk", "conv_size"):
            check_integer(name, getattr(self, name), 0)
        for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "label_smoothing"):
            check_probability(name, getattr(self, name))
        for name in ("lsh_dropout", "attention_output_dropout", "feed_forward_dropout"):
            if getattr(self, name) is not None:
                check_probability(name, getattr(self, name))
        if self.residual == "single" and self.reversible:
            raise ValueError("residual='single' cannot be recovered in the backward; give reversible=False with it")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps!r} must be above 0")
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}; "
                    "choose heads that do, or give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size

    def _check_attention(self) -> None:
        if not self.attention_pattern:
            raise ValueError(f"attention_pattern is empty; name at least one of {', '.join(ATTENTION_KINDS)}")
        for kind in self.attention_pattern:
            check_choice("attention_pattern", kind, ATTENTION_KINDS)
        check_rule_version(self.rule_version)
        if self.rule == "bucket" and self.hash_rotations == "transformers":
            raise ValueError("hash_rotations='transformers' goes with rule='chunk'; choose one of the two")
        if self.rule == "chunk" and self.num_buckets is None:
            limit = 2 * max(int((self.max_position_embeddings // self.chunk_length) ** 0.5), self.chunk_length)
            buckets = automatic_buckets(self.max_position_embeddings, self.chunk_length, limit)
            self.num_buckets = tuple(buckets) if isinstance(buckets, list) else buckets
        _ = self.lsh, self.local  # they check their own fields

    def _check_positions(self) -> None:
        if self.lsh_rotary and self.rule != "chunk":
            raise ValueError("lsh_rotary=True needs rule='chunk'; rule='bucket' sees content only")
        if (self.position_embedding == "rotary" or self.lsh_rotary) and self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary positions turn pairs: choose an even one")
        if self.position_embedding == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} is odd; sinusoidal positions need an even one")
        if self.position_embedding != "axial":
            return
        if self.axial_shape is None or self.axial_dims is None:
            raise ValueError(
                "position_embedding='axial' needs axial_shape (its product is the longest document) and axial_dims "
                f"(they add up to hidden_size={self.hidden_size})"
            )
        for size in (*self.axial_shape, *self.axial_dims):
            check_integer("axial_shape and axial_dims", size, 1)
        if len(self.axial_shape) != len(self.axial_dims):
            raise ValueError(
                f"axial_shape={list(self.axial_shape)} has {len(self.axial_shape)} axes and axial_dims="
                f"{list(self.axial_dims)} has {len(self.axial_dims)}; both need one number an axis"
            )
        if sum(self.axial_dims) != self.hidden_size:
            raise ValueError(
                f"axial_dims={list(self.axial_dims)} add up to {sum(self.axial_dims)}; they must add up to "
                f"hidden_size={self.hidden_size}"
            )

    def _check_tokens(self) -> None:
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0, self.vocab_size - 1)

    @property
    def lsh(self) -> LSH:
        """What LSH layers are."""
        dropout = self.attention_dropout if self.lsh_dropout is None else self.lsh_dropout
        names = {**OPTIONS[LSH], **OPTIONS[LSH_RULES[self.rule]]}
        options = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return make_lsh(**options, scale=self.attention_scale, dropout=dropout)

    @property
    def local(self) -> Local:
        """What local layers are."""
        rule: str = self.local_rule
        own = {name: getattr(self, f"local_{name}", None) for name in OPTIONS[LOCAL_RULES[rule]]}
        if rule == "chunk":
            own["length_multiple"] = self.length_multiple
        return make_local(rule, **own, causal=self.causal, dropout=self.attention_dropout)

    @property
    def delivers_successors(self) -> bool:
        """`successor_values`, worked out."""
        return self.causal if self.successor_values is None else self.successor_values

    def worked_out(self) -> Self:
        """The same model with nothing left open that `causal` answers."""
        return replace(self, successor_values=self.delivers_successors)

    @property
    def merged_width(self) -> int:
        """The width of what the streams become behind the last layer."""
        return self.hidden_size * (2 if self.residual == "twin" and self.stream_merge == "concat" else 1)

    @property
    def length_limit(self) -> int | None:
        """The longest document that the positions allow, tokens; None: any."""
        if self.position_embedding == "learned":
            return self.max_position_embeddings
        if self.position_embedding == "axial" and self.axial_shape is not None:
            return prod(self.axial_shape)
        return None
