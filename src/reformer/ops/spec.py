"""What an attention is: frozen values, checked where they are made, which layers, caches and kernels take whole.

Free of torch, so that configurations can make them.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from reformer.errors import InputError
from reformer.ops.bucket_counts import automatic_buckets, check_bucket_limit, check_chunks, check_factors
from reformer.ops.checks import check_choice, check_flag, check_integer, check_probability

KEY_EPS = 1e-6
"""Of the keys' norm (`docs/rule.md`, "Softmax")."""

BEYOND = 62
"""log2 of a number of buckets that no sequence reaches."""


@dataclass(frozen=True)
class Octaves:
    """A query sees the last tokens in front of it in its bucket; the number of buckets doubles as the text grows."""

    window: int = 32
    """The most neighbours on a side, tokens; the query itself is none of them (in `Band` it is)."""
    bucket_size: int = None  # type: ignore[assignment]  # it is worked out
    """Mean tokens of a bucket at its fullest; None: `window`."""
    num_buckets: int | None = None
    """The most buckets, a power of two; None: no limit."""
    factor_from: int = 256
    """Buckets above which two hashes combine into one."""

    def __post_init__(self) -> None:
        check_integer("window", self.window, 1)
        if self.bucket_size is None:
            object.__setattr__(self, "bucket_size", self.window)
        check_integer("bucket_size", self.bucket_size, 1)
        check_bucket_limit(self.num_buckets)
        check_integer("factor_from", self.factor_from, 1)

    @property
    def last_octave(self) -> int:
        """log2 of the most buckets."""
        return BEYOND if self.num_buckets is None else self.num_buckets.bit_length() - 1

    def octave_of(self, rank: int) -> int:
        """log2 of n(t) = min(2 ** (t // c).bit_length(), num_buckets)."""
        return min((rank // self.bucket_size).bit_length(), self.last_octave)

    def fitted(self, length: int) -> Self:
        """The rule for a sequence of that length, in numbers that are no larger than it."""
        if length >= max(self.window, self.bucket_size):
            return self
        length = max(length, 1)
        return replace(self, window=min(self.window, length), bucket_size=min(self.bucket_size, length))


@dataclass(frozen=True)
class Chunks:
    """A token sees its own chunk of equally long ones, and some around it, on a ring."""

    length: int = 64
    """Tokens of a chunk."""
    before: int = 1
    """Chunks seen in front of the own one."""
    after: int = 0
    """Chunks seen behind it."""
    multiple: int = 1
    """The ring is lengthened by padding to a multiple of so many slots."""
    factors: tuple[int, ...] | None = None
    """Even factors of the number of buckets; None: worked out from the length of the sequence."""

    def __post_init__(self) -> None:
        check_chunks(self.length, self.before, self.after)
        check_integer("length_multiple", self.multiple, 1)
        if self.factors is not None:
            object.__setattr__(self, "factors", tuple(check_factors(self.factors)))

    def fitted(self, length: int) -> Self:
        """The rule for a sequence of that length, which says how many buckets there are."""
        if self.factors is not None:
            return self
        return replace(self, factors=tuple(check_factors(automatic_buckets(int(length), self.length))))


@dataclass(frozen=True)
class Band:
    """The last `window` tokens, self included; without `causal` `window - 1` on each side."""

    window: int = 64
    """Tokens, the query itself among them (that of `Octaves` counts the others alone)."""

    def __post_init__(self) -> None:
        check_integer("window", self.window, 1)

    def fitted(self, length: int) -> Self:
        """The rule for a sequence of that length, in numbers that are no larger than it."""
        return self if length >= self.window else replace(self, window=max(length, 1))


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """What random numbers go by."""

    part_of: tuple[int, int] | None = None
    """Where a process computes some of the heads: the first of them, and how many there are; None: all of them."""

    def first_of(self, heads: int) -> tuple[int, int]:
        """The number of the first of these heads among all, and how many those are."""
        return self.part_of or (0, heads)

    def number(self, batch_head: Any, heads: int) -> Any:
        """The number of a (batch, head) among all heads of all rows, of its number among these."""
        first, everywhere = self.first_of(heads)
        return batch_head // heads * everywhere + batch_head % heads + first


@dataclass(frozen=True, kw_only=True)
class LSH(_Heads):
    """Attention by content: to what falls into a query's buckets."""

    rule: Octaves | Chunks = Octaves()
    causal: bool = True
    """See no later tokens."""
    rounds: int = 4
    """Hash rounds."""
    rounds_eval: int | None = None
    """Hash rounds in evaluation; None: `rounds`."""
    share_rotations: bool = False
    """One set of rotations for all heads."""
    hash_rotations: Literal["own", "transformers"] = "own"
    """How rotations are drawn: as here, or as transformers' Reformer draws them under `hash_seed`."""
    hash_seed: int = 0
    """Seed of the rotations in evaluation."""
    scale: float = 1.0
    """Factor of the logits."""
    duplicates: Literal["count", "once"] = "count"
    """Whether a key that several rounds offer counts as often, or once."""
    successor_values: bool = None  # type: ignore[assignment]  # it is worked out
    """A pair delivers the value of the token behind its key, not the key's own; None: as `causal`."""
    dropout: float = 0.0
    """The share of numerators that is dropped: per round and slot, or per pair with "once"."""

    def __post_init__(self) -> None:
        check_integer("num_hashes", self.rounds, 1)
        if self.rounds_eval is not None:
            check_integer("num_hashes_eval", self.rounds_eval, 1)
        check_choice("duplicates", self.duplicates, ("count", "once"))
        check_choice("hash_rotations", self.hash_rotations, ("own", "transformers"))
        check_probability("dropout_p", self.dropout)
        check_flag("successor_values", self.successor_values)
        if self.hash_rotations == "transformers" and (not isinstance(self.rule, Chunks) or self.rule.factors is None):
            raise InputError("hash_rotations='transformers' needs rule='chunk' and num_buckets; give both")
        if self.successor_values is None:
            object.__setattr__(self, "successor_values", self.causal)
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def once(self) -> bool:
        """Whether a distinct key counts once, however many rounds or slots offer it."""
        return self.duplicates == "once"

    @property
    def keeps_own(self) -> bool:
        """Whether a token that is offered nothing takes its own value, as the older implementations have it."""
        return isinstance(self.rule, Chunks) and not self.successor_values

    def scale_at(self, _: int) -> float:
        """The factor of logits of heads of any width."""
        return self.scale

    def fitted(self, length: int) -> "LSH":
        """The attention over a sequence of that length."""
        rule = self.rule.fitted(length)
        return self if rule is self.rule else replace(self, rule=rule)

    def in_evaluation(self) -> "LSH":
        """What it is when nothing is trained."""
        return replace(self, rounds=self.rounds_eval or self.rounds, dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class Local(_Heads):
    """Attention to near tokens, self included."""

    rule: Band | Chunks = Band()
    causal: bool = True
    """See no later tokens."""
    scale: float | None = None
    """Factor of the logits; None: one over the root of the heads' width."""
    dropout: float = 0.0
    """The share of numerators that is dropped."""

    once = successor_values = keeps_own = False
    rounds = 1

    def __post_init__(self) -> None:
        check_probability("dropout_p", self.dropout)

    def scale_at(self, width: int) -> float:
        """The factor of logits of heads of that width."""
        return width**-0.5 if self.scale is None else self.scale

    def fitted(self, length: int) -> "Local":
        """The attention over a sequence of that length."""
        rule = self.rule if isinstance(self.rule, Chunks) else self.rule.fitted(length)
        return self if rule is self.rule else replace(self, rule=rule)

    def in_evaluation(self) -> "Local":
        """What it is when nothing is trained."""
        return replace(self, dropout=0.0)


PUBLIC_NAMES = {
    "rounds": "num_hashes",
    "rounds_eval": "num_hashes_eval",
    "factors": "num_buckets",
    "length": "chunk_length",
    "before": "chunks_before",
    "after": "chunks_after",
    "multiple": "length_multiple",
}
"""Fields that have another name where all options stand side by side: operations, layers, settings."""

OPTIONS: dict[type, dict[str, str]] = {
    kind: {PUBLIC_NAMES.get(each.name, each.name): each.name for each in fields(kind) if each.name != "part_of"}
    for kind in (Octaves, Chunks, Band, LSH, Local)
}
"""The options that say what a value of a kind is, by their public names, and its fields."""

LSH_RULES = {"bucket": Octaves, "chunk": Chunks}
LOCAL_RULES = {"window": Band, "chunk": Chunks}


def make_lsh(rule: str = "bucket", **options: Any) -> LSH:
    """The attention that options by their public names describe; None is as not given.

    Raises InputError for a value out of range and for an option of the other rule.
    """
    return LSH(**_fields(LSH, LSH_RULES, rule, options, ""))


def make_local(rule: str = "window", prefix: str = "", **options: Any) -> Local:
    """The attention to near tokens that options describe; the names of its rules' options begin with `prefix`."""
    return Local(**_fields(Local, LOCAL_RULES, rule, options, prefix))


def _fields(kind: type, rules: dict[str, Any], rule: str, options: dict[str, Any], prefix: str) -> dict[str, Any]:
    check_choice("rule", rule, tuple(rules))
    given = {name: value for name, value in options.items() if value is not None}
    own = {f"{prefix}{name}": each for name, each in OPTIONS[rules[rule]].items()}
    for name in sorted((given.keys() - own.keys()) & options_of_rules(rules, prefix)):
        other = next(each for each in rules if name.removeprefix(prefix) in OPTIONS[rules[each]])
        raise InputError(
            f"{name}={given[name]!r} goes with {prefix}rule={other!r} and the rule is {rule!r}: leave one out"
        )
    fields_of_rule = {own[name]: given.pop(name) for name in own if name in given}
    try:
        made = rules[rule](**fields_of_rule)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None  # which begins with the option's name
    return {"rule": made, **{OPTIONS[kind].get(name, name): value for name, value in given.items()}}


def options_of_rules(rules: dict[str, Any], prefix: str = "") -> set[str]:
    """The options of all rules, by their public names."""
    return {f"{prefix}{name}" for each in rules.values() for name in OPTIONS[each]}
