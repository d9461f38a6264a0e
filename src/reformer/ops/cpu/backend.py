"""`lsh` and `local` of the CPU backend: operators of `torch.library` over the kernels.

To `torch.compile` each is one node; its backward is one too. Besides its inputs a forward keeps its buckets (bytes),
its output and its log-sum-exps; every sort is made again.
"""

from dataclasses import astuple
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.ops.arguments import Attending, Hashing
from reformer.ops.cpu import kernels
from reformer.ops.ranks import compute_ranks
from reformer.ops.replay import remembered

ATTENDING = (
    "str rule, int window, int bucket_size, int log2_limit, int chunk_length, int chunks_before, int chunks_after, "
    "bool causal, bool once, float scale, float dropout_p, SymInt dropout_seed"
)
HASHING = "int rounds, Tensor? rotations, SymInt seed, bool share_rotations, int factor_from, int[] factors"
MASKS = "Tensor? key_padding_mask, Tensor? segment_ids"


def lsh(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    hashed: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    hashing: Hashing,
    at: Attending,
) -> Float[Tensor, "b h l d"]:
    """LSH attention; a token that is offered nothing takes its own value."""
    masks = key_padding_mask, segment_ids
    buckets = hash_tokens(hashed.detach(), *masks, *_fields(hashing), at.rule, at.bucket_size, at.log2_limit, at.causal)
    return attend(qk, None, v, buckets, *masks, *astuple(at))[0]


def local(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    at: Attending,
) -> Float[Tensor, "b h l d"]:
    """Attention to near tokens, self included."""
    return attend(q, k, v, None, key_padding_mask, segment_ids, *astuple(at))[0]


def _fields(hashing: Hashing) -> tuple[Any, ...]:
    """The fields in order; `astuple` would copy the tensor."""
    return (
        hashing.rounds,
        hashing.rotations,
        hashing.seed,
        hashing.share_rotations,
        hashing.factor_from,
        list(hashing.factors),
    )


def _documents(x: Tensor, key_padding_mask: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """The document of every token, [b, l] or [1, l], -1 for padding."""
    return compute_ranks(x.shape[0], x.shape[2], key_padding_mask, segment_ids).document.int()


@torch.library.custom_op(
    "reformer::hash_tokens",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor q, {MASKS}, {HASHING}, str rule, int bucket_size, int log2_limit, bool causal) -> Tensor",
)
def hash_tokens(
    q: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    rounds: int,
    rotations: Tensor | None,
    seed: int,
    share_rotations: bool,
    factor_from: int,
    factors: list[int],
    rule: str,
    bucket_size: int,
    log2_limit: int,
    causal: bool,
) -> Tensor:
    """Buckets [b, h, r, bytes] of the rows of every round; in a reversible block's second run those of the first."""

    def buckets() -> Tensor:
        hashing = Hashing(rounds, rotations, seed, share_rotations, factor_from, tuple(factors))
        documents = _documents(q, key_padding_mask, segment_ids)
        return kernels.hash_rows(kernels.in_kernel_type(q), documents, hashing, rule, bucket_size, log2_limit, causal)

    return remembered(buckets)


@hash_tokens.register_fake
def _(q: Tensor, key_padding_mask: Any, segment_ids: Any, rounds: int, *_: Any) -> Tensor:
    rows = torch.library.get_ctx().new_dynamic_size()
    return q.new_empty(q.shape[0], q.shape[1], rounds, rows, dtype=torch.uint8)


@torch.library.custom_op(
    "reformer::attend",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor q, Tensor? k, Tensor v, Tensor? buckets, {MASKS}, {ATTENDING}) -> (Tensor, Tensor)",
)
def attend(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    buckets: Tensor | None,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    *attending: Any,
) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps in fp32 or wider; without `k`, keys are the normalised queries."""
    q, v = kernels.in_kernel_type(q), kernels.in_kernel_type(v)
    k = None if k is None else kernels.in_kernel_type(k)
    documents = _documents(q, key_padding_mask, segment_ids)
    return kernels.attend(q, k, v, buckets, documents, Attending(*attending))


@attend.register_fake
def _(q: Tensor, k: Any, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return kernels.empty_heads(v), v.new_empty(v.shape[:3], dtype=kernels.compute_type(v))


@torch.library.custom_op(
    "reformer::attend_backward",
    mutates_args=(),
    device_types="cpu",
    schema=(
        "(Tensor grad, Tensor q, Tensor? k, Tensor v, Tensor? buckets, Tensor out, Tensor logsumexp, "
        f"{MASKS}, {ATTENDING}) -> Tensor[]"
    ),
)
def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    buckets: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    *attending: Any,
) -> list[Tensor]:
    """Gradients of queries, of values, and of keys that are not the queries."""
    grad, q, v = (kernels.in_kernel_type(x) for x in (grad, q, v))
    k = None if k is None else kernels.in_kernel_type(k)
    documents = _documents(q, key_padding_mask, segment_ids)
    return kernels.attend_backward(grad, q, k, v, buckets, documents, out, logsumexp, Attending(*attending))


@attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor | None, *_: Any) -> list[Tensor]:
    return [kernels.empty_heads(q) for _ in range(2 if k is None else 3)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, buckets, key_padding_mask, segment_ids, *attending = inputs
    ctx.save_for_backward(q, k, v, buckets, *output, key_padding_mask, segment_ids)
    ctx.attending = attending
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: activation checkpointing hands each out a single time
    q, k, v = saved[:3]
    dq, dv, *dk = attend_backward(grad, *saved, *ctx.attending)
    nothing = (None,) * (3 + len(ctx.attending))
    return dq.to(q.dtype), dk[0].to(q.dtype) if k is not None else None, dv.to(v.dtype), *nothing


attend.register_autograd(_differentiate, setup_context=_keep)
