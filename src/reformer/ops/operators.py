"""`lsh` and `local` of a backend of kernels, behind operators of `torch.library`.

To `torch.compile` each is one node; its backward is one too. Besides its inputs a forward keeps its buckets (bytes) or
its sorted rows, its output and its log-sum-exps.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from reformer.ops.flat import flatten, unflatten
from reformer.ops.hashing import Rotations
from reformer.ops.replay import remembered
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Chunks, Local

FACTS = "Tensor[] facts, int[] sizes, str spec"
HASH = f"(Tensor q, Tensor? rotations, SymInt seed, {FACTS}) -> Tensor"
SORT = f"(Tensor q, Tensor buckets, {FACTS}) -> Tensor[]"
ATTEND = f"(Tensor q, Tensor? k, Tensor v, Tensor[] rows, {FACTS}, SymInt dropout_seed) -> (Tensor, Tensor)"
BACKWARD = (
    "(Tensor grad, Tensor q, Tensor? k, Tensor v, Tensor out, Tensor logsumexp, Tensor[] rows, "
    f"{FACTS}, SymInt dropout_seed) -> Tensor[]"
)


class Kernels(Protocol):
    """What a backend's module of kernels has; what `describe` returns is its own business."""

    def prepare(self, sequences: Sequences, spec: LSH | Local) -> tuple[list[Tensor], list[int]]:
        """What layers of a spec need to know of the tokens, as operators take it."""

    def describe(self, q: Tensor, facts: list[Tensor], sizes: list[int], spec: LSH | Local) -> Any:
        """What the kernels take, made inside an operator from what `prepare` gave."""

    def in_kernel_type(self, x: Tensor) -> Tensor:
        """The tensor in a type and a layout that the kernels take."""

    def compute_type(self, x: Tensor) -> torch.dtype:
        """The type of log-sum-exps."""

    def empty_heads(self, like: Tensor) -> Tensor:
        """Fresh memory for outputs and gradients."""

    def hash_rows(self, q: Tensor, facts: Any, rotations: Rotations, spec: LSH) -> Tensor:
        """Buckets [b, h, r, bytes]; in bytes, so that the type does not depend on the length."""

    def attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        rows: list[Tensor],
        facts: Any,
        spec: LSH | Local,
        dropout_seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and log-sum-exps; without `k`, keys are the normalised queries.

        `rows`: buckets, or what they were sorted to; none for local attention.
        """

    def attend_backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        rows: list[Tensor],
        facts: Any,
        spec: LSH | Local,
        dropout_seed: int,
    ) -> list[Tensor]:
        """Gradients of queries, of values, and of keys that are not the queries."""


class Operators:
    """The operators of one backend, named `reformer::<prefix>hash_tokens` and so on.

    `sort`: how rows are sorted once for `attend` and its backward, to tensors [b, h, r, rows] of int32; without, each
    of them sorts. What a reversible block's first run sorted is not kept: it takes ten times the memory of buckets.
    """

    def __init__(
        self,
        prefix: str,
        kernels: Kernels,
        device_type: str | None,
        sort: Callable[[Tensor, Any, LSH], list[Tensor]] | None = None,
    ) -> None:
        self._kernels, self._sort = kernels, sort
        self.hash_tokens = self._define(f"reformer::{prefix}hash_tokens", self._hash_tokens, device_type, HASH)
        self.hash_tokens.register_fake(_fake_buckets)
        self.sort_rows: Any = None
        if sort is not None:
            self.sort_rows = self._define(f"reformer::{prefix}sort_rows", self._sort_rows, device_type, SORT)
            self.sort_rows.register_fake(_fake_rows)
        self.attend_backward = self._define(
            f"reformer::{prefix}attend_backward", self._differentiate, device_type, BACKWARD
        )
        self.attend_backward.register_fake(self._fake_gradients)
        self.attend = self._define(f"reformer::{prefix}attend", self._attend_rows, device_type, ATTEND)
        self.attend.register_fake(self._fake_output)
        self.attend.register_autograd(self._gradients, setup_context=_keep)

    def lsh(
        self,
        qk: Float[Tensor, "b h l d"],
        v: Float[Tensor, "b h l d"],
        hashed: Float[Tensor, "b h l d"],
        sequences: Sequences,
        rotations: Rotations,
        spec: LSH,
        dropout_seed: int,
    ) -> Float[Tensor, "b h l d"]:
        """LSH attention."""
        facts = *self._kernels.prepare(sequences, spec.fitted(qk.shape[2])), flatten(spec)
        buckets = self.hash_tokens(hashed.detach(), *rotations, *facts)
        rows = [buckets] if self.sort_rows is None else self.sort_rows(hashed.detach(), buckets, *facts)
        return self.attend(qk, None, v, rows, *facts, dropout_seed)[0]

    def local(
        self,
        q: Float[Tensor, "b h l d"],
        k: Float[Tensor, "b h l d"],
        v: Float[Tensor, "b h l d"],
        sequences: Sequences,
        spec: Local,
        dropout_seed: int,
    ) -> Float[Tensor, "b h l d"]:
        """Attention to near tokens, self included."""
        facts = *self._kernels.prepare(sequences, spec.fitted(q.shape[2])), flatten(spec)
        return self.attend(q, k, v, [], *facts, dropout_seed)[0]

    @staticmethod
    def _define(name: str, function: Any, device_type: str | None, schema: str) -> Any:
        def call(*arguments: Any) -> Any:  # a bound method has no place for an operator's attributes
            return function(*arguments)

        return torch.library.custom_op(name, call, mutates_args=(), device_types=device_type, schema=schema)

    def _hash_tokens(
        self, q: Tensor, rotations: Tensor | None, seed: int, facts: list[Tensor], sizes: list[int], spec: str
    ) -> Tensor:
        """The buckets of all rows; in a reversible block's second run those of the first."""

        def buckets() -> Tensor:
            made, drawn = unflatten(spec).fitted(q.shape[2]), Rotations(rotations, seed)
            described = self._kernels.describe(q, facts, sizes, made)
            return self._kernels.hash_rows(self._kernels.in_kernel_type(q), described, drawn, made)

        return remembered(buckets)

    def _sort_rows(self, q: Tensor, buckets: Tensor, facts: list[Tensor], sizes: list[int], spec: str) -> list[Tensor]:
        made = unflatten(spec).fitted(q.shape[2])  # here, where a length is a number in compiled graphs too
        assert self._sort is not None
        return self._sort(buckets, self._kernels.describe(q, facts, sizes, made), made)

    def _attend_rows(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        rows: list[Tensor],
        facts: list[Tensor],
        sizes: list[int],
        spec: str,
        dropout_seed: int,
    ) -> tuple[Tensor, Tensor]:
        made = unflatten(spec).fitted(q.shape[2])  # here, where a length is a number in compiled graphs too
        described = self._kernels.describe(q, facts, sizes, made)
        return self._kernels.attend(*self._in_kernel_type(q, k, v), rows, described, made, dropout_seed)

    def _differentiate(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        rows: list[Tensor],
        facts: list[Tensor],
        sizes: list[int],
        spec: str,
        dropout_seed: int,
    ) -> list[Tensor]:
        made = unflatten(spec).fitted(q.shape[2])  # here, where a length is a number in compiled graphs too
        described = self._kernels.describe(q, facts, sizes, made)
        grad = self._kernels.in_kernel_type(grad)
        q, k, v = self._in_kernel_type(q, k, v)
        return self._kernels.attend_backward(grad, q, k, v, out, logsumexp, rows, described, made, dropout_seed)

    def _in_kernel_type(self, q: Tensor, k: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        take = self._kernels.in_kernel_type
        return take(q), None if k is None else take(k), take(v)

    def _gradients(self, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        q, k, v, out, logsumexp, *kept = (
            ctx.saved_tensors
        )  # once: activation checkpointing hands each out a single time
        rows, facts = kept[: ctx.rows], kept[ctx.rows :]
        dq, dv, *dk = self.attend_backward(grad, q, k, v, out, logsumexp, rows, facts, *ctx.attending)
        no_sizes: Any = None if ctx.attending[0] else []  # an empty list counts as one of tensors
        nothing = [None] * len(rows), [None] * len(facts), no_sizes, None, None
        return dq.to(q.dtype), dk[0].to(q.dtype) if k is not None else None, dv.to(v.dtype), *nothing

    def _fake_output(self, q: Tensor, k: Any, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        out = self._kernels.empty_heads(v)
        return out, v.new_empty(v.shape[:3], dtype=self._kernels.compute_type(v))

    def _fake_gradients(self, grad: Tensor, q: Tensor, k: Tensor | None, *_: Any) -> list[Tensor]:
        return [self._kernels.empty_heads(q) for _ in range(2 if k is None else 3)]


def _fake_buckets(q: Tensor, rotations: Any, seed: Any, facts: Any, sizes: Any, spec: str) -> Tensor:
    rounds = unflatten(spec).rounds
    rows = torch.library.get_ctx().new_dynamic_size()
    return q.new_empty(q.shape[0], q.shape[1], rounds, rows, dtype=torch.uint8)


def _fake_rows(q: Tensor, buckets: Tensor, facts: Any, sizes: Any, spec: str) -> list[Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    shape = *buckets.shape[:3], rows
    return [buckets.new_empty(shape, dtype=torch.int32) for _ in range(len(ROWS) - has_one_bound(unflatten(spec)))]


ROWS = ("token", "name", "low", "high")
"""What is said of each sorted row: its token, its name, and the first and the last row of those that it sees."""


def has_one_bound(spec: LSH) -> bool:
    """Whether rows need no `high`: those of a causal window end at themselves, and by chunks documents are compared."""
    return spec.causal or isinstance(spec.rule, Chunks)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rows, facts, *attending = inputs
    ctx.save_for_backward(q, k, v, *output, *rows, *facts)
    ctx.rows, ctx.attending = len(rows), attending
    ctx.mark_non_differentiable(output[1])
