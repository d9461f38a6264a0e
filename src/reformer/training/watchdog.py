"""A run that does not move any more is ended, rather than left to hold its machine."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

FAILED = 1
"""Exit code of the process."""

LOOKS = 10
"""Times that a run is looked at before it is ended: one that was stopped for long, and goes on, has time to move."""


PATIENCE = 5
"""Seconds that the last words have."""


class Watchdog(TrainerCallback):
    """Ends the process when nothing was done for `seconds`: no micro-batch, no batch of an evaluation, no checkpoint.

    It says where the main thread stands, and the last line of the log. Of 0 seconds it watches nothing.
    """

    def __init__(self, seconds: int, say: Callable[[str], None], last: Callable[[], str]) -> None:
        self.seconds, self.say, self.last = seconds, say, last
        self.moved, self.ended = True, threading.Event()
        for event in ("train_begin", "epoch_begin", "step_begin", "substep_end", "step_end", "prediction_step", "save"):
            setattr(self, f"on_{event}", self._moved)

    def __enter__(self) -> "Watchdog":
        self.thread = threading.get_ident()
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()

    def _moved(self, *args: Any, **kwargs: Any) -> None:
        self.moved = True

    def _watch(self) -> None:
        still = 0
        while not self.ended.wait(self.seconds / LOOKS):
            still = 0 if self.moved else still + 1
            self.moved = False
            if still < LOOKS:
                continue
            frame = sys._current_frames().get(self.thread)
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_qualname}" if frame else "nowhere"
            line = (
                f"nothing was done for {self.seconds:,} seconds (--stall-timeout): the run is ended. It stands in "
                f"{where}; its last line: {self.last() or 'none'}; go on with --resume auto"
            )
            speaker = threading.Thread(target=self._speak, args=(line,), daemon=True)
            speaker.start()
            speaker.join(PATIENCE)  # a console may hang too
            os._exit(FAILED)  # whatever it hangs in, it would not return from

    def _speak(self, line: str) -> None:
        self.say(line)
        sys.stdout.flush()
        sys.stderr.flush()
