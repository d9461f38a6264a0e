"""Time and memory of attention against its length: LSH attention, exact attention, the older implementations.

All contenders of a length and a number of rounds run in one process, interleaved, and the best of several runs
counts. A peer whose next length would take longer than --limit seconds is left out from there on. Memory is the
peak of a forward and backward in a fresh process beyond inputs, output and gradients.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

OURS = ("bucket", "chunk", "bucket layer")
PEERS = {
    "sdpa": ("sdpa",),
    "local": ("local",),
    "reformer_pytorch": ("reformer_pytorch",),
    "transformers": ("transformers layer",),
    "plain": ("plain",),
}
WITHOUT_ROUNDS = ("sdpa", "local")


def time_once(contender: Any) -> tuple[float, float]:
    """Seconds of a forward, and of a forward and backward."""
    import torch

    forward, inputs = contender
    with torch.no_grad():
        started = time.perf_counter()
        forward()
        alone = time.perf_counter() - started
    started = time.perf_counter()
    out = forward()
    torch.autograd.grad(out, inputs, torch.ones_like(out))
    return alone, time.perf_counter() - started


def time_all(names: list[str], length: int, rounds: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Best seconds of every contender, interleaved; fewer runs for one that takes long."""
    import torch
    from attention_peers import build

    size = arguments.heads, arguments.width, arguments.window, getattr(torch, arguments.dtype)
    contenders = {name: build(name, length, rounds, *size) for name in names}
    for name in names:
        time_once(build(name, 256, rounds, *size))  # compiles and loads
    best = {name: [float("inf")] * 2 for name in names}
    for repeat in range(arguments.repeats):
        for name, contender in contenders.items():
            if repeat and best[name][1] * repeat > arguments.limit:
                continue
            best[name] = [min(a, b) for a, b in zip(best[name], time_once(contender), strict=True)]
    return best


def measure_memory(name: str, length: int, rounds: int, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from attention_peers import build
    from memory import peak_over_start

    size = arguments.heads, arguments.width, arguments.window, getattr(torch, arguments.dtype)
    time_once(build(name, 256, rounds, *size))  # loads what a first run loads
    forward, inputs = build(name, length, rounds, *size)
    kept = []

    def step() -> None:
        out = forward()
        kept.extend((out, torch.autograd.grad(out, inputs, torch.ones_like(out))))

    beyond = peak_over_start(step) - kept[0].nbytes - sum(grad.nbytes for grad in kept[1])
    return {"bytes": beyond, "of_qk": beyond / inputs[0].nbytes}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="512:65536", help="from:to by powers of two, or a list with commas")
    parser.add_argument("--rounds", default="1,2,4,8", help="hash rounds, a list with commas")
    parser.add_argument("--against", default="sdpa,local,reformer_pytorch,transformers", help=", ".join(PEERS))
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--window", type=int, default=64, help="of a bucket, of a chunk, of local attention")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that a contender may take at a length")
    parser.add_argument("--memory-length", type=int, default=16_384, help="at which memory is measured; 0: nowhere")
    parser.add_argument("--name", default="attention", help="of the result file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def lengths_of(text: str) -> list[int]:
    if ":" not in text:
        return [int(part) for part in text.split(",")]
    first, last = map(int, text.split(":"))
    return [first << k for k in range(32) if first << k <= last]


def main() -> None:
    arguments = parse()
    if arguments.one:
        name, length, rounds = arguments.one.rsplit(",", 2)
        print(json.dumps(measure_memory(name, int(length), int(rounds), arguments)))
        return
    from machine import RESULTS, save

    rounds = [int(r) for r in arguments.rounds.split(",")]
    names = [*OURS, *(name for peer in arguments.against.split(",") for name in PEERS[peer])]
    rows: list[dict[str, Any]] = []
    print(
        f"{'':20}{'length':>8}{'rounds':>8}{'forward s':>12}{'and backward s':>16}{'of bucket':>11}{'memory, qk':>12}"
    )
    size = {key: getattr(arguments, key) for key in ("heads", "width", "window", "dtype")}
    for r in rounds:
        last: dict[str, float] = {}
        for length in lengths_of(arguments.lengths):
            rows += measure(names, length, r, r == rounds[0], last, arguments)
            save(arguments.name, rows, **size)
    print('`of bucket`: time over that of rule="bucket", of layers over that layer. `memory, qk`: in bytes of qk.')
    if arguments.dtype == "float32" and len(lengths_of(arguments.lengths)) > 2:
        setting = f"window and chunk {arguments.window}, {arguments.heads} heads of {arguments.width}, fp32, on a CPU"
        draw(rows, 4 if 4 in rounds else rounds[0], setting, RESULTS / f"{arguments.name}.svg")


def measure(
    names: list[str], length: int, rounds: int, first: bool, last: dict[str, float], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one length and number of rounds, printed as they come."""
    from memory import in_fresh_process

    growth = {"sdpa": 4.5}  # of the time, when the length doubles
    ready = [
        name
        for name in names
        if (name in OURS or last.get(name, 0.0) * growth.get(name, 2.3) <= arguments.limit)
        and (first or name not in WITHOUT_ROUNDS)
    ]
    best = time_all(ready, length, rounds, arguments)
    rows = []
    for name in ready:
        last[name] = best[name][1]
        row: dict[str, Any] = {
            "contender": name,
            "length": length,
            "rounds": None if name in WITHOUT_ROUNDS else rounds,
        }
        row |= {"forward_s": best[name][0], "forward_backward_s": best[name][1]}
        row["of_bucket"] = best[name][1] / best["bucket layer" if name.endswith("layer") else "bucket"][1]
        if length == arguments.memory_length and rounds in (1, 4) and not name.endswith("layer"):
            size = [f"--{key}={getattr(arguments, key)}" for key in ("heads", "width", "window", "dtype")]
            row["memory"] = in_fresh_process(__file__, f"--one={name},{length},{rounds}", *size)
        rows.append(row)
        memory = f"{row['memory']['of_qk']:12.1f}" if "memory" in row else ""
        print(
            f"{name:20}{length:8}{row['rounds'] or '':>8}{row['forward_s']:12.4f}{row['forward_backward_s']:16.4f}"
            f"{row['of_bucket']:11.2f}{memory}",
            flush=True,
        )
    return rows


def draw(rows: list[dict[str, Any]], rounds: int, setting: str, path: Path) -> None:
    """Time of forward and backward against length, both axes logarithmic."""
    from reformer.report.chart import Line, line_chart

    lines = []
    for i, name in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        own = [row for row in rows if row["contender"] == name and row["rounds"] in (None, rounds)]
        xs, ys = [row["length"] for row in own], [row["forward_backward_s"] for row in own]
        lines.append(Line(name, xs, ys, i, dashed=name not in OURS and name != "local"))
    title = f"seconds, {rounds} rounds, {setting}"
    path.write_text(line_chart(title, lines, "length, tokens", log_x=True, log_y=True, legend=True, alone=True))


if __name__ == "__main__":
    main()
