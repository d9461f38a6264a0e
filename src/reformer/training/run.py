"""A training run from documents to a checkpoint folder."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import set_seed

from reformer.data.byte_tokens import VOCABULARY
from reformer.data.corpus import Document
from reformer.data.windows import TrainingWindows, join_documents
from reformer.models import ReformerConfig, ReformerForCausalLM
from reformer.settings import ModelSettings
from reformer.training.folder import RunFolder
from reformer.training.progress import ProgressLines
from reformer.training.settings import TrainingSettings
from reformer.training.trainer import ReformerTrainer

Say = Callable[[str], None]


class Interrupted(Exception):
    """Ctrl-C; what was trained up to there is saved."""


def build_model(settings: ModelSettings, seed: int) -> ReformerForCausalLM:
    """A fresh model; the weights depend on the seed."""
    set_seed(seed)
    return ReformerForCausalLM(ReformerConfig(**asdict(settings)))


def train(
    documents: Sequence[Document],
    settings: ModelSettings,
    training: TrainingSettings,
    out: Path,
    *,
    overwrite: bool = False,
    model: ReformerForCausalLM | None = None,
    say: Say = print,
) -> ReformerForCausalLM:
    """Train on documents and save to `out`; returns the model.

    Raises ValueError for settings that do not fit the text or the folder, NonFiniteLoss (nothing is saved), and
    Interrupted after Ctrl-C, when what was trained is saved.
    """
    check_fit(settings, training)
    stream = join_documents(documents)
    windows = TrainingWindows(stream, training.length)
    if windows.length < training.length:
        say(f"the text has {len(stream):,} tokens, less than one window of {training.length:,}: training on it whole")
    folder = RunFolder(out, overwrite)
    progress = ProgressLines()
    try:
        model = model or build_model(settings, training.seed)
        say(f"{model.num_parameters():,} weights; {len(stream):,} tokens in {len(windows):,} windows")
        trainer = ReformerTrainer(model, windows, training, str(folder.staging))
        trainer.add_callback(progress)
        interrupted = False
        try:
            trainer.train()
        except KeyboardInterrupt:
            if not trainer.state.global_step:
                raise  # nothing was trained yet
            interrupted = True
        progress.stop()
        folder.save(trainer.accelerator.unwrap_model(trainer.model), settings, training)
        say(f"saved to {out} after {trainer.state.global_step} steps")
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        if interrupted:
            raise Interrupted(f"interrupted at step {trainer.state.global_step}; what was trained is in {out}")
    finally:
        progress.stop()
        folder.discard()
    return model


def check_fit(settings: ModelSettings, training: TrainingSettings) -> None:
    """ValueError where model and training do not go together."""
    if settings.vocab_size < VOCABULARY:
        raise ValueError(f"vocab_size={settings.vocab_size} is too small for bytes; they need {VOCABULARY}")
    if not settings.causal:
        raise ValueError("causal=False: a language model predicts the next token; leave causal on")
    limit = settings.length_limit
    if limit is not None and training.length > limit:
        raise ValueError(
            f"length={training.length} is over {limit}, the longest document of {settings.position_embedding} "
            "positions; shorten the windows, or raise max_position_embeddings or axial_shape"
        )
