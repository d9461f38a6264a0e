import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from reformer.layers.attention import FullAttention, LocalAttention, LSHAttention
from reformer.layers.positions import compute_waves, rotate
from reformer.ops.attention import lsh_attention


def test_lsh_layer_is_its_operation_between_projections() -> None:
    layer = LSHAttention(16, 2, num_hashes=3, window=4).double().eval()
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    qk, v = (p(x).view(2, 30, 2, 8).transpose(1, 2) for p in (layer.query_key, layer.value))
    expected = lsh_attention(qk, v, num_hashes=3, window=4, seed=77).transpose(1, 2).flatten(2) @ layer.out.weight.T
    assert (layer(x, seed=77) - expected).abs().max() < 1e-12


def test_lsh_layer_in_training_and_evaluation() -> None:
    layer, x = LSHAttention(16, 2, num_hashes=2, num_hashes_eval=5, window=4), torch.randn(1, 60, 16)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    many = layer(x)
    few = LSHAttention(16, 2, num_hashes=2, window=4).eval()
    few.load_state_dict(layer.state_dict())
    assert not torch.equal(few(x), many)
    few = LSHAttention(16, 2, num_hashes=5, window=4).eval()
    few.load_state_dict(layer.state_dict())
    assert torch.equal(few(x), many)


def test_rotations_as_transformers_draws_them() -> None:
    layer = LSHAttention(
        16, 2, rule="chunk", num_buckets=[4, 2], chunk_length=8, hash_rotations="transformers", hash_seed=3
    )
    torch.manual_seed(3)
    expected = torch.randn(2, 8, 4, 3)
    assert torch.equal(layer._transformers_rotations(layer.spec, expected), expected.transpose(1, 2))


def dense_full(layer: FullAttention, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    q, k, v = (p(x).view(*x.shape[:2], 2, 8).transpose(1, 2) for p in (layer.query, layer.key, layer.value))
    logits = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~allowed[:, None], -torch.inf)
    out = torch.nan_to_num(logits.softmax(-1)) @ v
    return out.transpose(1, 2).flatten(2) @ layer.out.weight.T


@pytest.mark.parametrize("causal", [True, False])
def test_full_attention_with_padding_and_documents(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.attention.FULL_PIECE", 7)
    layer = FullAttention(16, 2, causal=causal).double()
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    order = torch.ones(20, 20, dtype=torch.bool)
    order = order.tril() if causal else order
    assert (layer(x) - dense_full(layer, x, order.expand(2, -1, -1))).abs().max() < 1e-12
    mask = torch.rand(2, 20) < 0.7
    segments = (torch.rand(2, 20) < 0.2).long().cumsum(1)
    allowed = order & mask[:, None, :] & mask[:, :, None] & (segments[:, :, None] == segments[:, None, :])
    x[~mask] = torch.nan
    out = layer(x, key_padding_mask=mask, segment_ids=segments)
    clean = torch.nan_to_num(x)
    assert ((out - dense_full(layer, clean, allowed)) * mask[..., None]).abs().max() < 1e-12
    assert (out[~mask] == 0).all()


def test_a_wide_local_window_is_full_attention() -> None:
    full = FullAttention(16, 2, rotary=True).double()
    local = LocalAttention(16, 2, window=100, rotary=True).double()
    local.load_state_dict(full.state_dict())
    x, mask = torch.randn(2, 33, 16, dtype=torch.float64), torch.rand(2, 33) < 0.8
    for kwargs in ({}, {"key_padding_mask": mask}, {"position_ids": torch.arange(33).expand(2, -1) * 3}):
        assert (full(x, **kwargs) - local(x, **kwargs)).abs().max() < 1e-12


def test_rotary_depends_on_distance_only() -> None:
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)

    def turn(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, compute_waves(torch.tensor([[position]]), 8, x.dtype))

    def logit(i: int, j: int) -> torch.Tensor:
        return (turn(q, i) * turn(k, j)).sum()

    assert (logit(7, 3) - logit(1_000_004, 1_000_000)).abs() < 1e-9
    assert (logit(7, 3) - logit(7, 4)).abs() > 1e-3
    assert F.mse_loss(turn(q, 0), q) == 0


def test_rotations_of_transformers_need_the_chunk_rule() -> None:
    with pytest.raises(ValueError, match="needs rule='chunk' and num_buckets"):
        LSHAttention(16, 2, hash_rotations="transformers")
    with pytest.raises(ValueError, match="hash_rotations='owm' is none of own, transformers; did you mean 'own'"):
        LSHAttention(16, 2, hash_rotations="owm")


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="num_heads=3 does not divide hidden_size=16"):
        LSHAttention(16, 3)


@pytest.mark.parametrize("kind", [LSHAttention, LocalAttention])
def test_under_activation_checkpointing(kind: type[LSHAttention | LocalAttention]) -> None:
    layer, x = kind(16, 2, window=4).double(), torch.randn(1, 50, 16, dtype=torch.float64, requires_grad=True)
    outputs = layer(x, seed=3), checkpoint(layer, x, seed=3, use_reentrant=False)
    gradients = [torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]) for out in outputs]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
