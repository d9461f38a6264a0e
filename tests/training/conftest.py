import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from transformers import default_data_collator

from reformer.data.corpus import Document
from reformer.data.prepare import Corpus
from reformer.data.task import Task
from reformer.models import ReformerForCausalLM
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks.lm import LanguageModelling
from reformer.training import run
from reformer.training.job import Job
from reformer.training.trainer import ReformerTrainer
from tests.over import over

TEXT = [Document("a", b"the quick brown fox jumps over the lazy dog. " * 200)]
MODEL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window": 8}


def corpus(documents: Sequence[Document] = TEXT, held_out: Sequence[Document] = ()) -> Corpus:
    return Corpus.in_memory(documents, held_out)


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings(**over(MODEL, changes))


def training(**changes: Any) -> TrainingSettings:
    """Neither evaluations nor checkpoints, unless they are asked for."""
    small = {"length": 64, "batch_size": 2, "steps": 6, "warmup_steps": 2, "log_steps": 2, "learning_rate": 3e-3}
    return TrainingSettings(**{**small, "eval_steps": 0, "save_steps": 0, **changes})


def train(*arguments: Any, task: Task | None = None, **options: Any) -> Any:
    """A run that predicts the next token unless told otherwise."""
    return run.train(*arguments, task=task or LanguageModelling(), **options)


def job(data: Any = (), rows: int = 2) -> Job:
    """Rows of tokens and labels."""
    return Job(ReformerForCausalLM, data, [], default_data_collator, rows, "some rows")  # type: ignore[arg-type]


def stop_behind(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a step."""
    original, sent = ReformerTrainer.compute_loss, []

    def interrupt(self: ReformerTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ReformerTrainer, "compute_loss", interrupt)
