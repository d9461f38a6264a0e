"""Models of reformer-pytorch and ours compute the same, under the same rotations."""

from typing import Any

import pytest
import torch
from torch import Tensor

import reformer.layers.attention as layers
from reformer.interop.reformer_pytorch import accelerate, from_reformer_pytorch
from reformer.models import ReformerForCausalLM, ReformerModel
from reformer.ops.attention import attend_by_content, lsh_attention
from reformer.ops.spec import LSH

theirs = pytest.importorskip("reformer_pytorch.reformer_pytorch")
bridge = pytest.importorskip("reformer.interop.reformer_pytorch.accelerate")

SMALL: dict[str, Any] = {
    "num_tokens": 50,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "bucket_size": 4,
    "n_hashes": 2,
    "max_seq_len": 48,
    "causal": True,
    "ff_chunks": 1,
}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    model = theirs.ReformerLM(**{**SMALL, **options}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return model.eval()


@pytest.fixture
def same_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw of reformer-pytorch and every call of ours has the same rotations."""

    def drawn(shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        one = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
        return one.expand(shape)

    def rotations(qk: Tensor, rounds: int, buckets: int) -> Tensor:
        return drawn((1, qk.shape[-1], rounds, buckets // 2)).transpose(1, 2).expand(qk.shape[1], -1, -1, -1)

    def theirs_now(qk: Tensor, v: Tensor, **options: Any) -> Tensor:
        given = rotations(qk, options["num_hashes"], options["num_buckets"])
        return lsh_attention(qk, v, **{**options, "rotations": given})

    def of_a_layer(qk: Tensor, v: Tensor, spec: LSH, *masks: Tensor | None, **options: Any) -> Tensor:
        given = rotations(qk, spec.rounds, spec.rule.factors[0])
        if options["hashed"] is not None:  # a model with rotary positions has its rows in another order
            given = given[:, :, torch.arange(qk.shape[-1]).view(-1, 2).T.flatten()]
        return attend_by_content(qk, v, spec, *masks, **{**options, "seed": None, "rotations": given})

    class Torch:
        """torch, but for `randn`."""

        def __getattr__(self, name: str) -> Any:
            return drawn if name == "randn" else getattr(torch, name)

    monkeypatch.setattr(theirs, "torch", Torch())
    monkeypatch.setattr(bridge, "lsh_attention", theirs_now)
    monkeypatch.setattr(layers, "attend_by_content", of_a_layer)


OPTIONS = [
    {},
    {"n_hashes": 1, "heads": 4},
    {"causal": False, "return_embeddings": True},
    {"absolute_position_emb": True},
    {"axial_position_emb": True, "axial_position_shape": (12, 4)},
    {"fixed_position_emb": True, "one_value_head": True},
    {"weight_tie": True, "weight_tie_embedding": True, "dim_head": 6},
    {"ff_mult": 2, "ff_activation": torch.nn.ReLU, "random_rotations_per_head": True, "bucket_size": 8},
]


@pytest.mark.usefixtures("same_rotations")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_load(options: dict[str, Any]) -> None:
    model = make(**options)
    ours = from_reformer_pytorch(model)
    assert isinstance(ours, ReformerModel if options.get("return_embeddings") else ReformerForCausalLM)
    tokens = torch.randint(0, 50, (2, 48))
    with torch.no_grad():
        wanted = model(tokens)
        found = ours(tokens)
    found = found.last_hidden_state if options.get("return_embeddings") else found.logits
    # their keys have norm 1, ours a mean square of 1 but for an epsilon of 1e-6
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("same_rotations")
def test_a_stack_without_embeddings() -> None:
    model = make().reformer
    ours = from_reformer_pytorch(model, length=48)
    x = torch.randn(2, 48, 16, dtype=torch.float64)
    with torch.no_grad():
        y1, y2 = ours(x, x)
        torch.testing.assert_close((y1 + y2) / 2, model(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="give length"):
        from_reformer_pytorch(model)


def test_duplicates_once() -> None:
    """Theirs gives a pair that only the border of two rounds shows a billion times its weight; ours counts it once."""
    model = make().reformer
    for block in model.layers.blocks:
        block.f.net.fn.lsh_attn._allow_duplicate_attention = False
    assert from_reformer_pytorch(model, 48).blocks[0].f.attention.spec.once


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pkm_layers": (1,), "ff_chunks": 1}, "product-key memory"),
        ({"use_scale_norm": True}, "use_scale_norm"),
        ({"use_rezero": True}, "use_rezero"),
        ({"num_mem_kv": 4}, "num_mem_kv=4"),
        ({"n_local_attn_heads": 1}, "n_local_attn_heads=1"),
        ({"use_full_attn": True}, "use_full_attn"),
        ({"full_attn_thres": 64}, "full_attn_thres=64"),
        ({"ff_glu": True}, "ff_glu"),
        ({"ff_activation": torch.nn.Tanh}, "ff_activation=Tanh"),
        ({"emb_dim": 8}, "emb_dim=8"),
        ({"causal": False}, "causal=False"),
    ],
)
def test_options_without_counterpart_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_reformer_pytorch(make(**options))


@pytest.mark.usefixtures("same_rotations")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_accelerated_models_compute_the_same(options: dict[str, Any]) -> None:
    model = make(**options).train()
    tokens = torch.randint(0, 50, (2, 48))
    wanted = model(tokens)
    wanted.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = list(model.state_dict())
    model.zero_grad(set_to_none=True)
    assert accelerate(model) is model
    assert list(model.state_dict()) == names
    found = model(tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    found.square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)


def test_accelerated_models_train_with_dropout_and_padding() -> None:
    model = accelerate(make(lsh_dropout=0.1, ff_dropout=0.1, layer_dropout=0.3)).train()
    mask = torch.arange(48).expand(2, 48) < torch.tensor([[48], [30]])
    model(torch.randint(0, 50, (2, 48)), input_mask=mask).square().mean().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    with pytest.raises(ValueError, match="no Reformer"):
        accelerate(torch.nn.Linear(2, 2))
