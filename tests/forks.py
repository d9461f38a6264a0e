"""Processes that need no five seconds to import what most tests need."""

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["reformer.training.run", "reformer.report.evaluation"])


def in_a_fork(
    function: Callable[..., int | None], *arguments: Any, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Call a function in a process of its own; it returns the exit code."""
    with TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "err")]
        process = FORKS.Process(target=_call, args=(function, arguments, cwd, said, dict(os.environ)))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(str(arguments), 300)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in said))


def _call(
    function: Callable[..., int | None], arguments: Any, cwd: Path | None, said: list[Path], environment: dict[str, str]
) -> None:
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    os.chdir(cwd or ".")
    sys.exit(function(*arguments))
