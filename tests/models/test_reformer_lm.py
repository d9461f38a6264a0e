from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import reformer


def build(**changes: object) -> reformer.ReformerLM:
    torch.manual_seed(0)
    arguments = {
        "num_tokens": 50,
        "emb_dim": 32,
        "max_seq_len": 64,
        "depth": 2,
        "heads": 2,
        "lsh_dropout": 0.0,
        "ff_dropout": 0.0,
        "attn_dropout": 0.0,
        "return_embeddings": False,
    }
    return reformer.ReformerLM(**{**arguments, **changes})


def test_it_takes_the_listings_arguments_and_returns_a_tensor() -> None:
    x = torch.randint(0, 50, (2, 33))
    logits = build(lsh_dropout=0.1, ff_dropout=0.1, attn_dropout=0.1)(x)
    assert type(logits) is torch.Tensor
    assert logits.shape == (2, 33, 50)
    assert build(return_embeddings=True)(x).shape == (2, 33, 32)
    assert build(dim=48)(x).shape == (2, 33, 50)


def test_it_is_causal() -> None:
    lm = build().eval()
    x = torch.randint(0, 50, (1, 30))
    other = torch.cat((x[:, :20], torch.randint(0, 50, (1, 10))), 1)
    assert (lm(x)[:, :20] - lm(other)[:, :20]).abs().max() < 1e-4


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["lsh_dropout", "ff_dropout", "attn_dropout"])
def test_each_dropout_acts_in_training_only(name: str, depth: int) -> None:
    x = torch.randint(0, 50, (1, 30))
    plain, dropped = build(depth=depth), build(depth=depth, **{name: 0.5})

    def run(lm: reformer.ReformerLM) -> torch.Tensor:
        torch.manual_seed(1)
        return lm(x)

    assert not torch.equal(run(plain.train()), run(dropped.train()))
    assert torch.equal(run(plain.eval()), run(dropped.eval()))


def test_the_model_inside_saves_and_generates(tmp_path: Path) -> None:
    lm = build().eval()
    lm.model.save_pretrained(tmp_path)
    x = torch.randint(0, 50, (1, 9))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(x).logits, lm(x))
    assert lm.model.generate(x, max_new_tokens=4, pad_token_id=0).shape == (1, 13)


def test_a_width_is_needed() -> None:
    with pytest.raises(ValueError, match="dim and emb_dim are both missing"):
        reformer.ReformerLM(num_tokens=5, depth=1, heads=1)
