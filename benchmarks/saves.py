"""What checkpoints cost: seconds of a save beside those of the 250 steps between two.

Each model is trained for a few steps of one size with a save behind each; a save is staged, hashed, put onto the disk
and renamed, and older ones are removed. The least time of each counts, as elsewhere.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import save
from transformers import TrainerCallback

from reformer.cli.quiet import quiet_libraries
from reformer.data.corpus import standard_library
from reformer.data.prepare import Corpus
from reformer.settings.presets import load_preset
from reformer.settings.run_file import Run
from reformer.tasks import tasks
from reformer.training import run
from reformer.training.trainer import ReformerTrainer

BETWEEN = 250
PRESETS = {"demo": 12, "small": 4}
"""Steps that are trained of each."""


class Steps(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def measure(preset: str, steps: int, folder: Path) -> dict[str, Any]:
    tables = load_preset(preset)
    tables["training"] |= {"steps": steps, "save_steps": 1, "eval_steps": 0, "length_schedule": (), "warmup_steps": 1}
    settings, watch, saves = Run.of(tables, tasks()), Steps(), []
    train, save_checkpoint = ReformerTrainer.train, ReformerTrainer._save_checkpoint

    def watched(self: ReformerTrainer, *given: Any, **named: Any) -> Any:
        self.add_callback(watch)
        return train(self, *given, **named)

    def timed(self: ReformerTrainer, *given: Any) -> None:
        started = time.perf_counter()
        save_checkpoint(self, *given)
        saves.append(time.perf_counter() - started)

    ReformerTrainer.train, ReformerTrainer._save_checkpoint = watched, timed  # type: ignore[method-assign]
    try:
        corpus = Corpus.in_memory(standard_library())
        model = run.train(
            corpus, settings.model, settings.training, folder / preset, task=tasks()["lm"](), say=lambda _: None
        )
    finally:
        ReformerTrainer.train, ReformerTrainer._save_checkpoint = train, save_checkpoint  # type: ignore[method-assign]
    step, one = min(watch.seconds), min(saves)
    return {
        "preset": preset,
        "weights": model.num_parameters(),
        "step_seconds": step,
        "save_seconds": one,
        "longest_save_seconds": max(saves),
        "share": one / (BETWEEN * step),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    quiet_libraries()
    rows = []
    print(f"{'preset':8}{'weights':>12}{'step, s':>10}{'save, s':>10}{'longest':>10}{f'of {BETWEEN} steps':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for preset, steps in PRESETS.items():
            row = measure(preset, steps, Path(folder))
            rows.append(row)
            print(
                f"{preset:8}{row['weights']:12,}{row['step_seconds']:10.2f}{row['save_seconds']:10.3f}"
                f"{row['longest_save_seconds']:10.3f}{row['share']:16.2%}"
            )
    save("saves", rows, steps_between=BETWEEN)


if __name__ == "__main__":
    main()
