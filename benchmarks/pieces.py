"""Seconds of a long prompt in pieces beside those of the same prompt at once, of this tree and of an earlier commit.

6 layers of width 256, 4 heads, local and LSH attention, fp32, one row; the least of the repeats.

    python benchmarks/pieces.py --before 5c0a8d7 --contexts 65536,131072
"""

import argparse
import json
import time
from typing import Any

from machine import save
from trees import beside


def measure(context: int, piece: int, repeats: int) -> dict[str, Any]:
    """Seconds at once and in pieces."""
    import torch

    import reformer

    torch.manual_seed(0)
    config = reformer.ReformerConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4)
    model, ids = reformer.ReformerForCausalLM(config).eval(), torch.randint(3, 259, (1, context))
    least = {context: float("inf"), piece: float("inf")}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for size in least:
                cache, text = reformer.ReformerCache(config), ids if repeat else ids[:, : 2 * piece]  # first: compile
                started = time.perf_counter()
                for part in text.split(size, dim=1):
                    model(part, past_key_values=cache, logits_to_keep=1)
                if repeat:
                    least[size] = min(least[size], time.perf_counter() - started)
    row = {"context": context, "piece": piece, "at_once_s": least[context], "in_pieces_s": least[piece]}
    return {**row, "pieces_over_once": least[piece] / least[context]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--contexts", default="131072")
    parser.add_argument("--piece", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.piece, arguments.repeats)))
        return
    rows = []
    options = ["--piece", str(arguments.piece), "--repeats", str(arguments.repeats)]
    for row in beside(arguments.before, __file__, arguments.contexts.split(","), options):
        rows.append(row)
        print(
            f"{row['tree']:6} {row['context']:7} tokens: {row['at_once_s']:6.1f} s at once, "
            f"{row['in_pieces_s']:6.1f} s in pieces of {row['piece']}, {row['pieces_over_once']:.2f} times",
            flush=True,
        )
    save("pieces", rows, before=arguments.before)


if __name__ == "__main__":
    main()
