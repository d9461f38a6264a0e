"""Seconds and peak memory of preparing a corpus: one gigabyte of bytes, as one text and as JSON lines, and a BPE.

The text is the Python standard library's source, again and again with other numbers in it. Memory is the peak of the
process, over what it held before, without pages of mapped files. *Again* is a second start, which finds what the first
one left; then windows of 2,048 and of 8,192 tokens are read, in some random places.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import save
from memory import MIB, in_fresh_process, resident

from reformer.data.corpus import standard_library
from reformer.data.prepare import prepare
from reformer.settings.data import DataSettings

CASES: dict[str, dict[str, Any]] = {
    "one text, bytes": {"files": ("one.txt",)},
    "4 files of JSON lines, bytes": {"files": ("lines-*.jsonl",)},
    "4 files of JSON lines, bpe:8000": {"files": ("lines-*.jsonl",), "tokenizer": "bpe:8000"},
}


def write(folder: Path, size: int) -> None:
    documents = [document.text.decode("utf-8", "replace") for document in standard_library()]
    total = sum(map(len, documents))
    rounds = max(size // total, 1)
    with (folder / "one.txt").open("w") as text:
        for i in range(rounds):
            text.writelines(f"{i} {document}" for document in documents)
    time.sleep(2.5)  # a file that has just been written may change again within its time, and is read again
    for part in range(4):
        with (folder / f"lines-{part}.jsonl").open("w") as lines:
            for i in range(part, rounds, 4):
                lines.writelines(json.dumps({"text": f"{i} {document}"}) + "\n" for document in documents)


def most_anonymous(run: Callable[[], None]) -> int:
    """The most bytes during `run` that are no file's, over those before, read 50 times a second."""
    before, most, done = resident("RssAnon"), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most - before


def measure(name: str, folder: Path) -> dict[str, Any]:
    case = CASES[name] | {"files": tuple(str(folder / pattern) for pattern in CASES[name]["files"])}
    small = folder / "small.txt"
    small.write_text("to load what a first call loads " * 100)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        prepare(DataSettings(files=(str(small),)), cache=Path(cache))
        result: dict[str, Any] = {"case": name}

        def run() -> None:
            started = time.perf_counter()
            corpus = prepare(DataSettings(**case), cache=Path(cache))
            result["seconds"], result["tokens"] = time.perf_counter() - started, len(corpus.train)

        result["peak_bytes"] = most_anonymous(run)
        started = time.perf_counter()
        corpus = prepare(DataSettings(**case), cache=Path(cache))
        result["again_seconds"] = time.perf_counter() - started
        starts = np.random.default_rng(0).integers(0, len(corpus.train) - 8192, 1000).tolist()
        for length in (2048, 8192):
            started = time.perf_counter()
            assert sum(len(corpus.train.part(start, start + length)) for start in starts) == 1000 * length
            result[f"window_{length}_seconds"] = (time.perf_counter() - started) / 1000
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.megabytes * 1_000_000)
        print(f"{'':34}{'tokens':>15}{'seconds':>9}{'again':>7}{'peak MiB':>10}{'ms, 2,048':>11}{'ms, 8,192':>11}")
        for name in CASES:
            row = in_fresh_process(__file__, "--one", name, folder)
            rows.append(row)
            print(
                f"{name:34}{row['tokens']:>15,}{row['seconds']:>9.1f}{row['again_seconds']:>7.1f}"
                f"{row['peak_bytes'] / MIB:>10,.0f}{row['window_2048_seconds'] * 1e3:>11.3f}"
                f"{row['window_8192_seconds'] * 1e3:>11.3f}",
                flush=True,
            )
    save("prepare", rows, megabytes=arguments.megabytes)


if __name__ == "__main__":
    main()
