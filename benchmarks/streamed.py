"""A text that is read as it comes: seconds to the first step, memory, and what going on costs, by size of the text.

Shards of 64 MB of numbered lines, read by a model of 2 layers of width 32; each run in a process of its own. A run that
is resumed near its end reads a block of each lane, whatever stands in front.

    python benchmarks/streamed.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import save

SHARD = 64 << 20
SIZES = (2, 8, 32)
"""Shards."""
STEPS, LENGTH = 40, 1024


def one(folder: Path, out: Path, resumed: bool, streamed: bool) -> None:
    """A training as a process of its own; what it cost goes to standard output."""
    started = time.perf_counter()
    from reformer.settings import ModelSettings
    from reformer.settings.training import TrainingSettings
    from reformer.tasks.lm import LanguageModelling
    from reformer.training import run
    from reformer.training.trainer import ReformerTrainer

    found: dict[str, Any] = {}
    original = ReformerTrainer.training_step

    def step(self: ReformerTrainer, *arguments: Any, **options: Any) -> Any:
        found.setdefault("first_step_s", time.perf_counter() - started)
        return original(self, *arguments, **options)

    ReformerTrainer.training_step = step  # type: ignore[method-assign]
    task = LanguageModelling(files=(str(folder),), stream_data=streamed, shuffle_tokens=1 << 22)
    training = TrainingSettings(length=LENGTH, steps=STEPS, warmup_steps=1, eval_steps=0, save_steps=STEPS - 5)
    text = task.read(LENGTH, lambda _: None)
    model = ModelSettings(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    checkpoint = out / f"checkpoint-{STEPS - 5}" if resumed else None
    run.train(text, model, training, out, task=task, resume=checkpoint, say=lambda _: None)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def write_shards(folder: Path, count: int) -> None:
    """Files of lines that are all different."""
    for number in range(count):
        with (folder / f"{number:03}.txt").open("w") as file:
            written, line = 0, 0
            while written < SHARD:
                written += file.write(
                    "".join(f"shard {number} line {line + i} {(line + i) ** 2}\n" for i in range(9999))
                )
                line += 9999


def run(folder: str, out: str, *flags: str) -> dict[str, Any]:
    """What a process says that it cost."""
    command = [sys.executable, __file__, "--one", folder, out, *flags]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "HF_DATASETS_CACHE": f"{out}-cache"}
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return json.loads(said.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--resumed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(Path(arguments.one[0]), Path(arguments.one[1]), arguments.resumed, not arguments.prepared)
        return
    rows = []
    for count in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "text")
            folder.mkdir()
            write_shards(folder, count)
            for name, out, flags in (
                ("streamed", "streamed", []),
                ("streamed, gone on with", "streamed", ["--resumed"]),
                ("prepared, for the first time", "prepared", ["--prepared"]),
            ):
                row = {"text_mb": count * SHARD >> 20, "run": name, **run(str(folder), f"{scratch}/{out}", *flags)}
                rows.append(row)
                print(f"{row['text_mb']:6,} MB {name:30} {row['first_step_s']:6.1f} s {row['peak_mib']:8,.0f} MiB")
    save("streamed", rows)


if __name__ == "__main__":
    main()
