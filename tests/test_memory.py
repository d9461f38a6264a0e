"""Resident memory of a training step does not grow with depth: the benchmark's measurement, at a shorter length."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "memory_by_depth.py"


def peak(mode: str, layers: int) -> float:
    """MiB over weights and gradients, in a fresh process."""
    command = [sys.executable, str(BENCHMARK), "--one", mode, "--layers", str(layers), "--length", "2048"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_mib"])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_reversible_layer_costs_less_than_a_mebibyte() -> None:
    """A quarter of the benchmark's length, so a quarter of its 4 MiB."""
    assert (peak("reversible", 12) - peak("reversible", 4)) / 8 < 1
    assert (peak("lora", 12) - peak("lora", 4)) / 8 < 1
    assert (peak("plain", 12) - peak("plain", 4)) / 8 > 10
