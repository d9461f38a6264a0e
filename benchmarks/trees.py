"""Benchmarks of two trees: this one and an earlier commit, each in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def beside(
    before: str | None, script: str, cases: Sequence[str], options: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """What a script measures for each case (`--one CASE`): of an earlier commit, if one is named, and of this tree."""
    for case in cases:
        for tree in ("before", "now") if before else ("now",):
            with tree_of(before) if before and tree == "before" else nullcontext(ROOT) as path:
                yield {"tree": tree, **run_in(path, script, ["--one", case, *options])}


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def run_in(tree: Path, script: str, options: Sequence[str]) -> Any:
    """What a script of this tree prints as JSON when it imports the library of another."""
    environment, command = {**os.environ, "PYTHONPATH": str(tree / "src")}, [sys.executable, script, *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])
