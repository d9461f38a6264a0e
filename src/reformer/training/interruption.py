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

ALARM: signal.Signals | None = getattr(signal, "SIGALRM", None)
"""The signal of a timer, where the system has one."""


class GivenUp(BaseException):
    """The step at hand took too long after SIGTERM; weights and optimizer are as they were before it."""


class Interruption(TrainerCallback):
    """Stops behind the step in which Ctrl-C or SIGTERM came, with a checkpoint where a run makes them.

    `grace` seconds after SIGTERM the step is given up, where one process trains alone and the system has timers; one
    that had not begun when a signal came is not begun.
    """

    def __init__(self, say: Callable[[str], None], grace: int = 0) -> None:
        self.say, self.grace, self.asked, self.terminated, self.since = say, grace, False, False, 0.0
        self.before: dict[int, Any] = {}
        self.undone: Callable[[], None] | None = None
        """Within a step, what takes the random numbers back to its beginning."""
        self.updating = False
        """Whether weights are being changed: no time to stop."""

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
            if self.grace and ALARM is not None:
                self.before[ALARM] = signal.signal(ALARM, self._give_up)
        return self

    def __exit__(self, *error: object) -> None:
        self.disarm()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def disarm(self) -> None:
        """No step is given up from now on."""
        self.undone = None
        if ALARM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ask(self, number: int, frame: Any) -> None:
        again = self.asked and time.monotonic() - self.since > 1  # launchers hand one signal on several times
        if again and number == signal.SIGINT:
            if not self.updating:
                raise KeyboardInterrupt
            return
        if again and self.terminated:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.terminated or (self.asked and number == signal.SIGINT):
            return
        self.asked, self.since, self.terminated = True, time.monotonic(), number == signal.SIGTERM
        self.say(SIGNALS[signal.Signals(number)])
        if self.terminated and ALARM in self.before:
            signal.setitimer(signal.ITIMER_REAL, self.grace, 1)  # again and again: at first it may be no time to stop

    def _give_up(self, number: int, frame: Any) -> None:
        if self.undone is not None:
            self.say(f"the step took more than {self.grace} seconds (--grace) and is given up")
            raise GivenUp

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the random numbers: what is drawn from now on belongs to this step."""
        if args.world_size > 1:
            return
        self.undone = _random_state()
        if self.asked:  # during an evaluation or a save
            raise GivenUp

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on a step changes the weights, and is finished."""
        self.undone, self.updating = None, True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the Trainer to stop, in all processes behind the same step."""
        self.updating = False
        if args.world_size > 1:
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"


def _random_state() -> Callable[[], None]:
    """A way back to the random numbers of now; steps draw none but torch's."""
    cpu, devices = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def back() -> None:
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return back
