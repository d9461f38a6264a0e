"""Ctrl-C in a run: the step at hand is finished and kept; a second Ctrl-C ends it at once."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Interruption(TrainerCallback):
    """Stops behind the step in which Ctrl-C came, with a checkpoint where a run makes them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.asked, self.since = say, False, 0.0

    def __enter__(self) -> "Interruption":
        self.here = threading.current_thread() is threading.main_thread()
        if self.here:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self.here:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and time.monotonic() - self.since > 1:  # launchers hand one Ctrl-C on several times
            raise KeyboardInterrupt
        if self.asked:
            return
        self.asked, self.since = True, time.monotonic()
        self.say("interrupted: finishing this step; Ctrl-C again to stop at once")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the Trainer to stop, in all processes behind the same step."""
        if args.world_size > 1:
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
