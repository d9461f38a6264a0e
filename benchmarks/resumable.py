"""Long benchmarks, run by run: each in a process of its own, whose row is saved as it ends and not run for again."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import describe

Row = dict[str, Any]
Key = Callable[[Row], tuple[Any, ...]]
SAVING = threading.Lock()  # of two runs that end at once, neither loses its row


def this_script() -> list[str]:
    """How the running script is started: by its path, or as a module."""
    spec = sys.modules["__main__"].__spec__
    return [sys.argv[0]] if spec is None else ["-m", spec.name]


def rows_of(out: Path) -> list[Row]:
    return json.loads(out.read_text())["rows"] if out.exists() else []


def fill(
    out: Path, key: Key, runs: Mapping[tuple[Any, ...], Sequence[str]], processes: int, **environment: str
) -> Iterator[Row]:
    """The rows of those `runs`, a command line of this script for each key, that `out` does not have.

    Such a run prints its row as JSON, in its last line.
    """

    def start(words: Sequence[str]) -> Row:
        command = [sys.executable, *this_script(), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment})
        about = describe()
        row: Row = {**json.loads(done.stdout.splitlines()[-1]), "commit": about["commit"]}
        with SAVING:
            out.write_text(json.dumps({**about, "rows": sorted([*rows_of(out), row], key=key)}, indent=1) + "\n")
        return row

    done = {key(row) for row in rows_of(out)}
    with ThreadPoolExecutor(processes) as pool:
        yield from pool.map(start, [words for run, words in runs.items() if run not in done])
