"""Signals in a run; `tests/cli/test_train.py` sends them to whole commands."""

import signal
import subprocess
import sys

import pytest

from reformer.training import folder

CODE = """
import os, signal, time
from reformer.training.interruption import Interruption
with Interruption(print):
    for _ in range(2):
        os.kill(os.getpid(), signal.NUMBER)
        time.sleep(1.2)
    print("waited")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_does_not_wait_for_the_step(number: signal.Signals) -> None:
    command = [sys.executable, "-c", CODE.replace("NUMBER", number.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-number if number == signal.SIGTERM else 1)
    assert "waited" not in done.stdout
    assert ("KeyboardInterrupt" in done.stderr) == (number == signal.SIGINT)


@pytest.mark.slow
def test_sigterm_behind_ctrl_c_is_the_first_one() -> None:
    code = """
import os, signal, time
from reformer.training.interruption import Interruption
with Interruption(print) as interruption:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
        time.sleep(1.2)
    print(interruption.asked, interruption.terminated)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "True True"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_what_is_written_is_whole(number: signal.Signals) -> None:
    came: list[str] = []
    before = signal.signal(number, lambda *_: came.append("signal"))
    try:
        with folder._no_interruption():
            signal.raise_signal(number)
            came.append("whole")
    finally:
        signal.signal(number, before)
    assert came == ["whole", "signal"]
