"""What the older implementations do beside the chunk rule: vectors of their own for the hash, longer rings."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.hashing import draw_rotations
from reformer.ops.reference import lsh_attention_reference


@pytest.mark.parametrize(
    "rule", [{"window": 4}, {"rule": "chunk", "chunk_length": 4, "num_buckets": [2, 4], "chunks_after": 1}], ids=str
)
@pytest.mark.parametrize("padded", [False, True])
def test_other_vectors_are_hashed(rule: dict[str, Any], padded: bool) -> None:
    torch.manual_seed(0)
    qk, v, hashed = (torch.randn(2, 3, 37, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    rotations = draw_rotations(3, 3, 2, 8, 64, False).double()
    mask = torch.arange(37) < torch.tensor([[37], [25]]) if padded else None
    common: dict[str, Any] = {"hashed": hashed, "key_padding_mask": mask, **rule}
    found = lsh_attention(qk, v, num_hashes=2, rotations=rotations, **common)
    wanted = lsh_attention_reference(qk, v, rotations, **common)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    other = lsh_attention(qk, v, num_hashes=2, rotations=rotations, **{**common, "hashed": None})
    assert not torch.allclose(found, other)
    gradient = torch.randn_like(v)
    for mine, right in zip(
        torch.autograd.grad(found, (qk, v), gradient), torch.autograd.grad(wanted, (qk, v), gradient), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match=r"queries have shape \[2, 3, 36, 8\]"):
        lsh_attention(qk, v, hashed=hashed[:, :, 1:])


@pytest.mark.parametrize("causal", [False, True])
def test_a_longer_ring_is_padding(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 21, 8, dtype=torch.float64) for _ in range(3))
    chunks: dict[str, Any] = {"rule": "chunk", "chunk_length": 4, "chunks_after": 1, "causal": causal}
    segments = torch.arange(21).expand(2, -1) // 9
    longer = [F.pad(x, (0, 0, 0, 3), value=7.0) for x in (q, k, v)]
    padding = {"key_padding_mask": torch.arange(24).expand(2, -1) < 21, "segment_ids": F.pad(segments, (0, 3))}
    found = local_attention(q, k, v, length_multiple=12, segment_ids=segments, **chunks)
    torch.testing.assert_close(found, local_attention(*longer, **padding, **chunks)[:, :, :21])
    chunks |= {"num_hashes": 2, "num_buckets": 4, "seed": 1}
    found = lsh_attention(q, v, length_multiple=12, segment_ids=segments, **chunks)
    torch.testing.assert_close(found, lsh_attention(longer[0], longer[2], **padding, **chunks)[:, :, :21])
    with pytest.raises(ValueError, match="length_multiple=0"):
        lsh_attention(q, v, length_multiple=0, **chunks)
