"""`make demo` as a benchmark: bits per byte before and after, beside those of byte models, and seconds in all.

An earlier commit's demo, of as many steps, goes first if one is named.

    python benchmarks/demo.py --before ab6178d
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import save
from trees import ROOT, tree_of

from reformer.settings.presets import load_preset


def run(tree: Path, steps: int) -> tuple[dict[str, float], float]:
    """Bits per byte by what the demo of a tree calls them, and its seconds."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(tree / "examples" / "demo.py"), "--out", f"{out}/demo", "--steps", str(steps)]
        environment, started = {**os.environ, "PYTHONPATH": str(tree / "src")}, time.perf_counter()
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
        seconds = time.perf_counter() - started
    print(printed, flush=True)
    found = re.findall(r"^  (\S.*?) +(\d+\.\d{3})$", printed, re.MULTILINE)
    return {name: float(value) for name, value in found}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--steps", type=int, default=load_preset("demo")["training"]["steps"])
    arguments, earlier = parser.parse_args(), {}
    before, steps = arguments.before, arguments.steps
    if before:
        with tree_of(before) as tree:
            run(tree, 1)  # compiles
            bits, seconds = run(tree, steps)
        earlier = {
            "before": before,
            "seconds_before": seconds,
            "after_training_before": bits["Reformer after training"],
        }
    run(ROOT, 1)
    bits, seconds = run(ROOT, steps)
    rows = [{"model": name, "bits_per_byte": value} for name, value in bits.items()]
    save("demo", rows, steps=steps, seconds=seconds, **earlier)


if __name__ == "__main__":
    main()
