"""Seconds of everyday work beside those of an earlier commit: alternating processes on one machine, nothing else on it.

Each process imports one of the two trees, compiles, and times each kind of work; the ratio is that of the medians over
processes of each tree's least seconds.

    python benchmarks/before.py 5c0a8d7 --processes 5
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from machine import save
from trees import ROOT, run_in, tree_of

REPEATS = 7


def work() -> dict[str, Callable[[], Any]]:
    """What is timed; by public names alone, which earlier commits have too."""
    import torch

    import reformer

    torch.manual_seed(0)
    config = reformer.ReformerConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=4)
    model = reformer.ReformerForCausalLM(config)
    ids = torch.randint(3, 259, (1, 4096))
    documents = torch.arange(4096)[None] // 700
    padded = (torch.arange(300) < torch.tensor([[300], [251], [170], [300]])).long()
    rows = torch.randint(3, 259, (4, 300))
    cache = reformer.ReformerCache(config, room=8192)
    with torch.no_grad():
        model.eval()(ids, past_key_values=cache)

    def step(**masks: Any) -> None:
        model.train()(ids, labels=ids, **masks).loss.backward()
        model.zero_grad()

    def evaluate(x: torch.Tensor, **masks: Any) -> None:
        with torch.no_grad():
            model.eval()(x, **masks)

    def decode() -> None:
        with torch.no_grad():
            for i in range(30):
                model.eval()(ids[:, i : i + 1], past_key_values=cache)

    return {
        "training step, 4,096 tokens": step,
        "training step, 4,096 tokens in documents": lambda: step(segment_ids=documents),
        "evaluation, 4,096 tokens": lambda: evaluate(ids),
        "evaluation, 300 tokens": lambda: evaluate(ids[:, :300]),
        "evaluation, 4 padded rows of 300 tokens": lambda: evaluate(rows, attention_mask=padded),
        "30 decoded tokens": decode,
    }


def seconds() -> dict[str, float]:
    """The least of some repeats, for each kind of work in turn."""
    found: dict[str, list[float]] = {}
    kinds = work()
    for function in kinds.values():
        function()
    for _ in range(REPEATS):
        for name, function in kinds.items():
            started = time.perf_counter()
            function()
            found.setdefault(name, []).append(time.perf_counter() - started)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", help="a commit")
    parser.add_argument("--processes", type=int, default=5, help="of each tree")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(seconds()))
        return
    if arguments.before is None:
        parser.error("name the commit to compare with")
    with tree_of(arguments.before) as tree:
        times = [tuple(run_in(each, __file__, ["--one"]) for each in (tree, ROOT)) for _ in range(arguments.processes)]
    rows = []
    for name in times[0][0]:
        before, now = (median(pair[i][name] for pair in times) for i in (0, 1))
        rows.append({"what": name, "before": before, "now": now, "ratio": now / before})
        print(f"{name:45} {before:8.4f} {now:8.4f} {now / before:6.3f}", flush=True)
    save("before", rows, before=arguments.before)


if __name__ == "__main__":
    main()
