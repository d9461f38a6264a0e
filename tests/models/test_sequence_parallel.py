"""One sequence over several processes gives what one process gives: outputs, loss, gradients (`docs/scaling.md`)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import reformer
from tests.models.parts import Made, averaged, gradients, over_processes

LENGTH, ROWS, TARGET = 61, 2, 23
CASES: dict[str, dict[str, Any]] = {
    "bucket": {},
    "bucket, own values, once": {"successor_values": False, "duplicates": "once"},
    "bucket, shared rotations": {"share_rotations": True},
    "chunk": {"rule": "chunk", "chunk_length": 8},
    "chunk, own values": {"rule": "chunk", "chunk_length": 8, "successor_values": False, "conv_size": 0},
    "shifted keys": {"attention_pattern": ("full", "lsh"), "shifted_keys": True},
    "not reversible": {"reversible": False, "conv_size": 1},
    "one stream": {"residual": "single", "reversible": False, "rule": "chunk", "chunk_length": 8, "lsh_rotary": True},
    "learned positions": {"position_embedding": "learned", "max_position_embeddings": LENGTH},
    "dropout": {"attention_dropout": 0.2},
    "dropout by chunks": {"attention_dropout": 0.2, "rule": "chunk", "chunk_length": 8, "local_rule": "chunk"},
    "both ways": {"causal": False},
    "both ways, successors": {"causal": False, "successor_values": True, "conv_size": 5},
    "encoder and decoder": {"num_decoder_layers": 2},
}
BATCHES = ("plain", "padding", "documents", "padding and documents", "nobody")
ALL_BATCHES = ("bucket", "chunk", "both ways")
BOUNDS = {2: (0, 13, LENGTH), 4: (0, 0, 2, 40, LENGTH)}  # a part shorter than what convolutions reach, and an empty one


def trials() -> list[tuple[str, str]]:
    """Cases and their batches: each batch with the cases that differ most, two with each of the others."""
    found = []
    for number, case in enumerate(CASES):
        some = [BATCHES[number % 5], BATCHES[(number + 3) % 5]]
        found += [(case, kind) for kind in (BATCHES if case in ALL_BATCHES else some)]
    return found


def build(case: str) -> Any:
    settings = {"attention_pattern": ("local", "lsh"), "window": 8, "local_window": 12, **CASES[case]}
    if settings.get("rule") == "chunk":
        del settings["window"]
    if settings.get("local_rule") == "chunk":
        del settings["local_window"]
    torch.manual_seed(1)
    kind: Any = reformer.ReformerForCausalLM
    if case == "encoder and decoder":
        kind, settings = reformer.ReformerForConditionalGeneration, {**settings, "decoder_start_token_id": 1}
    elif not settings.get("causal", True):
        kind = reformer.ReformerForMaskedLM
    config = reformer.ReformerConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, loss_chunk=7, **settings
    )
    model = kind(config).double()
    with torch.no_grad():  # convolutions begin as the identity, which would not show what they read
        for name, p in model.named_parameters():
            if "convolution" in name:
                p.add_(torch.randn(p.shape, dtype=p.dtype) / 4)
    return model.train("dropout" in case)


def batch(case: str, kind: str) -> dict[str, Tensor]:
    """Whole rows: padding on both sides and in the middle of a part, documents that cross parts."""
    torch.manual_seed(2)
    tokens = torch.randint(1, 31, (ROWS, LENGTH))
    tokens[:, 30:50] = tokens[:, 5:25]
    made = {"input_ids": tokens, "labels": tokens.clone()}
    real = torch.ones(ROWS, LENGTH, dtype=torch.long)
    if "padding" in kind:
        real[0, :3], real[0, 20:24], real[1, 55:] = 0, 0, 0
    if kind == "nobody":  # parts without a real token
        real[:, 13:40], real[0, 40:] = 0, 0
    if kind not in ("plain", "documents"):
        made["attention_mask"] = real
    if "documents" in kind and case != "encoder and decoder":
        made["segment_ids"] = torch.tensor([[0] * 18 + [1] * 25 + [2] * 18, [0] * 45 + [3] * 16])
    if case == "encoder and decoder":
        made |= {"decoder_input_ids": tokens[:, :TARGET], "labels": tokens[:, 1 : TARGET + 1]}
    return made


def cut(whole: dict[str, Tensor], share: reformer.SequenceParallel, unequal: bool) -> dict[str, Tensor]:
    if not unequal:
        return share.part(whole)
    begin, end = BOUNDS[share.size][share.place : share.place + 2]
    return {name: x[:, begin:end] for name, x in whole.items()}


def kept(case: str) -> dict[str, Any]:
    return {"logits_to_keep": TARGET if case == "encoder and decoder" else LENGTH}


def in_parts() -> Made:
    share, made = reformer.SequenceParallel(), {}
    for number, (case, kind) in enumerate(trials()):
        model, whole = build(case), batch(case, kind)
        part = cut(whole, share, unequal=number % 2 == 0)
        torch.manual_seed(3 + dist.get_rank() * ("dropout" in case))  # the first process says what is drawn
        output = model(**part, sequence_parallel=share, **kept(case))
        output.loss.backward()
        counts = torch.stack((output.correct, output.predicted))
        found = {"logits": output.logits.detach(), "loss": output.loss.detach(), "counts": counts}
        made[f"{case}, {kind}"] = {**found, "grads": averaged(model)}
    return made


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_equals_one_process(size: int, tmp_path: Path) -> None:
    found = over_processes(in_parts, size, tmp_path)
    for case, kind in trials():
        model, whole = build(case), batch(case, kind)
        torch.manual_seed(3)
        expected, name = model(**whole, **kept(case)), f"{case}, {kind}"
        expected.loss.backward()
        logits = torch.cat([one[name]["logits"] for one in found], dim=1)
        real = torch.ones(logits.shape[:2], dtype=torch.bool)
        if "attention_mask" in whole and case != "encoder and decoder":
            real = whole["attention_mask"].bool()
        assert (logits - expected.logits)[real].abs().max() < 1e-10, name
        for one in found:
            assert abs(one[name]["loss"] - expected.loss) < 1e-10, name
            assert one[name]["counts"].tolist() == [expected.correct, expected.predicted], name
            for weight, grad in gradients(model).items():
                assert (one[name]["grads"][weight] - grad).abs().max() < 1e-10, (name, weight)


def told() -> Made:
    """What goes wrong, said in all processes; and what else a model does."""
    share, said = reformer.SequenceParallel(), {}
    model, whole = build("bucket"), batch("bucket", "padding")
    part = share.part(whole)

    def refused(name: str, run: Any) -> None:
        with pytest.raises(reformer.InputError) as error:
            run()
        said[name] = str(error.value)

    def spoilt(name: str, value: Any) -> dict[str, Any]:
        return {**part, name: value} if share.place else part

    rows = {name: x[: 1 + share.place] for name, x in part.items()}
    refused("rows", lambda: model(**rows, sequence_parallel=share))
    refused("mask", lambda: model(**spoilt("attention_mask", None), sequence_parallel=share))
    refused("cache", lambda: model(**part, sequence_parallel=share, use_cache=True))
    refused("shape", lambda: model(**spoilt("labels", part["labels"][:, 1:]), sequence_parallel=share))
    refused("inputs", lambda: model(**spoilt("input_ids", part["input_ids"].double()), sequence_parallel=share))
    refused("token", lambda: model(**spoilt("input_ids", part["input_ids"] + 31), sequence_parallel=share))
    refused("label", lambda: model(**spoilt("labels", part["labels"] + 31), sequence_parallel=share))
    refused("weights", lambda: model(**spoilt("attention_mask", part["labels"] * 0.5), sequence_parallel=share))
    vectors = torch.randn(*part["input_ids"].shape, 16 - share.place, dtype=torch.float64)
    others = {name: x for name, x in part.items() if name != "input_ids"}
    refused("width", lambda: model(inputs_embeds=vectors, **others, sequence_parallel=share))
    refused("seed", lambda: model(**part, sequence_parallel=share, seed=share.place))
    refused("mode", lambda: model.train(share.place == 1)(**part, sequence_parallel=share))
    model.eval()
    masked = build("both ways")
    refused("some labels", lambda: masked(**spoilt("labels", None), sequence_parallel=share))
    three = reformer.ReformerForCausalLM(reformer.ReformerConfig(vocab_size=31, hidden_size=24, num_attention_heads=3))
    refused("heads", lambda: three(**part, sequence_parallel=share))
    refused("mesh", lambda: reformer.SequenceParallel(dist.init_device_mesh("cpu", (1, share.size))))
    both = reformer.ReformerConfig(vocab_size=31, hidden_size=16, num_attention_heads=4, causal=False, num_labels=3)
    one = reformer.ReformerForSequenceClassification(both)
    refused("pooled", lambda: one(part["input_ids"], sequence_parallel=share))
    asked = reformer.ReformerForQuestionAnswering(both)
    refused("answer", lambda: asked(part["input_ids"], sequence_parallel=share))
    torch.manual_seed(4)
    tagger = reformer.ReformerForTokenClassification(both).double().eval()
    classes = {"input_ids": whole["input_ids"], "labels": whole["labels"] % 3}
    loss = tagger(**share.part(classes), sequence_parallel=share).loss
    states = tagger.model(**share.part({"input_ids": whole["input_ids"]}), sequence_parallel=share)
    low = reformer.ReformerForCausalLM(model.config).to(torch.bfloat16)
    low.load_state_dict(model.state_dict())
    low(**part, sequence_parallel=share).loss.backward()
    torch.manual_seed(5 + share.place)  # processes whose generators differ hash alike all the same
    trained = model.train()(**part, sequence_parallel=share).loss
    return {
        "said": said,
        "tagged": [loss.item(), tagger(**classes).loss.item()],
        "pooler": states.pooler_output is None,
        "finite": all(bool(p.grad.isfinite().all()) for p in low.parameters()),
        "trained": trained.item(),
    }


def test_what_goes_wrong_is_said_in_all_processes(tmp_path: Path) -> None:
    found = over_processes(told, 2, tmp_path)
    model, whole = build("bucket").train(), batch("bucket", "padding")
    torch.manual_seed(5)
    expected = model(**whole).loss.item()
    for place, one in enumerate(found):
        said = one["said"]
        assert "[1, 2] rows" in said["rows"]
        assert "attention_mask is given in process [0] of 2" in said["mask"]
        assert "cache" in said["cache"]
        assert "training mode in some processes" in said["mode"]
        assert "different seeds" in said["seed"]
        assert "labels is given in process [0] of 2" in said["some labels"]
        own = {
            "shape": "labels has shape [2, 29]; it must be that of this part, [2, 30]",
            "inputs": "they must be integers",
            "token": "vocab_size is 31",
            "width": "their width must be that of the token embeddings, 16",
            "label": "labels hold",
            "weights": "attention_mask holds",
        }
        for name, words in own.items():
            assert (words if place else "process [1] of a sequence was given something wrong") in said[name], name
        assert "3 heads cannot be dealt out to 2 processes" in said["heads"]
        assert "2 dimensions" in said["mesh"]
        assert "ReformerForSequenceClassification" in said["pooled"]
        assert "ReformerForQuestionAnswering" in said["answer"]
        assert abs(one["tagged"][0] - one["tagged"][1]) < 1e-10
        assert one["pooler"] is True
        assert one["finite"] is True
        assert abs(one["trained"] - expected) < 1e-10


def test_processes_are_wanted() -> None:
    with pytest.raises(reformer.InputError, match="torchrun"):
        reformer.SequenceParallel()
