"""The fields of a model, without torch: the one source for `ReformerConfig`, the TOML file and the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from reformer.errors import InputError
from reformer.ops.bucket_counts import automatic_buckets
from reformer.ops.checks import check_choice, check_integer, check_probability
from reformer.ops.spec import LOCAL_RULES, LSH, LSH_RULES, OPTIONS, Chunks, Local, make_local, make_lsh
from reformer.settings.base import Settings

RULE_VERSION = 2
"""The meaning of LSH layers that this library computes (`docs/rule.md`)."""

MOST = {"num_hidden_layers": 10_000, "num_decoder_layers": 10_000}
"""More are a mistake or an attack: layers are made one by one."""

VOCABULARY = 259
"""Tokens where nothing says how many: 256 bytes behind 3 special tokens."""

ATTENTION_KINDS = ("local", "lsh", "full")


def check_rule_version(version: object) -> None:
    """InputError for a model that was trained with another meaning of its layers."""
    if version != RULE_VERSION:
        raise InputError(
            f"rule_version={version!r} is none that this library computes, which is {RULE_VERSION}: "
            "train the model again, or convert it again from the original"
        )


@dataclass(kw_only=True)
class ModelSettings(Settings):
    """What a model is, as it was asked for: None is for what is left open and follows from the others.

    Values are checked when an instance is made.
    """

    vocab_size: int | None = None
    """Tokens of the vocabulary; None: those of the tokenizer, or 256 bytes behind 3 special tokens."""
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
    window: int | None = None
    """The most neighbours on a side, tokens, itself not counted (rule="bucket"); None: 32."""
    bucket_size: int | None = None
    """Mean tokens of a bucket at its fullest; None: window (rule="bucket")."""
    factor_from: int | None = None
    """Buckets above which two hashes combine into one (rule="bucket"); None: 256."""
    rule_version: int = RULE_VERSION
    """The meaning of LSH layers that the weights were trained with."""
    successor_values: bool | None = None
    """LSH layers deliver the value of the token behind a match, not its own; None: as causal."""
    conv_size: int = 8
    """Tokens of the convolution in front of queries and keys: LSH layers, full ones with shifted_keys; 0: none."""
    shifted_keys: bool = False
    """Full layers: with each value stands the key of the token before it (causal only)."""
    chunk_length: int | None = None
    """Tokens of a chunk (rule="chunk"); None: 64."""
    chunks_before: int | None = None
    """Chunks seen in front of the own one (rule="chunk"); None: 1."""
    chunks_after: int | None = None
    """Chunks seen behind the own one (rule="chunk"); None: 0."""
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
    local_window: int | None = None
    """Tokens that a local layer sees, itself counted; without causal, local_window - 1 on each side; None: 64."""
    local_chunk_length: int | None = None
    """Tokens of a chunk (local_rule="chunk"); None: 64."""
    local_chunks_before: int | None = None
    """Chunks seen in front of the own one (local_rule="chunk"); None: 1."""
    local_chunks_after: int | None = None
    """Chunks seen behind the own one (local_rule="chunk"); None: 0."""
    length_multiple: int | None = None
    """Rings of chunks are lengthened by padding to a multiple of this, as transformers' Reformer does; None: 1."""
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
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            check_integer(name, getattr(self, name), 1, MOST.get(name))
        for name in ("vocab_size", "embedding_size", "num_decoder_layers", "head_dim", "intermediate_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, MOST.get(name))
        for name in ("chunk_size_feed_forward", "loss_chunk", "conv_size"):
            check_integer(name, getattr(self, name), 0)
        for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "label_smoothing"):
            check_probability(name, getattr(self, name))
        for name in ("lsh_dropout", "attention_output_dropout", "feed_forward_dropout"):
            if getattr(self, name) is not None:
                check_probability(name, getattr(self, name))
        if self.residual == "single" and self.reversible:
            raise InputError("residual='single' cannot be recovered in the backward; give reversible=False with it")
        if not self.layer_norm_eps > 0:
            raise InputError(f"layer_norm_eps={self.layer_norm_eps!r} must be above 0")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}; "
                "choose heads that do, or give head_dim"
            )

    def _check_attention(self) -> None:
        if not self.attention_pattern:
            raise InputError(f"attention_pattern is empty; name at least one of {', '.join(ATTENTION_KINDS)}")
        for kind in self.attention_pattern:
            check_choice("attention_pattern", kind, ATTENTION_KINDS)
        check_rule_version(self.rule_version)
        if self.rule == "bucket" and self.hash_rotations == "transformers":
            raise InputError("hash_rotations='transformers' goes with rule='chunk'; choose one of the two")
        _ = self.lsh, self.local  # they check their own fields

    def _check_positions(self) -> None:
        if self.lsh_rotary and self.rule != "chunk":
            raise InputError("lsh_rotary=True needs rule='chunk'; rule='bucket' sees content only")
        if (self.position_embedding == "rotary" or self.lsh_rotary) and self.head_width % 2:
            raise InputError(f"head_dim={self.head_width} is odd; rotary positions turn pairs: choose an even one")
        if self.position_embedding == "sinusoidal" and self.hidden_size % 2:
            raise InputError(f"hidden_size={self.hidden_size} is odd; sinusoidal positions need an even one")
        if self.position_embedding != "axial":
            return
        if self.axial_shape is None or self.axial_dims is None:
            raise InputError(
                "position_embedding='axial' needs axial_shape (its product is the longest document) and axial_dims "
                f"(they add up to hidden_size={self.hidden_size})"
            )
        for size in (*self.axial_shape, *self.axial_dims):
            check_integer("axial_shape and axial_dims", size, 1)
        if len(self.axial_shape) != len(self.axial_dims):
            raise InputError(
                f"axial_shape={list(self.axial_shape)} has {len(self.axial_shape)} axes and axial_dims="
                f"{list(self.axial_dims)} has {len(self.axial_dims)}; both need one number an axis"
            )
        if sum(self.axial_dims) != self.hidden_size:
            raise InputError(
                f"axial_dims={list(self.axial_dims)} add up to {sum(self.axial_dims)}; they must add up to "
                f"hidden_size={self.hidden_size}"
            )

    def _check_tokens(self) -> None:
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0, self.vocabulary - 1)

    @property
    def vocabulary(self) -> int:
        """`vocab_size`, worked out."""
        return VOCABULARY if self.vocab_size is None else self.vocab_size

    @property
    def head_width(self) -> int:
        """`head_dim`, worked out."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def feed_forward_width(self) -> int:
        """`intermediate_size`, worked out."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size

    @property
    def lsh(self) -> LSH:
        """What LSH layers are."""
        names = {name for kind in (LSH, *LSH_RULES.values()) for name in OPTIONS[kind] if hasattr(self, name)}
        options = {name: getattr(self, name) for name in names - {"length_multiple"}}
        if self.rule == "chunk" and self.num_buckets is None:
            options["num_buckets"] = self._chunk_buckets()
        if self.rule == "chunk" or self.local_rule != "chunk":
            options["length_multiple"] = self.length_multiple
        dropout = self.attention_dropout if self.lsh_dropout is None else self.lsh_dropout
        return make_lsh(**options, scale=self.attention_scale, dropout=dropout)

    @property
    def local(self) -> Local:
        """What local layers are."""
        names = {f"local_{name}" for kind in LOCAL_RULES.values() for name in OPTIONS[kind]}
        options = {name: getattr(self, name) for name in names if hasattr(self, name)}
        if self.local_rule == "chunk":
            options["local_length_multiple"] = self.length_multiple
        return make_local(self.local_rule, "local_", **options, causal=self.causal, dropout=self.attention_dropout)

    def _chunk_buckets(self) -> int | tuple[int, ...]:
        """The number of buckets that transformers works out."""
        chunk = Chunks.length if self.chunk_length is None else self.chunk_length
        check_integer("chunk_length", chunk, 1)
        limit = 2 * max(int((self.max_position_embeddings // chunk) ** 0.5), chunk)
        buckets = automatic_buckets(self.max_position_embeddings, chunk, limit)
        return tuple(buckets) if isinstance(buckets, list) else buckets

    def left_open(self) -> dict[str, Any]:
        """The fields that were not asked for, and what follows for them from the others."""
        lsh, local = self.lsh, self.local
        values = {
            "vocab_size": self.vocabulary,
            "num_decoder_layers": self.num_hidden_layers,
            "head_dim": self.head_width,
            "intermediate_size": self.feed_forward_width,
            "num_hashes_eval": self.num_hashes,
            "successor_values": lsh.successor_values,
            "lsh_dropout": lsh.dropout,
            "attention_output_dropout": self.hidden_dropout,
            "feed_forward_dropout": self.hidden_dropout,
            **{name: getattr(lsh.rule, field) for name, field in OPTIONS[type(lsh.rule)].items()},
            **{f"local_{name}": getattr(local.rule, field) for name, field in OPTIONS[type(local.rule)].items()},
        }
        if self.rule == "chunk":
            values["num_buckets"] = self._chunk_buckets()
        elif self.local_rule == "chunk":
            values["length_multiple"] = values["local_length_multiple"]
        return {name: value for name, value in values.items() if value is not None and getattr(self, name, 0) is None}

    def worked_out(self) -> Self:
        """The same model with nothing left open."""
        return replace(self, **self.left_open())

    @classmethod
    def as_asked(cls, values: Mapping[str, Any], left_open: Sequence[str]) -> dict[str, Any]:
        """Fields without those that were worked out: of `left_open` only those that say something else.

        So a file may hold what was worked out for whoever reads it, and still say what was asked for.
        """
        if not left_open:
            return dict(values)
        asked = {name: value for name, value in values.items() if name not in left_open}
        try:
            worked_out = cls(**asked).worked_out()
        except InputError:
            return dict(values)  # it is for who makes settings of them to say what is wrong
        changed = {name: values[name] for name in left_open if name in values}
        return asked | {
            name: value for name, value in changed.items() if _plain(value) != _plain(getattr(worked_out, name))
        }

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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
