"""Seconds until a verb's --help has answered: a whole process, the median of several."""

import argparse
import statistics
import subprocess
import sys
import time

from machine import save

VERBS = ([], ["train"], ["evaluate"], ["generate"])


def seconds(verb: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "reformer", *verb, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = []
    for verb in VERBS:
        seconds(verb)
        rows.append({"verb": " ".join(verb), "seconds": statistics.median(seconds(verb) for _ in range(repeats))})
        print(f"reformer {rows[-1]['verb']:10}{rows[-1]['seconds']:6.2f} s")
    save("help", rows)


if __name__ == "__main__":
    main()
