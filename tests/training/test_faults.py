"""A few cases of each kind of `make faults`."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def test_nothing_is_lost() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--small"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 lost"
    table = {line[:36].strip(): [int(count) for count in line[36:].split()] for line in lines[1:-1] if line[0] != " "}
    kills = [table[f"kill -9 {when}"][0] for when in ("at any instant", "during a save")]
    assert sum(kills) == 3
    assert table["a checkpoint's file cut or flipped"][0] > 20
    assert table["SIGTERM"] == [1, 1, 0, 0]
    assert table["two runs in one folder"] == [2, 1, 1, 0]
