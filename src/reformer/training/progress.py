"""What a run shows on standard error: a line each `log_steps`, and a bar with the time left."""

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressLines(TrainerCallback):
    """Prints the log of the main process; the bar appears on terminals only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and the bar."""
        self.started = time.perf_counter()
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task("training", total=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar; log the last step too."""
        control.should_log |= state.global_step == state.max_steps
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
        """One line."""
        if not state.is_world_process_zero or not logs or "bits_per_byte" not in logs:
            return
        per_step = (time.perf_counter() - self.started) / max(state.global_step, 1)
        left = timedelta(seconds=round(per_step * (state.max_steps - state.global_step)))
        self.console.print(
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
            f"  loss {logs['loss']:.4f}  bits/byte {logs['bits_per_byte']:.3f}  accuracy {logs['accuracy']:.3f}"
            f"  grad norm {logs['grad_norm']:.2f}  {logs['tokens_per_second']:,.0f} tokens/s  left {left}"
        )

    def stop(self) -> None:
        """Take the bar away."""
        self.bar.stop()
