"""A few cases of each kind of `make faults`, and what grows in a long run."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, BENCHMARKS / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_nothing_grows_over_two_thousand_steps() -> None:
    done = run("soak.py", "--steps", "2001")  # a number whose table is not kept
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_lost() -> None:
    done = run("faults.py", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 lost"
    table = {line[:36].strip(): [int(count) for count in line[36:].split()] for line in lines[1:-1] if line[0] != " "}
    kills = [table[f"kill -9 {when}"][0] for when in ("at any instant", "during a save")]
    assert sum(kills) >= 1
    assert table["a checkpoint's file cut or flipped"][0] > 8
    assert table["SIGTERM"] == [1, 1, 0, 0]
    assert table["two runs in one folder"] == [2, 1, 1, 0]
