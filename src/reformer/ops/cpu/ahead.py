"""Compilation in other processes, while this one is still busy with imports or with kernels of its own.

Compiling holds the interpreter's lock, so threads do not help. What a helper compiles it leaves in numba's folder on
disk, where this process finds it.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from reformer.ops.environment import preferred

GROUPS = {
    "forward": ("attend_runs", "begin_forward", "finish_forward"),
    "backward": ("differentiate_runs", "begin_backward", "finish_backward", "schedule_runs", "differentiate_block"),
}
"""Kernels that one helper compiles, for fp32 (`reformer.ops.cpu.first_kernels`)."""

PATIENCE = 120
"""Seconds after which this process compiles itself."""

_helpers: dict[str, subprocess.Popen[bytes]] = {}  # of each group, at most one a process


def compile_ahead() -> None:
    """Start a helper for each group, if there is a core for it."""
    if len(_cores()) < 2 or os.environ.get("LOCAL_RANK", "0") != "0" or preferred() not in ("auto", "numba"):
        return
    path = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    for group in GROUPS:
        command = [sys.executable, "-P", "-m", "reformer.ops.cpu.first_kernels", group]
        if group not in _helpers:
            try:
                _helpers[group] = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:  # then this process compiles
                return


def compile_ahead_unless_kept() -> None:
    """`compile_ahead` where no kernel was ever kept, without loading numba to find out."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    places = [folder] if folder else [str(Path(__file__).parent / "__pycache__"), os.path.expanduser("~/.cache/numba")]
    with suppress(OSError):  # folders that cannot be read
        if not any(next(Path(place).rglob("forward.attend_runs-*.nbi"), None) for place in places):
            compile_ahead()


def wait_for(kernel: str) -> None:
    """Until a helper that compiles this kernel, if there is one, has ended."""
    for group, kernels in GROUPS.items():
        if kernel in kernels and group in _helpers:
            with suppress(subprocess.TimeoutExpired):
                _helpers[group].wait(PATIENCE)


def _cores() -> set[int]:
    """Those that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
