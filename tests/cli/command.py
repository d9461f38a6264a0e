"""The command in a process of its own, and a model that is trained in seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from reformer.cli.main import main
from tests.forks import in_a_fork

TINY = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --window 8 --length 64 --steps 4 --log-steps 2"


def reformer(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a fork of a process that has imported what most commands need."""
    return in_a_fork(main, arguments, cwd=cwd)


def reformer_alone(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does."""
    command = [sys.executable, "-m", "reformer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def run_group(command: str | list[str], **options: Any) -> tuple[int, str]:
    """Run a command of several processes: its exit code and standard error; one that hangs is killed and fails."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    ) as process:
        try:
            _, said = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, said
