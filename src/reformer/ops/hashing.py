"""Angular LSH by random rotations (Kitaev et al. 2020, section 2, "Locality sensitive hashing").

`bucket_n(x) = argmax([xR ; -xR])` over the first n/2 columns of R. A larger n uses the columns of a smaller
one and more, so a running argmax gives all n in one pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from reformer.errors import InputError
from reformer.ops.capture import capturing, hold
from reformer.ops.questions import without_values
from reformer.ops.spec import LSH, Octaves

BLOCK = 256  # tokens hashed at a time: bounds the products, and keeps a token's bits independent of the length

_MASK64 = (1 << 64) - 1


def derive_seed(seed: int, *path: int) -> int:
    """A 63-bit seed that depends on `seed` and on every number of `path` (SplitMix64's finaliser)."""
    state = seed & _MASK64
    for step in path:
        state = (state ^ (step + 1) * 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def layer_seeds(seed: int, depth: int) -> list[int]:
    """The seed of each layer's rotations under that of a model, in evaluation its `hash_seed`."""
    return [derive_seed(seed, layer) for layer in range(depth)]


def draw_seed() -> int:
    """One integer from torch's default generator; the only randomness that a forward takes for its hashes.

    Raises InputError in an export, which would keep one drawing for ever.
    """
    if torch.compiler.is_exporting():
        raise InputError(
            "a model in training draws new hashes and dropout in each forward, and an exported program cannot; call "
            "model.eval() first, or pass seed= and set attention_dropout=0"
        )
    drawn = torch.randint(0, 1 << 62, ())
    return 0 if without_values(drawn) else int(drawn.item())


def draw_rotations(
    seed: int,
    heads: int,
    rounds: int,
    width: int,
    columns: int,
    share: bool = False,
    first: int = 0,
    first_head: int = 0,
) -> Float[Tensor, "h r d columns"]:
    """Gaussian rotations on the CPU, in fp32; column j of round i depends on (seed, head, i, j) only.

    A counter-based generator (numpy's Philox bits, whose stream is stable between versions) per head and round,
    then Box-Muller. `share`: one set for all heads; `first`: without the columns in front of that one;
    `first_head`: what the first of these heads is called, where others are elsewhere.
    """
    drawn = np.empty((1 if share else heads, rounds, columns - first, width), dtype=np.float32)
    counter, behind = divmod(first * width, 4)  # of the generator, which gives four numbers at a time
    pairs = (drawn[0, 0].size + behind + 1) // 2
    for head in range(drawn.shape[0]):
        for i in range(rounds):
            called = 0 if share else first_head + head
            bits = np.random.Philox(key=derive_seed(seed, called, i)).advance(counter).random_raw(2 * pairs)
            uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            radius, angle = np.sqrt(-2.0 * np.log(uniform[0::2])), 2.0 * np.pi * uniform[1::2]
            normal = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
            drawn[head, i] = normal[behind : behind + drawn[head, i].size].reshape(-1, width)
    rotations = torch.from_numpy(drawn).transpose(2, 3).contiguous()
    return rotations.expand(heads, -1, -1, -1)


class KeptRotations:
    """Rotations of seeds that are asked for again, as a layer's are in evaluation; they live as long as it."""

    def __init__(self) -> None:
        self.drawn: dict[tuple[int, int], Tensor] = {}

    def of(
        self, seed: int, heads: int, spec: LSH, width: int, length: int, device: torch.device
    ) -> Float[Tensor, "h r d columns"]:
        """The rotations of a call, with as many columns as a sequence of that length takes, on a device."""
        columns, first = columns_of(spec, length), spec.first_of(heads)[0]
        kept = self.drawn.get((seed, first))
        if kept is None or kept.shape[3] < columns or kept.shape[0] != heads or kept.device != device:
            if len(self.drawn) >= MOST_KEPT:
                self.drawn.clear()
            size = heads, spec.rounds, width, columns
            drawn = draw_rotations(seed, *size, spec.share_rotations, first_head=first)
            kept = self.drawn[seed, first] = drawn.to(device)
        return hold(kept) if capturing(device) else kept


MOST_KEPT = 64
"""Seeds: a layer that stands in many places of a stack has one in each."""


class Rotations(NamedTuple):
    """The rotations of one call: given, or drawn from a seed."""

    given: Float[Tensor, "h r d columns"] | None
    seed: int

    def columns(self, count: int, heads: int, width: int, spec: LSH) -> Float[Tensor, "h r d columns"]:
        """At least so many columns of them; InputError if those that were given have fewer."""
        if self.given is None:
            first_head = spec.first_of(heads)[0]
            size = heads, spec.rounds, width, count
            return draw_rotations(self.seed, *size, spec.share_rotations, first_head=first_head)
        if self.given.shape[3] < count:
            raise InputError(
                f"rotations have {self.given.shape[3]} columns; the largest number of buckets here needs {count}"
            )
        return self.given


def make_rotations(given: Tensor | None, seed: int | None, shape: tuple[int, int, int]) -> Rotations:
    """Check rotations against `shape` (heads, rounds, width); without them and a seed, one integer of torch's."""
    if given is not None and seed is not None:
        raise InputError("rotations and seed are both given; give one of them")
    if given is not None and (given.dim() != 4 or given.shape[:3] != shape):
        raise InputError(
            f"rotations have shape {list(given.shape)}; they must be [h, r, d, columns] = "
            f"{[*shape, 'any']}, with r = num_hashes"
        )
    if seed is None:
        seed = draw_seed() if given is None else 0
    return Rotations(given, as_int64(seed))


def as_int64(seed: int) -> int:
    """The 64 bits of a seed as a number with a sign, which operators take."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)


def split_buckets(log2_buckets: int, factor_from: int) -> tuple[int, int]:
    """log2 of (n1, n2) for n = 2**log2_buckets buckets; n2 = 1 up to `factor_from` buckets."""
    if 1 << log2_buckets <= factor_from:
        return log2_buckets, 0
    first = (log2_buckets + 1) // 2
    return first, log2_buckets - first


def columns_for(octaves: Sequence[int], factor_from: int) -> int:
    """Columns of rotations that hashing into 2**k buckets takes, for all k of `octaves`."""

    def columns(k: int) -> int:
        k1, k2 = split_buckets(k, factor_from)
        if 1 << k <= factor_from:
            return (1 << k) // 2
        return max((1 << k1) - 1, 1 << k2 if k2 else 0)  # even columns up to n1 - 2, odd ones up to n2 - 1

    return max((columns(k) for k in octaves), default=0)


def columns_of(spec: LSH, length: int) -> int:
    """Columns of rotations that hashing a sequence takes."""
    if isinstance(spec.rule, Octaves):
        return columns_for(range(spec.rule.octave_of(max(length - 1, 0)) + 1), spec.rule.factor_from)
    factors = spec.rule.fitted(length).factors
    assert factors is not None
    return sum(factors) // 2


def hash_octaves(
    q: Float[Tensor, "b h l d"], rotations: Float[Tensor, "h r d columns"], octaves: Sequence[int], factor_from: int
) -> Integer[Tensor, "b h r k l"]:
    """Buckets of every token for every n = 2**k of ascending `octaves`, as int32."""
    out = torch.empty(*q.shape[:2], rotations.shape[1], len(octaves), q.shape[2], dtype=torch.int32, device=q.device)
    direct = [k for k in octaves if 1 << k <= factor_from]
    factored = [split_buckets(k, factor_from) for k in octaves[len(direct) :]]
    for tokens, x in _projections(q, rotations, columns_for(octaves, factor_from)):
        buckets = _nested_argmax(x, direct)
        if factored:
            even = _nested_argmax(x[..., 0::2], [k1 for k1, _ in factored])
            odd = _nested_argmax(x[..., 1::2], [k2 for _, k2 in factored])
            buckets += [b1 + (b2 << k1) for b1, b2, (k1, _) in zip(even, odd, factored, strict=True)]
        for i, bucket in enumerate(buckets):
            out[:, :, :, i, tokens] = bucket.movedim(2, 3)
    return out


def hash_factors(
    q: Float[Tensor, "b h l d"], rotations: Float[Tensor, "h r d columns"], factors: Sequence[int]
) -> Integer[Tensor, "b h r l"]:
    """Buckets of the chunk rule, as int32: each even factor takes the next factor/2 columns of the rotations."""
    out = torch.empty(*q.shape[:2], rotations.shape[1], q.shape[2], dtype=torch.int32, device=q.device)
    for tokens, x in _projections(q, rotations, sum(factors) // 2):
        bucket, first, product = torch.zeros(x.shape[:-1], dtype=torch.int32, device=q.device), 0, 1
        for factor in factors:
            part = x[..., first : first + factor // 2]
            bucket += product * torch.cat((part, -part), -1).argmax(-1).int()
            first, product = first + factor // 2, product * factor
        out[..., tokens] = bucket.movedim(2, 3)
    return out


def _projections(q: Tensor, rotations: Tensor, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of `q @ rotations` as (tokens, [b, h, tokens, r, columns]), in fp32 or wider, never whole.

    Every product has the same number of rows and a number of columns that is a multiple of 16: kernels choose
    their order of summation by shape, and a near-tie must not fall otherwise in a longer sequence.
    """
    b, h, length, d = q.shape
    heads, rounds = rotations.shape[:2]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    padded = -(-max(columns, 1) // 16) * 16
    matrix = torch.zeros(heads, d, rounds, padded, dtype=dtype, device=q.device)
    matrix[..., :columns] = rotations[..., :columns].to(matrix).transpose(1, 2)
    matrix = matrix.flatten(2)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False), _exact_matmul():
        for start in range(0, length, BLOCK):
            tokens = slice(start, min(start + BLOCK, length))
            block = q.new_zeros(b, h, BLOCK, d, dtype=dtype)
            block[:, :, : tokens.stop - start] = q.detach()[:, :, tokens]
            x = torch.matmul(block, matrix)[:, :, : tokens.stop - start]
            yield tokens, x.unflatten(-1, (rounds, padded))[..., :columns]


def _nested_argmax(x: Tensor, octaves: Sequence[int]) -> list[Tensor]:
    """argmax([x ; -x]) over the first 2**k / 2 columns, for each k of ascending `octaves`; ties to the lowest index."""
    shape, buckets, done = x.shape[:-1], [], 0
    high = low = torch.full(shape, -torch.inf, dtype=x.dtype, device=x.device)
    high_at = low_at = torch.zeros(shape, dtype=torch.int32, device=x.device)
    for k in octaves:
        half = (1 << k) // 2
        if half > done:
            more, less = x[..., done:half].max(-1), x[..., done:half].min(-1)
            high_at = torch.where(more.values > high, more.indices.int() + done, high_at)
            low_at = torch.where(-less.values > low, less.indices.int() + done, low_at)
            high, low, done = torch.maximum(high, more.values), torch.maximum(low, -less.values), half
        buckets.append(torch.where(high >= low, high_at, low_at + half))
    return buckets


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Products in the precision of their type: neither TF32 nor bf16 inside, whatever the caller has set."""
    mkldnn: Any = torch.backends.mkldnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
