"""Peak resident memory, read in a fresh process. Linux only.

`MALLOC_MMAP_THRESHOLD_` keeps glibc from holding on to freed blocks, which would count as used.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20


def resident(field: str = "VmRSS") -> int:
    """Bytes of a field of /proc/self/status: VmRSS, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def peak_over_start(run: Callable[[], Any]) -> int:
    """Bytes of the peak during `run` over what was resident before."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run()
    return resident("VmHWM") - before


def in_fresh_process(script: str, *arguments: str) -> dict[str, Any]:
    """What `script` with these arguments prints as JSON."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, script, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])
