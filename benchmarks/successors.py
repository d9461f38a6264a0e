"""What successor values and the convolution cost: the operation, the layer and a training step with and without them.

Runs alternate, so that both see the same machine; the median of the pairs' ratios counts, and the least time of each.
The operation and the layer have one thread, whose own seconds count: two wait for each other and for other processes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import save

import reformer

OFF = {"successor_values": False, "conv_size": 0}


def pairs(one: Callable[[], Any], other: Callable[[], Any], repeats: int, threads: int) -> dict[str, float]:
    """Seconds of both, and the median ratio of runs side by side."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    one(), other()
    times: list[tuple[float, float]] = []
    for i in range(repeats):
        spent = {}
        for run in (one, other) if i % 2 else (other, one):
            started = clock()
            run()
            spent[run] = clock() - started
        times.append((spent[one], spent[other]))
    first, second = zip(*times, strict=True)
    ratio = statistics.median(b / a for a, b in times)
    return {"without": round(min(first), 4), "with": round(min(second), 4), "ratio": round(ratio, 4)}


def operation(length: int, rounds: int, successors: bool) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    q, v, grad = (torch.randn(1, length, 8, 64, generator=generator).transpose(1, 2) for _ in range(3))
    q, v = q.requires_grad_(), v.requires_grad_()

    def run() -> None:
        out = reformer.lsh_attention(q, v, num_hashes=rounds, seed=0, successor_values=successors)
        torch.autograd.grad(out, (q, v), grad)

    return run


def layer(length: int, rounds: int, **options: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    attention, x = (
        reformer.LSHAttention(512, 8, num_hashes=rounds, **options),
        torch.randn(1, length, 512, requires_grad=True),
    )

    def run() -> None:
        attention(x, seed=0).sum().backward()

    return run


def step(length: int, hidden_size: int, rounds: int, **options: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    settings = {"hidden_size": hidden_size, "num_attention_heads": hidden_size // 64, "num_hashes": rounds, **options}
    model = reformer.ReformerForCausalLM(
        reformer.ReformerConfig(num_hidden_layers=6, chunk_size_feed_forward=2048, loss_chunk=2048, **settings)
    )
    optimizer, tokens = torch.optim.AdamW(model.parameters()), torch.randint(3, 259, (1, length))

    def run() -> None:
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6, help="pairs of training steps")
    arguments = parser.parse_args()
    rows, cores = [], torch.get_num_threads()
    for rounds in (1, 2, 4):
        length = arguments.length
        cases = {
            "operation": (operation(length, rounds, False), operation(length, rounds, True), arguments.repeats),
            "layer, width 512": (layer(length, rounds, **OFF), layer(length, rounds), arguments.repeats),
        }
        if rounds > 1:
            cases["step, 6 layers of width 256"] = (
                step(length // 2, 256, rounds, **OFF),
                step(length // 2, 256, rounds),
                arguments.steps,
            )
        if rounds == 4:
            both = step(length, 512, rounds, **OFF), step(length, 512, rounds)
            cases["step, 6 layers of width 512"] = (*both, max(arguments.steps // 3, 2))
        for name, (without, with_, repeats) in cases.items():
            threads = cores if name.startswith("step") else 1
            found = pairs(without, with_, repeats, threads)
            rows.append({"what": name, "rounds": rounds, "threads": threads, **found})
            print(rows[-1], flush=True)
    save("successors", rows, length=arguments.length)


if __name__ == "__main__":
    main()
