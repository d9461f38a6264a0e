"""The benchmarks for a GPU still start: everything in them once, small, in Triton's interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", [pytest.param("gpu_attention.py", marks=pytest.mark.slow), "gpu_step.py"])
def test_dry(script: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / script, "--dry"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "100 tokens" in done.stdout or "130 bucket" in done.stdout
