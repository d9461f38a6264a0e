"""2,000 steps of a tiny model with evaluation, checkpoints and generation between: what grows.

Resident memory, open files and threads every 20 steps; the slope is that of a line through what stands behind the
first quarter, in which pools fill. Exits with 1 for a slope of 1 MiB in 1,000 steps or more, and for files or threads
that grow. Linux only.
"""

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MALLOC_ARENA_MAX", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from machine import save
from memory import MIB
from transformers import TrainerCallback

from reformer.cli.quiet import quiet_libraries
from reformer.data.corpus import standard_library
from reformer.data.prepare import Corpus
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks.lm import LanguageModelling
from reformer.training import run
from reformer.training.trainer import ReformerTrainer

EVERY = 20
"""Steps between two looks."""

LIMIT = 1.0
"""MiB that 1,000 steps may add."""


class Watch(TrainerCallback):
    """Looks at the process, and has the model write now and then."""

    def __init__(self) -> None:
        self.rows: list[dict[str, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % (5 * EVERY) == 0:
            model.eval()
            generate_text(model, b"def ", 64, lambda text: None, Sampling(temperature=0.8, seed=state.global_step))
            model.train()
        if state.global_step % EVERY == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident, files = pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))
            threads = len(os.listdir("/proc/self/task"))
            self.rows.append({"step": state.global_step, "resident": resident, "files": files, "threads": threads})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    quiet_libraries()
    watch = Watch()
    original = ReformerTrainer.train

    def train(self: ReformerTrainer, *given: Any, **named: Any) -> Any:
        self.add_callback(watch)
        return original(self, *given, **named)

    ReformerTrainer.train = train  # type: ignore[method-assign]
    documents = standard_library()
    with tempfile.TemporaryDirectory() as folder:
        run.train(
            Corpus.in_memory(documents[:40], documents[40:44]),
            ModelSettings(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_dropout=0.1),
            TrainingSettings(
                length=256, steps=arguments.steps, save_steps=50, eval_steps=70, eval_tokens=2000, log_steps=100
            ),
            Path(folder) / "run",
            task=LanguageModelling(),
        )
    settled = [row for row in watch.rows if row["step"] > arguments.steps // 4]
    slope, _ = np.polyfit([row["step"] for row in settled], [row["resident"] / MIB for row in settled], 1)
    slope *= 1000
    grown = {name: settled[-1][name] - settled[0][name] for name in ("files", "threads")}
    print(f"{slope:.3f} MiB in 1,000 steps; open files {grown['files']:+d}, threads {grown['threads']:+d}")
    print(f"resident: {settled[0]['resident'] / MIB:.1f} MiB, at the end {settled[-1]['resident'] / MIB:.1f} MiB")
    if arguments.steps == parser.get_default("steps"):
        save("soak", watch.rows, mib_in_1000_steps=slope, grown=grown, python_threads=threading.active_count())
    sys.exit(slope >= LIMIT or any(value > 0 for value in grown.values()))


if __name__ == "__main__":
    main()
