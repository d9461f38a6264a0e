"""Time to the first token, and time a token behind a context: ours, full attention, and the older implementations.

6 layers of width 256, 4 heads, 4 rounds, local and LSH attention, fp32, batch 1, greedy. Tokens straddle the context's
length, where an octave starts for ours: its step is the longest. `amortised` is the mean with that start spread over
the octave's tokens. transformers runs over its own cache with a fixed hash seed; reformer-pytorch computes the whole
prefix for each token, as its generator does.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import model_peers
import torch
from machine import save
from model_peers import LAYERS, VOCABULARY
from torch import Tensor

import reformer

WIDTH, HEADS = 256, 4
Step = Callable[[Tensor], Tensor]


def ours(context: int, pattern: tuple[str, ...] = ("local", "lsh")) -> Step:
    config = reformer.ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_pattern=pattern,
    )
    model = reformer.ReformerForCausalLM(config).eval()
    cache = reformer.ReformerCache(config, room=context + 512)
    return lambda x: model(x, past_key_values=cache, logits_to_keep=1).logits[:, -1]


def transformers(context: int) -> Step:
    model = model_peers.transformers(context + 512, WIDTH, HEADS, hash_seed=0).eval()
    past = None

    def step(x: Tensor) -> Tensor:
        nonlocal past
        out = model(x, past_buckets_states=past, use_cache=True)
        past = out.past_buckets_states
        return out.logits[:, -1]

    return step


def reformer_pytorch(context: int) -> Step:
    model = model_peers.reformer_pytorch(-(-(context + 512) // 128) * 128, WIDTH, HEADS).eval()
    text = torch.empty(1, 0, dtype=torch.long)

    def step(x: Tensor) -> Tensor:
        nonlocal text
        text = torch.cat((text, x), 1)
        missing = -text.shape[1] % 128  # its Autopadder's multiple
        padded = torch.nn.functional.pad(text, (0, missing))
        return model(padded)[:, text.shape[1] - 1]

    return step


@torch.inference_mode()
def times(step: Step, context: int, tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and of each one behind it."""
    x = torch.randint(3, VOCABULARY, (1, context - tokens // 2))
    started = time.perf_counter()
    x = step(x).argmax(-1, keepdim=True)
    first = time.perf_counter() - started

    def each() -> Iterator[float]:
        nonlocal x
        for _ in range(tokens):
            started = time.perf_counter()
            x = step(x).argmax(-1, keepdim=True)
            yield time.perf_counter() - started

    return first, list(each())


def measure(name: str, context: int, tokens: int) -> dict[str, Any]:
    torch.manual_seed(0)
    kinds = {"reformer": ours, "transformers": transformers, "reformer_pytorch": reformer_pytorch}
    step = ours(context, ("full",)) if name == "full attention" else kinds[name](context)
    first, spent = times(step, context, tokens)
    typical, longest = median(spent), max(spent)
    amortised = (sum(spent) - longest) / (len(spent) - 1) + (longest - typical) / context
    return {
        "model": name,
        "context": context,
        "tokens": tokens,
        "first_s": first,
        "median_ms": 1e3 * typical,
        "amortised_ms": 1e3 * amortised,
        "longest_ms": 1e3 * longest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", default="2048,16384,65536")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--full-limit", type=int, default=16384, help="longest context of full attention")
    parser.add_argument("--pytorch-limit", type=int, default=16384, help="longest context of reformer-pytorch")
    parser.add_argument("--name", default="decoding", help="of the result file")
    arguments = parser.parse_args()
    limits = {"full attention": arguments.full_limit, "reformer_pytorch": arguments.pytorch_limit}
    warm = ours(300)
    times(warm, 300, 20)  # compiles and loads
    rows: list[dict[str, Any]] = []
    print(f"{'model':18}{'context':>8}{'first, s':>10}{'median, ms':>12}{'amortised':>11}{'longest':>9}{'of ours':>9}")
    for context in map(int, arguments.contexts.split(",")):
        mine = 0.0
        for name in ("reformer", "full attention", "transformers", "reformer_pytorch"):
            if context > limits.get(name, context):
                continue
            tokens = 4 if name == "reformer_pytorch" else min(arguments.tokens, 40 if name == "transformers" else 1000)
            row = measure(name, context, tokens)
            mine = mine or row["median_ms"]
            row["of_ours"] = row["median_ms"] / mine
            rows.append(row)
            print(
                f"{name:18}{context:>8}{row['first_s']:>10.2f}{row['median_ms']:>12.2f}{row['amortised_ms']:>11.2f}"
                f"{row['longest_ms']:>9.1f}{row['of_ours']:>9.1f}",
                flush=True,
            )
            save(arguments.name, rows)


if __name__ == "__main__":
    main()
