"""The command in a process of its own, and a model that is trained in seconds."""

import subprocess
import sys
from pathlib import Path

TINY = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --window 8 --length 64 --steps 4 --log-steps 2"


def reformer(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reformer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)
