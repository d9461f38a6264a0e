"""What a run has logged, a line of JSON each, in its folder: for reports, while it goes on and after."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LOG = "log.jsonl"
"""The file of a run's folder."""


class RunLog(TrainerCallback):
    """Appends what the main process logs; a run that goes on leaves out what it takes back.

    `watch` is told of each evaluation; what it cannot do is no reason for a run to end.
    """

    def __init__(self, folder: Path, watch: Callable[[], None] = lambda: None) -> None:
        self.path, self.watch = folder / LOG, watch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the file, or take back the steps behind the checkpoint."""
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_log(self.path) if row["step"] <= state.global_step] if state.global_step else []
        partial = self.path.with_name(f".{self.path.name}.partial")
        with suppress(OSError):
            partial.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
            partial.replace(self.path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """A line; a full disk costs a line of the report, and not the run."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        where = {"step": state.global_step, "of": state.max_steps, "processes": args.world_size}
        row = {**where, "time": round(time.time(), 1), **logs}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(row)}\n")
            self.watch()
        except OSError:
            return


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that are whole; the last one of a run that was killed may be none."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
