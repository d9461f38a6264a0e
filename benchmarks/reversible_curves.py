"""How far a reversible model and its plain twin drift apart over 50 steps on real text, dropout on.

In fp64 rounding is all that differs; in fp32 rounding alone drives two runs apart, which is reported here.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from machine import save

from tests.training.test_curves import curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    rows = []
    for dtype in (torch.float64, torch.float32):
        plain, reversible = curve(False, dtype, steps), curve(True, dtype, steps)
        apart = max(abs(a - b) for a, b in zip(plain, reversible, strict=True))
        rows.append({"dtype": str(dtype), "first": plain[0], "last": plain[-1], "largest_difference": apart})
        print(f"{dtype}: loss {plain[0]:.4f} to {plain[-1]:.4f}, largest difference {apart:.2e}")
    save("reversible_curves", rows, steps=steps)


if __name__ == "__main__":
    main()
