"""Seconds until something is to be seen: whole commands, with kernels that are compiled already and without any.

`generate`: from the command to the first byte behind the prompt, and to the end of 40 bytes, of 4 layers of width 128.
`train`: one step of 512 tokens, to its end; cold with an empty folder for compiled kernels. An earlier commit in turn.

    python benchmarks/start.py --before 5c0a8d7
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from machine import save
from trees import ROOT, tree_of

PROMPT = "def f(x):"


def environment(tree: Path, kernels: str | None) -> dict[str, str]:
    """A process that imports a tree, and keeps its kernels in a folder."""
    chosen = {} if kernels is None else {"NUMBA_CACHE_DIR": kernels}
    return {**os.environ, "PYTHONPATH": str(tree / "src"), **chosen}


def generate(tree: Path, model: Path) -> dict[str, float]:
    """Seconds to the first byte, and to the end."""
    command = [sys.executable, "-m", "reformer", "generate", str(model), "--prompt", PROMPT, "--max-new-tokens", "40"]
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=environment(tree, None), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(len(PROMPT) + 1)
        first = time.perf_counter() - started
        process.stdout.read()
    return {"generate, first byte": first, "generate, 40 bytes": time.perf_counter() - started}


def train(tree: Path, text: Path, cold: bool) -> dict[str, float]:
    """Seconds of a command that trains for one step."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        command = [
            sys.executable,
            "-m",
            "reformer",
            "train",
            str(text),
            "--out",
            out,
            "--steps",
            "1",
            "--length",
            "512",
        ]
        kernels = str(Path(folder) / "kernels") if cold else None
        started = time.perf_counter()
        subprocess.run(command, env=environment(tree, kernels), check=True, capture_output=True)
    return {f"train, one step, {'cold' if cold else 'warm'}": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit to compare with")
    parser.add_argument("--processes", type=int, default=5, help="of each tree and kind; cold ones are two")
    arguments = parser.parse_args()
    import reformer

    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, tree_of(arguments.before) as before:
        model, text = Path(folder) / "model", Path(folder) / "text.py"
        text.write_bytes(Path(tempfile.__file__).read_bytes() * 4)
        config = reformer.ReformerConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=4)
        reformer.ReformerForCausalLM(config).save_pretrained(model)
        for i in range(arguments.processes + 1):
            times: list[dict[str, float]] = []
            for tree in (before, ROOT):
                times.append({**generate(tree, model), **train(tree, text, cold=False)})
                if i in (1, 2):
                    times[-1] |= train(tree, text, cold=True)
            for name in times[0] if i else ():  # the first compiles
                found.setdefault(name, []).append((times[0][name], times[1][name]))
    rows: list[dict[str, Any]] = []
    for name, pairs in found.items():
        then, now = (median(pair[side] for pair in pairs) for side in (0, 1))
        rows.append({"what": name, "before": then, "now": now, "processes": len(pairs)})
        print(f"{name:28} {then:7.2f} s before, {now:7.2f} s now", flush=True)
    save("start", rows, before=arguments.before)


if __name__ == "__main__":
    main()
