"""What LSH layers of models that read both ways should deliver, and what should go in front of them.

Successor values on and off, each with the convolution off, begun as the identity, and begun as the mean of the
neighbours without the token. Three tasks: hidden bytes of the standard library (windows of 4,096, one a step),
questions about planted facts (`planted_facts.py`), and which of six books a passage is from (`passages.py`, shorter).
Each run has one thread; rows are saved as runs end, and runs whose row there is are left out.

    python benchmarks/two_sided.py masked facts passages --processes 2
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import learning
import numpy as np
import passages
import planted_facts
import torch
from machine import RESULTS
from resumable import fill

import reformer
from reformer.cli.quiet import quiet_libraries
from reformer.data.examples import Examples
from reformer.data.masking import MaskedWindows
from reformer.data.tokenizer import ByteTokenizer
from reformer.layers.convolution import ShortConvolution
from reformer.models.pretrained import ReformerPreTrainedModel
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks.classify import Classify
from reformer.tasks.qa import QuestionAnswering
from reformer.training.run import build_model, train

CONVOLUTIONS = ("none", "identity", "neighbours")
MASKED_STEPS, PASSAGES_STEPS, SHARE = 600, 400, 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=RUN)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where books/ is")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        (task,), (seed,), (values, convolution) = arguments.tasks, arguments.seeds, arguments.one
        quiet_libraries()
        torch.set_num_threads(1)
        found = RUN[task](values == "successor", convolution, seed, arguments.data)
        row = {"task": task, "values": values, "convolution": convolution, "seed": seed, **found}
        print(json.dumps(row), flush=True)
        return
    kinds = itertools.product(arguments.tasks, ("own", "successor"), CONVOLUTIONS, arguments.seeds)
    runs = {
        (task, values, convolution, seed): [
            *(task, "--data", str(arguments.data)),
            *("--one", values, convolution, "--seeds", str(seed)),
        ]
        for task, values, convolution, seed in kinds
    }
    for row in fill(RESULTS / "two_sided.json", key, runs, arguments.processes):
        print(row, flush=True)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["values"], row["convolution"], row["seed"]


def options(successors: bool, convolution: str) -> dict[str, Any]:
    return {
        "causal": False,
        "successor_values": successors,
        "conv_size": 0 if convolution == "none" else ModelSettings.conv_size,
    }


def begin(model: ReformerPreTrainedModel, convolution: str) -> None:
    """Convolutions that begin as the identity; as neighbours they are made."""
    for module in model.modules():
        if isinstance(module, ShortConvolution) and convolution == "identity":
            weight = torch.zeros_like(module.weight)
            weight[:, module.weight.shape[1] // 2] = 1.0
            module.weight.data.copy_(weight)


def masked(successors: bool, convolution: str, seed: int, data: Path) -> dict[str, Any]:
    """Nats and accuracy on hidden bytes of held-out windows, after training on the windows of `learning.py`."""
    length = 4096
    text, held_out = learning.texts(argparse.Namespace(corpus="code", held_out_bytes=300_000, length=length))
    torch.manual_seed(seed)
    settings = {"num_attention_heads": 4, **options(successors, convolution)}
    model = reformer.ReformerForMaskedLM(reformer.ReformerConfig(hidden_size=128, num_hidden_layers=4, **settings))
    begin(model, convolution)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    random, started = np.random.default_rng(seed), time.process_time()
    starts = random.integers(0, len(text) - length, MASKED_STEPS)
    windows = MaskedWindows(_Windows(text, starts.tolist(), length), ByteTokenizer(), SHARE, seed)
    for step in range(MASKED_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50) * (1 - 0.9 * step / MASKED_STEPS)
        batch = {name: value[None] for name, value in windows[step].items()}
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    spent = time.process_time() - started
    held = MaskedWindows(_Windows(held_out, range(0, len(held_out), length), length), ByteTokenizer(), SHARE, 0)
    nll = correct = count = 0.0
    model.eval()
    with torch.no_grad():
        for i in range(len(held)):
            out = model(**{name: value[None] for name, value in held[i].items()})
            nll, correct, count = (
                nll + float(out.loss) * int(out.predicted),
                correct + int(out.correct),
                count + int(out.predicted),
            )
    return {"bits": round(nll / count / np.log(2), 4), "accuracy": round(correct / count, 4), "cpu seconds": spent}


class _Windows:
    """Windows of bytes as tokens."""

    def __init__(self, text: np.ndarray, starts: Any, length: int) -> None:
        self.text, self.starts, self.length = text, starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        part = self.text[self.starts[i] : self.starts[i] + self.length]
        return {"input_ids": torch.from_numpy(part.astype(np.int64)) + 3}


def facts(successors: bool, convolution: str, seed: int, data: Path) -> dict[str, Any]:
    """Share of answers to the letter, after the two runs of `planted_facts.py`."""
    tokenizer, started = ByteTokenizer(), time.process_time()
    settings = ModelSettings(
        hidden_size=128,
        num_hidden_layers=3,
        attention_pattern=("local", "lsh", "local"),
        num_attention_heads=4,
        intermediate_size=256,
        window=32,
        local_window=16,
        **options(successors, convolution),
    )
    model: Any = build_model(settings, seed, reformer.ReformerForQuestionAnswering)
    begin(model, convolution)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        planted_facts.write_texts(out)
        texts = {
            name: QuestionAnswering().encode(
                QuestionAnswering(files=(str(out / f"{name}.jsonl"),)).rows(), tokenizer, (), 4200
            )
            for name in ("short", "long", "test")
        }
        for name, rate, warmup in (("short", 2e-3, 100), ("long", 1e-3, 50)):
            training = TrainingSettings(
                length=4200, batch_tokens=4096, steps=600, learning_rate=rate, schedule="linear", warmup_steps=warmup,
                log_steps=100, eval_steps=0, save_steps=0, seed=seed,
            )  # fmt: skip
            examples = Examples(texts[name], texts[name][:1], tokenizer)
            model = train(examples, settings, training, out / name, task=QuestionAnswering(), model=model, say=_say)
    scores = QuestionAnswering().measure(model, tokenizer, texts["test"]).scores
    return {name: round(value, 4) for name, value in scores.items()} | {"cpu seconds": time.process_time() - started}


def books(successors: bool, convolution: str, seed: int, data: Path) -> dict[str, Any]:
    """Share of passages whose book is found, after the first steps of what `passages.py` does, in fp32."""
    tokenizer, started = ByteTokenizer(), time.process_time()
    settings = ModelSettings(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=256,
        window=32,
        local_window=64,
        num_hashes=2,
        hidden_dropout=0.1,
        **options(successors, convolution),
    )
    names = dict(enumerate(sorted(passages.BOOKS)))
    model: Any = build_model(
        settings,
        seed,
        reformer.ReformerForSequenceClassification,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    begin(model, convolution)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        passages.write_rows(data / "books", out)
        train_rows, test_rows = (
            Classify().encode(
                Classify(files=(str(out / f"{name}.jsonl"),)).rows(), tokenizer, tuple(names.values()), 4097
            )
            for name in ("train", "test")
        )
        training = TrainingSettings(
            length=4097, batch_size=4, steps=PASSAGES_STEPS, warmup_steps=50, log_steps=50, eval_steps=0,
            save_steps=0, seed=seed,
        )  # fmt: skip
        examples = Examples(train_rows, test_rows[:1], tokenizer, tuple(names.values()))
        model = train(examples, settings, training, out / "m", task=Classify(), model=model, say=_say)
    scores = Classify().measure(model, tokenizer, test_rows).scores
    return {"accuracy": round(scores["accuracy"], 4), "cpu seconds": time.process_time() - started}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


RUN = {"masked": masked, "facts": facts, "passages": books}

if __name__ == "__main__":
    main()
