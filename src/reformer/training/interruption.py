"""Ctrl-C and SIGTERM in a run: the step at hand is finished and kept; a second signal ends it at once."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = {
    signal.SIGINT: "interrupted: finishing this step; Ctrl-C again to stop at once",
    signal.SIGTERM: "terminated: finishing this step; a second SIGTERM does not wait for it",
}
"""What is said of each."""


class Interruption(TrainerCallback):
    """Stops behind the step in which Ctrl-C or SIGTERM came, with a checkpoint where a run makes them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.asked, self.terminated, self.since = say, False, False, 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and time.monotonic() - self.since > 1:  # launchers hand one signal on several times
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.terminated |= number == signal.SIGTERM
        if self.asked:
            return
        self.asked, self.since = True, time.monotonic()
        self.say(SIGNALS[signal.Signals(number)])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the Trainer to stop, in all processes behind the same step."""
        if args.world_size > 1:
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
