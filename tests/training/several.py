"""A process of several that torchrun starts: each case of a file is a training run, whose losses go to another file.

torchrun --nproc-per-node 2 several.py CASES.json LOSSES.json
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from reformer.data.corpus import Document
from reformer.data.examples import Example, Examples
from reformer.data.prepare import Corpus
from reformer.data.tokenizer import ByteTokenizer
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks.classify import Classify
from reformer.tasks.lm import LanguageModelling
from reformer.training import run
from reformer.training.processes import is_main_process
from reformer.training.run import find_checkpoint
from reformer.training.trainer import ReformerTrainer

WORDS = b"the quick brown fox jumps over the lazy dog and the cat sat on the mat ".split()
TEXT = [Document(str(i), b" ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(60 + 31 * i))) for i in range(12)]
MODEL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window": 8}
TRAINING: dict[str, Any] = {
    "length": 64, "batch_size": 2, "steps": 30, "warmup_steps": 4, "log_steps": 1, "learning_rate": 3e-3,
    "eval_steps": 0, "save_steps": 0,
}  # fmt: skip


def losses_of(case: dict[str, Any], say: Callable[[str], None] = print) -> list[float]:
    """Train, and return the loss of each step of this call."""
    found: list[float] = []
    original = ReformerTrainer.log

    def log(self: ReformerTrainer, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            found.append(logs["loss"])
        original(self, logs, start_time)

    ReformerTrainer.log = log  # type: ignore[method-assign]
    try:
        out = Path(case["out"])
        text: Any = Corpus.in_memory(TEXT, TEXT[:2])
        task: Any = LanguageModelling(documents="apart")
        if case.get("examples"):
            text, task = examples(), Classify()
        run.train(
            text,
            ModelSettings(**{**MODEL, **case.get("model", {})}),
            TrainingSettings(**{**TRAINING, **case.get("training", {})}),
            out,
            task=task,
            resume=find_checkpoint(out, case["resume"]) if "resume" in case else None,
            say=say,
        )
    finally:
        ReformerTrainer.log = original  # type: ignore[method-assign]
    return found


def examples() -> Examples:
    tokenizer = ByteTokenizer()
    rows = []
    for i, document in enumerate(TEXT):
        tokens = tokenizer.encode([document.text])[0][: 20 + 3 * i].astype("int64")
        rows.append(Example({"input_ids": tokens, "labels": i % 2}, i % 2, len(tokens)))
    return Examples(rows, rows[:2], tokenizer, ("a", "b"))


if __name__ == "__main__":
    PartialState.destroy_process_group = lambda *_: (
        None
    )  # one group for all cases: torchrun's store makes no second one
    cases = json.loads(Path(sys.argv[1]).read_text())
    say = partial(print, file=sys.stderr) if is_main_process() else lambda _: None
    losses = {case["out"]: losses_of(case, say) for case in cases}
    if is_main_process():
        Path(sys.argv[2]).write_text(json.dumps(losses))
    torch.distributed.barrier()
    os._exit(0)  # as in tests/layers/test_distributed.py
