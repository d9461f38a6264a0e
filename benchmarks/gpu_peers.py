"""Attention on a GPU: ours, and what one would use in its place. Each contender is a function that runs a forward."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.hashing import Rotations
from reformer.ops.spec import LSH, Octaves

WINDOW, ROUNDS, WIDTH = 64, 4, 64
Forward = Callable[[Tensor, Tensor], Tensor]


def bucket(q: Tensor, v: Tensor) -> Tensor:
    return lsh_attention(q, v, num_hashes=ROUNDS, window=WINDOW, seed=0, backend="triton")


def chunk(q: Tensor, v: Tensor) -> Tensor:
    return lsh_attention(q, v, num_hashes=ROUNDS, rule="chunk", chunk_length=WINDOW, seed=0, backend="triton")


def local(q: Tensor, v: Tensor) -> Tensor:
    return local_attention(q, q, v, window=WINDOW, backend="triton")


def plain(q: Tensor, v: Tensor) -> Tensor:
    return lsh_attention(q, v, num_hashes=ROUNDS, window=WINDOW, seed=0, backend="plain")


def sdpa(q: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, v, is_causal=True)


def sdpa_cudnn(q: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, v)


def flash_window(q: Tensor, v: Tensor) -> Tensor:
    """Flash attention over as many near tokens as LSH attention sees in all rounds."""
    return _flash_window(q, v, ROUNDS * WINDOW)


def flash_local(q: Tensor, v: Tensor) -> Tensor:
    return _flash_window(q, v, WINDOW)


def _flash_window(q: Tensor, v: Tensor, window: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    _, _, length, _ = q.shape
    if length not in _ends:
        _ends[length] = torch.tensor([0, length], dtype=torch.int32, device=q.device)
    ends = _ends[length]
    x, y = (t[0].transpose(0, 1) for t in (q, v))
    return varlen_attn(x, x, y, ends, ends, length, length, window_size=(window - 1, 0))


def flex_local(q: Tensor, v: Tensor) -> Tensor:
    """FlexAttention's sliding window."""
    length = q.shape[2]
    mask = band_mask("local", 1, 1, length, q.device, lambda b, h, i, j: (i >= j) & (i - j < WINDOW))
    return _flex(q, q, v, mask, WIDTH**-0.5)[0]


def flex_lsh(q: Tensor, v: Tensor) -> Tensor:
    """The same LSH attention by FlexAttention over sorted rows, rounds as heads, merged by their log-sum-exps.

    Hashing and sorting are ours and not timed.
    """
    token, low, place, *_ = sorted_rows(q)
    b, h, rounds, n = token.shape
    index = token.view(b, h, rounds * n, 1).expand(-1, -1, -1, WIDTH)
    rows, values = (x.gather(2, index).view(b, h * rounds, n, WIDTH) for x in (q, v))
    keys = F.rms_norm(rows, (WIDTH,), eps=1e-6) * WIDTH**-0.5
    bounds = low.view(b, h * rounds, n)
    mask = band_mask("lsh", b, h * rounds, n, q.device, lambda b, h, i, j: (i > j) & (j >= bounds[b, h, i]))
    out, z = _flex(rows, keys, values, mask, 1.0)
    out = out.view(b, h, rounds, n, WIDTH).gather(3, place[..., None].expand(-1, -1, -1, -1, WIDTH))
    z = z.view(b, h, rounds, n).gather(3, place)
    return (out * torch.softmax(z, 2)[..., None].to(out.dtype)).sum(2)


def varlen_lsh(q: Tensor, v: Tensor) -> Tensor:
    """Flash attention of variable length over sorted rows: a group is a sequence with a window, self included.

    Neither hashing, sorting nor the merge of rounds is in it.
    """
    from torch.nn.attention.varlen import varlen_attn

    token, _, _, ends, longest = sorted_rows(q)
    index = token.flatten(2)[..., None].expand(-1, -1, -1, WIDTH)
    rows, values = (x.gather(2, index).view(-1, 1, WIDTH) for x in (q, v))
    keys = F.rms_norm(rows, (WIDTH,), eps=1e-6) * WIDTH**-0.5
    return varlen_attn(rows, keys, values, ends, ends, longest, longest, scale=1.0, window_size=(WINDOW, 0))


