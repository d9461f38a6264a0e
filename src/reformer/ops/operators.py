"""`lsh` and `local` of a backend of kernels, behind operators of `torch.library`.

To `torch.compile` each is one node; its backward is one too. Besides its inputs a forward keeps its buckets (bytes),
its output and its log-sum-exps; what it sorted is sorted again unless a backend keeps it.
"""

from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops.flat import flatten, unflatten
from reformer.ops.hashing import Rotations
from reformer.ops.replay import remembered
from reformer.ops.spec import LSH, Local

SPEC = "str spec, SymInt dropout_seed"
MASKS = "Tensor? key_padding_mask, Tensor? segment_ids"
HASH = f"(Tensor q, {MASKS}, Tensor? rotations, SymInt seed, str spec) -> Tensor"
ATTEND = f"(Tensor q, Tensor? k, Tensor v, Tensor? buckets, {MASKS}, {SPEC}) -> (Tensor, Tensor)"
BACKWARD = (
    "(Tensor grad, Tensor q, Tensor? k, Tensor v, Tensor? buckets, Tensor out, Tensor logsumexp, "
    f"{MASKS}, {SPEC}) -> Tensor[]"
)


class Kernels(Protocol):
    """What a backend's module of kernels has; what `describe` returns is its own business."""

    def describe(self, x: Tensor, key_padding_mask: Tensor | None, segment_ids: Tensor | None) -> Any:
        """What the masks of a batch say."""

    def in_kernel_type(self, x: Tensor) -> Tensor:
        """The tensor in a type and a layout that the kernels take."""

    def compute_type(self, x: Tensor) -> torch.dtype:
        """The type of log-sum-exps."""

    def empty_heads(self, like: Tensor) -> Tensor:
        """Fresh memory for outputs and gradients."""

    def hash_rows(self, q: Tensor, masks: Any, rotations: Rotations, spec: LSH) -> Tensor:
        """Buckets [b, h, r, bytes]; in bytes, so that the type does not depend on the length."""

    def attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        buckets: Tensor | None,
        masks: Any,
        spec: LSH | Local,
        dropout_seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and log-sum-exps; without `k`, keys are the normalised queries."""

    def attend_backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        buckets: Tensor | None,
        masks: Any,
        out: Tensor,
        logsumexp: Tensor,
        spec: LSH | Local,
        dropout_seed: int,
    ) -> list[Tensor]:
        """Gradients of queries, of values, and of keys that are not the queries."""


class Operators:
    """The operators of one backend, named `reformer::<prefix>hash_tokens` and so on."""

    def __init__(self, prefix: str, kernels: Kernels, device_type: str | None) -> None:
        self._kernels = kernels
        self.hash_tokens = self._define(f"reformer::{prefix}hash_tokens", self._hash_tokens, device_type, HASH)
        self.hash_tokens.register_fake(_fake_buckets)
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
        key_padding_mask: Bool[Tensor, "b l"] | None,
        segment_ids: Int[Tensor, "b l"] | None,
        rotations: Rotations,
        spec: LSH,
        dropout_seed: int,
    ) -> Float[Tensor, "b h l d"]:
        """LSH attention."""
        masks, flat = (key_padding_mask, segment_ids), flatten(spec)
        buckets = self.hash_tokens(hashed.detach(), *masks, *rotations, flat)
        return self.attend(qk, None, v, buckets, *masks, flat, dropout_seed)[0]

    def local(
        self,
        q: Float[Tensor, "b h l d"],
        k: Float[Tensor, "b h l d"],
        v: Float[Tensor, "b h l d"],
        key_padding_mask: Bool[Tensor, "b l"] | None,
        segment_ids: Int[Tensor, "b l"] | None,
        spec: Local,
        dropout_seed: int,
    ) -> Float[Tensor, "b h l d"]:
        """Attention to near tokens, self included."""
        return self.attend(q, k, v, None, key_padding_mask, segment_ids, flatten(spec), dropout_seed)[0]

    @staticmethod
    def _define(name: str, function: Any, device_type: str | None, schema: str) -> Any:
        def call(*arguments: Any) -> Any:  # a bound method has no place for an operator's attributes
            return function(*arguments)

        return torch.library.custom_op(name, call, mutates_args=(), device_types=device_type, schema=schema)

    def _hash_tokens(
        self,
        q: Tensor,
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        rotations: Tensor | None,
        seed: int,
        spec: str,
    ) -> Tensor:
        """The buckets of all rows; in a reversible block's second run those of the first."""

        def buckets() -> Tensor:
            masks = self._kernels.describe(q, key_padding_mask, segment_ids)
            drawn = Rotations(rotations, seed)
            return self._kernels.hash_rows(self._kernels.in_kernel_type(q), masks, drawn, unflatten(spec))

        return remembered(buckets)

    def _attend_rows(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        buckets: Tensor | None,
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        spec: str,
        dropout_seed: int,
    ) -> tuple[Tensor, Tensor]:
        masks = self._kernels.describe(q, key_padding_mask, segment_ids)
        q, k, v = self._in_kernel_type(q, k, v)
        return self._kernels.attend(q, k, v, buckets, masks, unflatten(spec), dropout_seed)

    def _differentiate(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        buckets: Tensor | None,
        out: Tensor,
        logsumexp: Tensor,
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        spec: str,
        dropout_seed: int,
    ) -> list[Tensor]:
        masks = self._kernels.describe(q, key_padding_mask, segment_ids)
        grad = self._kernels.in_kernel_type(grad)
        q, k, v = self._in_kernel_type(q, k, v)
        return self._kernels.attend_backward(
            grad, q, k, v, buckets, masks, out, logsumexp, unflatten(spec), dropout_seed
        )

    def _in_kernel_type(self, q: Tensor, k: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        take = self._kernels.in_kernel_type
        return take(q), None if k is None else take(k), take(v)

    def _gradients(self, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: activation checkpointing hands each out a single time
        q, k, v = saved[:3]
        dq, dv, *dk = self.attend_backward(grad, *saved, *ctx.attending)
        nothing = (None,) * 5  # buckets, masks, spec and seed
        return dq.to(q.dtype), dk[0].to(q.dtype) if k is not None else None, dv.to(v.dtype), *nothing

    def _fake_output(self, q: Tensor, k: Any, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        out = self._kernels.empty_heads(v)
        return out, v.new_empty(v.shape[:3], dtype=self._kernels.compute_type(v))

    def _fake_gradients(self, grad: Tensor, q: Tensor, k: Tensor | None, *_: Any) -> list[Tensor]:
        return [self._kernels.empty_heads(q) for _ in range(2 if k is None else 3)]


def _fake_buckets(q: Tensor, key_padding_mask: Any, segment_ids: Any, rotations: Any, seed: Any, spec: str) -> Tensor:
    rounds = unflatten(spec).rounds
    rows = torch.library.get_ctx().new_dynamic_size()
    return q.new_empty(q.shape[0], q.shape[1], rounds, rows, dtype=torch.uint8)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, buckets, key_padding_mask, segment_ids, *attending = inputs
    ctx.save_for_backward(q, k, v, buckets, *output, key_padding_mask, segment_ids)
    ctx.attending = attending
    ctx.mark_non_differentiable(output[1])
