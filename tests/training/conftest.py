from collections.abc import Sequence
from typing import Any

from reformer.data.corpus import Document
from reformer.data.prepare import Corpus
from reformer.settings import ModelSettings
from reformer.training.settings import TrainingSettings

TEXT = [Document("a", b"the quick brown fox jumps over the lazy dog. " * 200)]
MODEL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "window": 8}


def corpus(documents: Sequence[Document] = TEXT, held_out: Sequence[Document] = ()) -> Corpus:
    return Corpus.in_memory(documents, held_out)


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings(**{**MODEL, **changes})


def training(**changes: Any) -> TrainingSettings:
    """Neither evaluations nor checkpoints, unless they are asked for."""
    small = {"length": 64, "batch_size": 2, "steps": 6, "warmup_steps": 2, "log_steps": 2, "learning_rate": 3e-3}
    return TrainingSettings(**{**small, "eval_steps": 0, "save_steps": 0, **changes})