def band_mask(name: str, b: int, h: int, length: int, device: torch.device, inside: Any) -> Any:
    """A block mask whose blocks of queries see their own block of keys and the one before, without a search; kept."""
    from torch.nn.attention.flex_attention import BlockMask

    key = name, b, h, length
    if key not in _masks:
        last = -(-length // 128) - 1
        index = torch.arange(last + 1, device=device, dtype=torch.int32)

        def blocks(*columns: Tensor) -> Tensor:
            return torch.stack(columns, -1)[:, : last + 1].expand(b, h, -1, -1).contiguous()

        def count(more: Tensor) -> Tensor:
            return (more.int() + 1).expand(b, h, -1).contiguous()

        _masks[key] = BlockMask(
            seq_lengths=(length, length),
            kv_num_blocks=count(index > 0),
            kv_indices=blocks(index, (index - 1).clamp(min=0)),
            full_kv_num_blocks=None,
            full_kv_indices=None,
            q_num_blocks=count(index < last),
            q_indices=blocks(index, (index + 1).clamp(max=last)),
            full_q_num_blocks=None,
            full_q_indices=None,
            BLOCK_SIZE=(128, 128),
            mask_mod=inside,
        )
    return _masks[key]


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float) -> tuple[Tensor, Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    if "run" not in _compiled:
        torch._dynamo.config.recompile_limit = 64
        _compiled["run"] = torch.compile(flex_attention) if q.is_cuda else flex_attention
    result: tuple[Tensor, Tensor] = _compiled["run"](q, k, v, block_mask=mask, scale=scale, return_lse=True)
    return result


_compiled: dict[str, Any] = {}
_masks: dict[tuple[Any, ...], Any] = {}
_ends: dict[int, Tensor] = {}
_orders: dict[tuple[int, ...], Any] = {}


def sorted_rows(q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Tokens and low bounds of rows [b, h, r, n], where each token is a query [b, h, r, l], ends of groups; kept."""
    from reformer.ops.gpu import kernels, layout
    from reformer.ops.sequences import Sequences

    key = tuple(q.shape)
    if key not in _orders:
        _orders.clear()
        spec = LSH(rule=Octaves(WINDOW), rounds=ROUNDS)
        of = layout.layout_of(Sequences.of(q), spec)
        buckets = kernels.hash_rows(q.detach(), of, Rotations(None, 0), spec)
        n = of.token.shape[1]
        kind = layout.BUCKET_TYPES[buckets.shape[3] // n]
        token, group, _ = layout.sort_rows(buckets.view(kind), of.base, of.token, of.groups, None)
        low, _ = layout.row_bounds(group.flatten(2), WINDOW, True)
        offset = torch.arange(ROUNDS, device=q.device, dtype=torch.int32)[:, None] * n
        b, h, length, _ = q.shape
        place = torch.empty(b, h, ROUNDS, length + 1, dtype=torch.long, device=q.device)
        slot = torch.where(token >= 0, token, length).long()
        place.scatter_(3, slot, torch.arange(n, device=q.device).expand_as(slot))
        low = (low.view_as(token) - offset).clamp(min=0)
        low = torch.where(token >= 0, low, 1 << 30)
        starts = torch.ones_like(group, dtype=torch.bool)
        starts[..., 1:] = group[..., 1:] != group[..., :-1]
        ends = torch.cat((starts.flatten().nonzero()[:, 0], torch.tensor([token.numel()], device=q.device))).int()
        token = torch.where(token < 0, -1 - token, token).long()
        _orders[key] = token, low, place[..., :-1], ends, int(ends.diff().max())
    return _orders[key]


def reformer_pytorch(q: Tensor, v: Tensor) -> Tensor:
    from reformer_pytorch import LSHAttention

    attention = LSHAttention(bucket_size=WINDOW, n_hashes=ROUNDS, causal=True)
    return attention(q.flatten(0, 1), v.flatten(0, 1))[0].view_as(v)


def transformers(q: Tensor, v: Tensor) -> Tensor:
    """The whole layer of transformers with its projections, which is all that it offers."""
    key = q.shape[1], q.shape[2]
    if key not in _layers:
        from attention_peers import _layer

        _layers.clear()
        _layers[key] = _layer("transformers layer", q.shape[2], ROUNDS, q.shape[1], WIDTH, WINDOW).to(q.device, q.dtype)
    return _layers[key](v.transpose(1, 2).flatten(2)).view(v.shape[0], v.shape[2], v.shape[1], WIDTH).transpose(1, 2)


_layers: dict[Any, torch.nn.Module] = {}

CONTENDERS: dict[str, Forward] = {
    "bucket": bucket,
    "local": local,
    "chunk": chunk,
    "SDPA": sdpa,
    "SDPA, cuDNN": sdpa_cudnn,
    "flash, window of equal keys": flash_window,
    "flash, window 64": flash_local,
    "reformer-pytorch": reformer_pytorch,
    "transformers layer": transformers,
    "varlen flash over sorted rows": varlen_lsh,
    "FlexAttention, window 64": flex_local,
    "FlexAttention LSH": flex_lsh,
    "plain": plain,
}
