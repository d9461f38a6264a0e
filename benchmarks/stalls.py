"""The longest step of decoding beside the median: this tree, and an earlier commit in the same run.

6 layers of width 256, 4 heads, local and LSH attention, fp32, one row. The prompt ends shortly in front of a context's
length, where an octave starts and all earlier tokens stand in twice the buckets; a step's time is the least of the
repeats, each behind a prompt of its own, and caches are not told how many tokens come. The ten steps behind a prompt,
for which no memory is warm, are not counted.

    python benchmarks/stalls.py --before 5c0a8d7 --contexts 65536,131072
"""

import argparse
import json
import time
from statistics import median
from typing import Any

from machine import save
from trees import beside

WARM = 10
PIECE = 1 << 17
"""Tokens of a prompt at a time: longer ones take more memory for what is between the layers."""


def measure(context: int, steps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of steps around a context's length."""
    import torch

    import reformer

    torch.manual_seed(0)
    config = reformer.ReformerConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4)
    model = reformer.ReformerForCausalLM(config).eval()
    ids = torch.randint(3, 259, (1, context + steps))
    least = [float("inf")] * steps
    first = float("inf")
    with torch.inference_mode():
        model(ids[:, :300])
        for _ in range(repeats):
            cache = reformer.ReformerCache(config)
            started = time.perf_counter()
            for piece in ids[:, : context - steps // 2].split(PIECE, dim=1):
                model(piece, past_key_values=cache, logits_to_keep=1)
            first = min(first, time.perf_counter() - started)
            for i in range(steps):
                at = context - steps // 2 + i
                started = time.perf_counter()
                model(ids[:, at : at + 1], past_key_values=cache, logits_to_keep=1)
                least[i] = min(least[i], time.perf_counter() - started)
            size = cache.bytes()
    least = least[WARM:]
    return {
        "context": context,
        "prompt_s": first,
        "median_ms": 1e3 * median(least),
        "longest_ms": 1e3 * max(least),
        "longest_at": context - steps // 2 + WARM + least.index(max(least)),
        "longest_over_median": max(least) / median(least),
        "cache_mib": size / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--contexts", default="2048,65536,131072")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.steps, arguments.repeats)))
        return
    rows, options = [], ["--steps", str(arguments.steps), "--repeats", str(arguments.repeats)]
    for row in beside(arguments.before, __file__, arguments.contexts.split(","), options):
        rows.append(row)
        print(
            f"{row['tree']:8}{row['context']:>9} tokens: median {row['median_ms']:7.2f} ms, longest "
            f"{row['longest_ms']:8.2f} ms ({row['longest_over_median']:.1f} times)",
            flush=True,
        )
    save("stalls", rows, before=arguments.before or "")


if __name__ == "__main__":
    main()
