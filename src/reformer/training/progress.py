"""What a run shows on standard error: a line each `log_steps`, and a bar with the time left."""

import math
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressLines(TrainerCallback):
    """Prints the log of the main process; the bar appears on terminals only.

    `unit` is what is predicted: a byte, a token, or anything else.
    """

    def __init__(self, unit: str | None = "byte", console: Console | None = None) -> None:
        self.unit, self.line = unit, ""
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and the bar."""
        self.started, self.first = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task("training", total=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar; log, evaluate and save at the last step too."""
        if state.global_step == state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line, for the text that is trained on or for the text that is held out."""
        if not state.is_world_process_zero or not logs:
            return
        step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        if "eval_loss" in logs:
            self._print(f"{step}  held out: {self._fit(logs, 'eval_')}")
        elif "bits_per_token" in logs:
            per_step = (time.perf_counter() - self.started) / max(state.global_step - self.first, 1)
            left = timedelta(seconds=round(per_step * (state.max_steps - state.global_step)))
            self._print(
                f"{step}  {self._fit(logs, '')}  grad norm {logs['grad_norm']:.2f}  "
                f"{logs['tokens_per_second']:,.0f} tokens/s  left {left}"
            )

    def _print(self, line: str) -> None:
        self.line = line
        self.console.print(line)

    def last_line(self) -> str:
        """What was printed last."""
        return self.line

    def _fit(self, logs: dict[str, float], prefix: str) -> str:
        loss = logs[f"{prefix}loss"]
        how = {
            "byte": f"  bits/byte {logs[f'{prefix}bits_per_token']:.3f}",
            "token": f"  perplexity {math.exp(min(loss, 700)):.2f}",
        }.get(self.unit or "", "")
        return f"loss {loss:.4f}{how}  accuracy {logs[f'{prefix}accuracy']:.3f}"

    def stop(self) -> None:
        """Take the bar away."""
        self.bar.stop()
