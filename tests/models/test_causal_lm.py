import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from reformer.layers.attention import LSHAttention
from reformer.models import ReformerForCausalLM, ReformerModel, model
from reformer.ops import sequences
from tests.models.conftest import Make

VARIANTS: list[dict[str, Any]] = [
    {},
    {"attention_pattern": ("full", "lsh"), "norm": "rmsnorm", "hidden_act": "swiglu", "stream_merge": "mean"},
    {"position_embedding": "learned", "max_position_embeddings": 64, "tie_word_embeddings": True},
    {"position_embedding": "axial", "axial_shape": (8, 8), "axial_dims": (4, 12), "embedding_size": 8},
    {"position_embedding": "sinusoidal", "hidden_act": "silu", "share_layers": True, "num_hidden_layers": 4},
    {"position_embedding": "none", "hidden_act": "relu", "tie_word_embeddings": True, "embedding_size": 8},
    {"rule": "chunk", "chunk_length": 8, "num_buckets": 4, "local_rule": "chunk", "local_chunk_length": 8},
    {"rule": "chunk", "chunk_length": 8, "num_buckets": (2, 4), "hash_rotations": "transformers"},
    {"share_rotations": True, "num_hashes_eval": 4, "duplicates": "once", "chunk_size_feed_forward": 5},
    {"reversible": False, "loss_chunk": 7},
    {"attention_pattern": ("full", "lsh"), "shifted_keys": True, "conv_size": 6},
    {"rule": "chunk", "chunk_length": 8, "lsh_rotary": True, "attention_bias": True, "length_multiple": 12},
]


