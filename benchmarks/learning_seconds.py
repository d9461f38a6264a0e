"""Seconds of a training step of each variant of `learning.py`, in pairs with the base, two threads, nothing else.

python benchmarks/learning_seconds.py --lengths 4096 16384
"""

import argparse
from functools import partial

import torch
from learning import VARIANTS, build, train
from machine import save
from successors import pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096])
    parser.add_argument("--pairs", type=int, default=15)
    arguments = parser.parse_args()
    rows, threads = [], torch.get_num_threads()
    for length in arguments.lengths:
        tokens = torch.randint(3, 259, (1, length))
        for variant in arguments.variants:
            base, other = (partial(train, *build(name, length), tokens) for name in ("base", variant))
            found = pairs(base, other, arguments.pairs, threads)
            rows.append({"length": length, "variant": variant, "base": found["without"], "seconds": found["with"]})
            rows[-1]["ratio"] = found["ratio"]
            print(rows[-1], flush=True)
    save("learning_seconds", rows)


if __name__ == "__main__":
    main()
