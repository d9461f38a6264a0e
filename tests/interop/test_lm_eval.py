"""Our checkpoints in lm-eval, on a task of local files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from reformer.data.corpus import Document
from reformer.inference.evaluate import evaluate, evaluate_stream
from reformer.models import ReformerConfig, ReformerForCausalLM

lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")

TEXTS = ["to be or not to be, that is the question", "whether 'tis nobler in the mind to suffer \u2014 " * 20]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
    aggregation: bits_per_byte
    higher_is_better: false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm-eval")
    config = ReformerConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, window=8, local_window=8)
    ReformerForCausalLM(config).save_pretrained(folder / "model")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "tasks").mkdir()
    task = TASK.format(name="local_texts", data=folder / "texts.jsonl")
    (folder / "tasks" / "local_texts.yaml").write_text(task)
    return folder


def make(folder: Path, **arguments: Any) -> Any:
    from reformer.interop.lm_eval import ReformerEval

    return ReformerEval(pretrained=str(folder / "model"), **arguments)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def test_rolling_windows_and_whole_documents_agree_with_evaluate(folder: Path) -> None:
    documents = [Document(str(k), text.encode()) for k, text in enumerate(TEXTS)]
    requests = instances("loglikelihood_rolling", *((text,) for text in TEXTS))
    whole = make(folder, max_length=0, piece=100)
    wanted = evaluate_stream(whole.model, documents, 64)
    for found, score in zip(whole.loglikelihood_rolling(requests, disable_tqdm=True), wanted.documents, strict=True):
        assert found == pytest.approx(-score.nll, rel=1e-5)
    short = make(folder, max_length=64)
    first = evaluate(short.model, documents[:1], 65).documents[0]
    assert short.loglikelihood_rolling(requests, disable_tqdm=True)[0] == pytest.approx(-first.nll, rel=1e-5)


def test_every_token_counts_once_over_windows(folder: Path) -> None:
    """Of a document of many windows, all but the first token of each have been scored before by nobody else."""
    model = make(folder, max_length=50)
    (text,) = instances("loglikelihood_rolling", (TEXTS[1],))
    tokens = model.tok_encode(TEXTS[1])
    total = model.loglikelihood_rolling([text], disable_tqdm=True)[0]
    parts = 0.0
    for start in range(0, len(tokens), 50):
        end = min(start + 50, len(tokens))
        seen = [model.eot_token_id, *tokens][max(end - 50, 0) : end] if end - start < 50 or start else None
        context = seen if seen is not None else [model.eot_token_id, *tokens[: end - 1]]
        parts += model._score([*context, tokens[end - 1]], end - start)[0]
    assert total == pytest.approx(parts, rel=1e-6)


def test_continuations(folder: Path) -> None:
    model = make(folder)
    ((value, greedy), (other, _)) = model.loglikelihood(
        instances("loglikelihood", ("to be", " or not"), ("", "to be")), disable_tqdm=True
    )
    whole, _ = model._score([1, *model.tok_encode("to be or not")], 12)
    start, _ = model._score([1, *model.tok_encode("to be")], 5)
    assert value != pytest.approx(whole - start)  # there is no end token in front of a context
    assert other == pytest.approx(start)
    assert value < 0
    assert greedy in (True, False)


def test_what_is_too_long_or_empty(folder: Path) -> None:
    model = make(folder, max_length=20)
    assert model._loglikelihood_tokens([(None, [5], []), (None, [5, 6], [])], disable_tqdm=True) == [(0.0, True)] * 2
    with pytest.raises(ValueError, match="21 tokens, over max_length=20"):
        model._loglikelihood_tokens([(None, [5], [6] * 21)], disable_tqdm=True)
    requests = instances("generate_until", ("to be " * 9, {"max_gen_toks": 4}))
    assert len(model.generate_until(requests, disable_tqdm=True)) == 1
    with pytest.raises(ValueError, match="leave no room"):
        model.generate_until(instances("generate_until", ("to be " * 9, {"max_gen_toks": 20})), disable_tqdm=True)
    for name in ("max_length", "piece", "max_gen_toks"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            make(folder, **{name: -1})


def test_generation_stops(folder: Path) -> None:
    model = make(folder, max_gen_toks=30)
    text = model.generate_until(instances("generate_until", ("to be", {"until": ["\x00"], "max_gen_toks": 12})), True)
    assert len(text) == 1
    assert len(text[0].encode()) <= 36


def test_a_task_of_local_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="reformer",
        model_args={"pretrained": str(folder / "model"), "max_length": 64},
        tasks=["local_texts"],
        task_manager=manager,
        bootstrap_iters=0,
    )
    bits = found["results"]["local_texts"]["bits_per_byte,none"]
    model = make(folder, max_length=64)
    nats = sum(model.loglikelihood_rolling(instances("loglikelihood_rolling", *((t,) for t in TEXTS)), True))
    assert bits == pytest.approx(-nats / math.log(2) / sum(len(text.encode()) for text in TEXTS), rel=1e-6)


def test_max_length_0_needs_a_cache(folder: Path, tmp_path: Path) -> None:
    config = ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, rule="chunk")
    config.attention_pattern = ["lsh"]
    ReformerForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="max_length=0 needs a model with a cache"):
        make(tmp_path, max_length=0)