def tokens(b: int = 2, length: int = 45) -> Tensor:
    return torch.randint(3, 40, (b, length))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_runs_saves_and_loads(make: Make, settings: dict[str, Any], tmp_path: Path) -> None:
    lm, x = make(torch.float32, **settings), tokens()
    loss = lm(x, labels=x).loss
    loss.backward()
    assert 0.5 * math.log(40) < loss < 2 * math.log(40)
    for name, p in lm.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    lm.eval().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "reformer_auto.py",
    ]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is ReformerForCausalLM
    assert torch.equal(loaded(x).logits, lm(x).logits)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    if settings.get("hash_rotations") != "transformers":  # which draws in the type of what is hashed
        assert (wide(x).logits - lm(x).logits).abs().max() < 1e-4
    assert (lm.double()(x).logits - wide(x).logits).abs().max() < 1e-12
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is ReformerModel


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_any_length_padded_and_packed(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**settings)
    for length in (1, 2, 9, 17, 63, 64):
        x = tokens(2, length)
        mask = torch.ones_like(x)
        mask[1, : length // 3] = 0
        segments = (torch.rand(2, length) < 0.2).long().cumsum(1)
        for kwargs in ({}, {"attention_mask": mask}, {"segment_ids": segments}):
            loss = lm(x, labels=x, **kwargs).loss
            loss.backward()
            assert loss.isfinite()


@pytest.mark.parametrize("settings", [v for v in VARIANTS if v.get("rule") != "chunk"], ids=str)
def test_whole_models_are_strictly_causal(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**settings).eval()
    for name, weight in lm.named_parameters():
        if "convolution" in name:
            nn.init.normal_(weight)
    for seed in range(3):
        torch.manual_seed(seed)
        x, mask = tokens(2, 40), torch.rand(2, 40) < 0.8
        whole, masked = lm(x).logits, lm(x, attention_mask=mask).logits
        for t in range(1, 40, 3):
            other = torch.cat((x[:, :t], tokens(2, 40 - t)), 1)
            assert (lm(other).logits[:, :t] - whole[:, :t]).abs().max() < 1e-10, f"seed {seed}, t {t}"
            assert (lm(x[:, :t]).logits - whole[:, :t]).abs().max() < 1e-10
            cut = lm(x[:, :t], attention_mask=mask[:, :t]).logits
            assert ((cut - masked[:, :t]) * mask[:, :t, None]).abs().max() < 1e-10


def test_layers_share_what_masks_say(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward of reversible layers too; what a caller does to his masks meanwhile changes nothing."""
    calls: list[int] = []
    compute = sequences.rank_tokens
    monkeypatch.setattr(sequences, "rank_tokens", lambda *a: calls.append(1) or compute(*a))
    lm, x = make(num_hidden_layers=4).eval(), tokens(2, 30)
    gradients = []
    for spoil in (False, True):
        mask, segments = torch.ones(2, 30, dtype=torch.bool), torch.arange(30).expand(2, -1) // 7
        mask[0, :3] = False
        lm.zero_grad()
        loss = lm(x, attention_mask=mask, segment_ids=segments, labels=x).loss
        if spoil:
            mask[:, 5:] = False
        loss.backward()
        gradients.append([parameter.grad for parameter in lm.parameters()])
    assert len(calls) == 2
    mask = torch.arange(30) >= torch.tensor([[3], [0]])
    lm(x, attention_mask=mask, use_cache=True)
    assert len(calls) == 3
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_left_padding_changes_nothing(make: Make) -> None:
    for settings in VARIANTS[:6]:
        lm, x = make(**settings).eval(), tokens(1, 30)
        padded = torch.cat((torch.zeros(1, 7, dtype=torch.long), x), 1)
        mask = (padded != 0).long()
        assert (lm(padded, attention_mask=mask).logits[:, 7:] - lm(x).logits).abs().max() < 1e-10


def test_packed_documents_give_what_they_give_alone(make: Make) -> None:
    lm = make().eval()
    parts = [tokens(1, n) for n in (5, 1, 20)]
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 1, 20]))[None]
    packed = torch.cat(parts, 1)
    together = lm(packed, segment_ids=segments, labels=packed)
    alone = [lm(part).logits for part in parts]
    assert (together.logits - torch.cat(alone, 1)).abs().max() < 1e-10
    nll = sum(
        nn.functional.cross_entropy(logits[0, :-1], part[0, 1:], reduction="sum")
        for logits, part in zip(alone, parts, strict=True)
        if part.shape[1] > 1
    )
    assert together.predicted == 4 + 0 + 19  # no target in another document
    assert abs(float(together.loss.detach()) - float(nll.detach()) / 23) < 1e-10


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_reversible_and_plain_follow_the_same_gradients(make: Make, dropout: float) -> None:
    names = ("embedding_dropout", "attention_dropout", "hidden_dropout")
    found = []
    for reversible in (True, False):
        lm, x = make(reversible=reversible, **dict.fromkeys(names, dropout)), tokens()
        torch.manual_seed(4)
        loss = lm(x, labels=x).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in lm.parameters())])
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*found, strict=True))


def test_dropouts_do_what_their_names_say(make: Make) -> None:
    x = tokens()
    names = ("lsh_dropout", "attention_dropout", "attention_output_dropout", "feed_forward_dropout", "hidden_dropout")
    for name in (*names, "embedding_dropout"):
        lm = make(attention_pattern=("lsh",), **{name: 0.5}).train()
        torch.manual_seed(1)
        one = lm(x).logits
        torch.manual_seed(1)
        assert torch.equal(lm(x).logits, one)
        for module in lm.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, LSHAttention):
                module.spec = replace(module.spec, dropout=0.0)
        torch.manual_seed(1)
        assert not torch.equal(lm(x).logits, one), name


def test_training_draws_one_integer_a_forward(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(model, "draw_seed", lambda: drawn.append(1) or 5)
    lm, x = make(), tokens()
    state = torch.get_rng_state()
    lm.train()(x)
    assert drawn == [1]
    assert torch.equal(torch.get_rng_state(), state)
    lm.eval()(x)
    assert drawn == [1]


def test_evaluation_is_deterministic_and_leaves_the_generator_alone(make: Make) -> None:
    lm, x = make(torch.float32).eval(), tokens()
    one = lm(x).logits
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(lm(x).logits, one)
    assert torch.equal(torch.get_rng_state(), state)
    lm.config.hash_seed = 1
    assert not torch.equal(lm(x).logits, one)


@pytest.mark.parametrize("loss_chunk", [0, 5, 64])
def test_four_micro_batches_equal_one_batch(make: Make, loss_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "draw_seed", lambda: 5)
    x = tokens(8, 30)
    mask = (torch.arange(30) < torch.tensor([30, 3, 17, 29, 1, 12, 30, 8])[:, None]).long()
    labels = x.masked_fill(mask == 0, -100)
    items = int((labels[:, 1:] != -100).sum())

    whole = make(loss_chunk=loss_chunk)
    loss = whole(x, attention_mask=mask, labels=labels).loss
    loss.backward()
    parts, total = make(loss_chunk=loss_chunk), 0.0
    for i in range(0, 8, 2):
        rows = slice(i, i + 2)
        part = parts(x[rows], attention_mask=mask[rows], labels=labels[rows], num_items_in_batch=torch.tensor(items))
        part.loss.backward()
        total += float(part.loss.detach())
    assert abs(total - float(loss.detach())) < 1e-12
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < 1e-12


@pytest.mark.parametrize("every", [1, 5])
def test_loss_in_pieces_is_the_same_and_has_no_logits(make: Make, every: int) -> None:
    x = tokens()
    labels = x.masked_fill(torch.arange(x.shape[1]) % every > 0, -100)
    found = []
    for chunk in (0, 1, 13, 1000):
        lm = make(loss_chunk=chunk).eval()
        out = lm(x, labels=labels)
        out.loss.backward()
        found.append([out.loss.detach(), out.correct, out.predicted, *(p.grad for p in lm.parameters())])
        assert (out.logits is None) == (chunk > 0)
    for other in found[1:]:
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(found[0], other, strict=True))
    logits = make().eval()(x).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert (found[0][0] - expected).abs() < 1e-12
    assert found[0][1] == (logits[:, :-1].argmax(-1) == labels[:, 1:]).sum()


def test_a_batch_without_a_predicted_token(make: Make) -> None:
    for chunk in (0, 4):
        for x, kwargs in (
            (tokens(2, 1), {}),
            (tokens(2, 9), {"labels": torch.full((2, 9), -100)}),
            (tokens(2, 9), {"attention_mask": torch.zeros(2, 9)}),
            (tokens(2, 9), {"segment_ids": torch.arange(9).expand(2, -1)}),
        ):
            lm = make(loss_chunk=chunk)
            loss = lm(x, **{"labels": x, **kwargs}).loss
            loss.backward()
            assert loss == 0
            assert all(p.grad is None or (p.grad == 0).all() for p in lm.parameters())
            assert lm.lm_head.weight.grad is not None
            assert lm(x, **{"labels": x, **kwargs}, num_items_in_batch=torch.tensor(0)).loss == 0


def test_hidden_states_and_logits_to_keep(make: Make) -> None:
    lm, x = make().eval(), tokens()
    out = lm(x, output_hidden_states=True)
    assert [h.shape for h in out.hidden_states] == [(2, 45, 32)] * 4
    assert torch.equal(lm.model.norm(out.hidden_states[-1]), lm.model(x).last_hidden_state)
    assert (lm(x, logits_to_keep=3).logits - out.logits[:, -3:]).abs().max() < 1e-12
    assert (lm(x, logits_to_keep=torch.tensor([0, 7])).logits - out.logits[:, [0, 7]]).abs().max() < 1e-12
    embeds = lm.get_input_embeddings()(x)
    assert torch.equal(lm(inputs_embeds=embeds).logits, out.logits)
    assert torch.equal(lm(x, return_dict=False)[0], out.logits)


def test_initialisation_is_what_is_stated(make: Make) -> None:
    lm = make(
        torch.float32,
        hidden_size=256,
        intermediate_size=512,
        vocab_size=500,
        position_embedding="learned",
        norm="rmsnorm",
    )
    layers = 3
    for name, p in lm.named_parameters():
        if name.endswith("norm.weight"):
            assert (p == 1).all(), name
        elif name.endswith("bias"):
            assert (p == 0).all(), name
        elif "convolution" in name:
            assert (p == torch.tensor([0.0] * 7 + [1.0])).all(), name
        elif "position" in name:
            assert abs(float(p.detach().std()) - 0.1) < 0.002
        elif "token" in name:
            assert abs(float(p.detach().std()) - 1) < 0.02
        else:
            expected = p.shape[1] ** -0.5 / (
                (2 * layers) ** 0.5 if name.endswith(("out.weight", "dense_out.weight")) else 1
            )
            assert abs(float(p.detach().std()) / expected - 1) < 0.02, name
    drawn = [p for name, p in lm.named_parameters() if p.dim() == 2 and "convolution" not in name]
    assert all(p.mean().abs() < 0.05 for p in drawn)
    tied = make(tie_word_embeddings=True, embedding_size=64, vocab_size=500)
    assert abs(float(tied.lm_head.weight.detach().std()) * 8 - 1) < 0.02
    axial = make(position_embedding="axial", axial_shape=(64, 64), axial_dims=(8, 8))
    assert abs(float(axial.model.embeddings.position.tables[0].weight.detach().std()) - 0.1) < 0.01


def test_resizing_the_vocabulary(make: Make) -> None:
    lm = make(torch.float32)
    lm.resize_token_embeddings(50, mean_resizing=False)
    assert lm(torch.full((1, 5), 49)).logits.shape == (1, 5, 50)
    assert lm.config.vocab_size == 50


def test_gradient_checkpointing_is_harmless(make: Make) -> None:
    x, gradients = tokens(), []
    for enable in (False, True):
        lm = make(hidden_dropout=0.1)
        if enable:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(1)
        lm(x, labels=x).loss.backward()
        gradients.append([p.grad for p in lm.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(bool(grad.any()) for grad in gradients[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"input_ids": torch.tensor([[3, 40]])}, "input_ids hold 40; vocab_size is 40, so 0 to 39 are valid"),
        ({"input_ids": torch.tensor([[3, -1]])}, "input_ids hold -1"),
        ({"input_ids": torch.tensor([3, 4])}, r"input_ids have shape \[2\]; they must be \[b, l\]"),
        ({"input_ids": tokens().float()}, "input_ids are torch.float32; they must be integers"),
        ({"input_ids": tokens(), "position_ids": torch.zeros(2, 3, dtype=torch.long)}, "position_ids have shape"),
        ({"inputs_embeds": torch.zeros(1, 3, 5)}, "their width must be that of the token embeddings, 16"),
        ({"input_ids": tokens(), "labels": tokens() + 40}, "vocab_size is 40, so 0 to 39 are valid, and -100"),
        ({"input_ids": tokens(), "logits_to_keep": -1}, "logits_to_keep=-1"),
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": tokens(), "attention_mask": torch.ones(2, 3)}, "key_padding_mask has shape"),
        ({"input_ids": tokens(), "attention_mask": torch.ones(2, 1, 45, 45)}, r"it must be \[b, l\]"),
        ({"input_ids": tokens(), "labels": tokens(2, 4)}, "labels have shape"),
        ({"input_ids": tokens(), "output_attentions": True}, "never forms the matrix"),
        ({"input_ids": tokens(), "past_key_values": ()}, "needs a ReformerCache"),
    ],
)
def test_bad_input(make: Make, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(**kwargs)


def test_hard_limits_of_positions(make: Make) -> None:
    for settings in VARIANTS[2:4]:
        lm = make(**settings)
        lm(tokens(1, 64))
        with pytest.raises(ValueError, match=r"position_ids hold 64; the longest document of its positions is 64"):
            lm(tokens(1, 65))
        packed = (torch.arange(80) // 40)[None]  # the limit is one of documents
        lm(tokens(1, 80), segment_ids=packed)
    make(max_position_embeddings=8)(tokens(1, 100))  # rotary: no limit


def test_a_model_that_is_not_causal_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="causal=False"):
        make(causal=False)
