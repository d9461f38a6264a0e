"""The three identities that the backends are built on (`docs/rule.md`), each against a dense softmax."""

import torch
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.reference import normalised_keys


def inputs(seed: int, length: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    q, v, offered = torch.randn(length, 8) * 3, torch.randn(length, 8), torch.rand(4, length, length) < 0.2
    return q.double(), v.double(), offered


def test_the_norm_of_a_query_bounds_its_logits_and_serves_as_a_fixed_shift() -> None:
    """Rounds merge by plain addition; a row without a candidate has denominator 0."""
    for seed in range(20):
        q, v, offered = inputs(seed)
        offered[:, 7] = False
        logits, norm = q @ normalised_keys(q).T, q.norm(dim=-1, keepdim=True)
        assert (logits.abs() <= norm * (1 + 1e-12)).all()
        weights = torch.exp(logits - norm) * offered
        denominator, numerator = weights.sum((0, 2)), (weights @ v).sum(0)
        assert denominator[7] == 0
        expected = torch.cat([logits.masked_fill(~part, -torch.inf) for part in offered], 1).softmax(-1)
        expected = expected.view(len(q), 4, -1).sum(1) @ v
        some = denominator > 0
        assert ((numerator / denominator[:, None])[some] - expected[some]).abs().max() < 1e-14, f"seed {seed}"


def test_each_round_has_its_backward_from_the_merged_output_and_log_sum_exp() -> None:
    for seed in range(20):
        q, v, offered = inputs(seed)
        offered[0].fill_diagonal_(True)
        scores = (q @ normalised_keys(q).T).requires_grad_()
        values, grad = v.clone().requires_grad_(), torch.randn_like(v)
        rounds = torch.stack([scores.masked_fill(~part, -torch.inf) for part in offered], 1)
        z = rounds.logsumexp((1, 2))
        out = torch.exp(rounds - z[:, None, None]).sum(1) @ values
        expected = torch.autograd.grad(out, (scores, values), grad)
        delta = (grad * out).sum(-1, keepdim=True)
        p = [torch.exp(scores - z[:, None]) * part for part in offered]
        found = sum(part * (grad @ v.T - delta) for part in p), sum(part.T @ grad for part in p)
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() < 1e-14, f"seed {seed}"


def test_one_bucket_is_a_sliding_window() -> None:
    """A group is a sequence with a window: with one bucket, LSH attention is local attention without the self."""
    for seed in range(20):
        q, v, _ = inputs(seed)
        q, v = q[None, None] / 6, v[None, None]  # else the self outweighs what is left
        found = lsh_attention(q, v, num_hashes=1, num_buckets=1, window=5, seed=seed, successor_values=False)
        keys = normalised_keys(q)
        with_self = local_attention(q, keys, v, window=6, scale=1.0)
        own = torch.exp((q * keys).sum(-1))
        logits = (q @ keys.transpose(-1, -2)).masked_fill(~torch.ones(40, 40).tril().triu(-5).bool(), -torch.inf)
        total = logits.exp().sum(-1)
        without = (with_self * total[..., None] - own[..., None] * v) / (total - own)[..., None]
        assert (found - without)[:, :, 1:].abs().max() < 1e-12, f"seed {seed}"
