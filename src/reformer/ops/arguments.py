"""The checked arguments of the attention operations, as every backend takes them."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from reformer.ops.hashing import draw_rotations, draw_seed

KEY_EPS = 1e-6
"""Of the keys' norm (`docs/rule.md`, "Softmax")."""


@dataclass(frozen=True)
class Hashing:
    """How tokens fall into buckets."""

    rounds: int
    rotations: Tensor | None
    """[h, r, d, columns], or None: drawn from `seed`."""
    seed: int
    share_rotations: bool
    factor_from: int
    factors: tuple[int, ...]
    """The chunk rule's factors of the number of buckets."""

    def draw(self, heads: int, width: int, columns: int) -> Tensor:
        """Rotations of at least so many columns; ValueError if those that were given have fewer."""
        if self.rotations is None:
            return draw_rotations(self.seed, heads, self.rounds, width, columns, self.share_rotations)
        if self.rotations.shape[3] < columns:
            raise ValueError(
                f"rotations have {self.rotations.shape[3]} columns; the largest number of buckets here needs {columns}"
            )
        return self.rotations


def make_hashing(
    rotations: Tensor | None,
    seed: int | None,
    share_rotations: bool,
    factor_from: int,
    factors: tuple[int, ...],
    shape: tuple[int, int, int],
) -> Hashing:
    """Check rotations against `shape` (heads, rounds, width); without them and a seed, one integer of torch's."""
    if rotations is not None and seed is not None:
        raise ValueError("rotations and seed are both given; give one of them")
    if rotations is not None and (rotations.dim() != 4 or rotations.shape[:3] != shape):
        raise ValueError(
            f"rotations have shape {list(rotations.shape)}; they must be [h, r, d, columns] = "
            f"{[*shape, 'any']}, with r = num_hashes"
        )
    if seed is None:
        seed = draw_seed() if rotations is None else 0
    seed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)  # operators take 64 bits with a sign; `derive_seed` takes 64 bits
    return Hashing(shape[1], rotations, seed, share_rotations, factor_from, factors)


class Attending(NamedTuple):
    """Which keys a query sees, and what counts how much."""

    rule: str
    """"bucket" and "chunk" hash; "local window" and "local chunk" do not."""
    window: int
    """The most neighbours on a side (bucket), or tokens seen, self included (local window)."""
    bucket_size: int
    log2_limit: int
    """log2 of the most buckets; `NO_LIMIT` for none."""
    chunk_length: int
    chunks_before: int
    chunks_after: int
    causal: bool
    once: bool
    """A distinct key counts once, however many rounds or slots offer it."""
    successors: bool
    """A pair delivers the value of the token behind its key, not the key's own."""
    scale: float
    dropout_p: float
    dropout_seed: int

    def packed(self) -> tuple[str, list[int], list[float], int]:
        """As operators of `torch.library` take it: a call of theirs takes time by the square of the arguments."""
        return self.rule, [int(x) for x in self[1:10]], [self.scale, self.dropout_p], self.dropout_seed

    @property
    def keeps_own(self) -> bool:
        """Whether a token that is offered nothing takes its own value, as the older implementations have it."""
        return self.rule == "chunk" and not self.successors

    @classmethod
    def unpacked(cls, rule: str, sizes: list[int], factors: list[float], dropout_seed: int) -> "Attending":
        """What was packed."""
        return cls(rule, *sizes[:6], *map(bool, sizes[6:]), *factors, dropout_seed)  # type: ignore[call-arg, arg-type]


NO_LIMIT = 62
"""log2 of a number of buckets that no sequence reaches."""
