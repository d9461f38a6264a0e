"""Milliseconds a token of `generate`, on a quiet machine and while other processes take all its cores.

Two models of 6 layers behind a prompt of 2,000 bytes: one whose steps have one thread, one whose steps have all.

    python benchmarks/contended.py --before 5c0a8d7
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from machine import save
from trees import beside

TOKENS = 150


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing else."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()


def measure(width: int) -> dict[str, float]:
    """Milliseconds a token, the least of some texts."""
    import torch

    import reformer
    from reformer.inference.generate import generate_text

    torch.manual_seed(0)
    config = reformer.ReformerConfig(hidden_size=width, num_hidden_layers=6, num_attention_heads=4)
    model = reformer.ReformerForCausalLM(config)
    prompt = bytes(range(32, 127)) * 21

    def least(repeats: int) -> float:
        found = []
        for _ in range(repeats):
            speed = generate_text(model, prompt, TOKENS, lambda _: None)
            found.append(1e3 * speed.rest_s / max(speed.new - 1, 1))
        return min(found)

    least(1)
    quiet = least(5)
    with busy(os.cpu_count() or 1):
        time.sleep(1)
        contended = least(5)
    return {"width": width, "quiet_ms": quiet, "contended_ms": contended, "ratio": contended / quiet}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rows = []
    for row in beside(arguments.before, __file__, ("256", "512")):
        rows.append(row)
        print(
            f"{row['tree']:7} width {row['width']}: {row['quiet_ms']:6.2f} ms, contended {row['contended_ms']:6.2f} ms "
            f"({row['ratio']:.1f} times)",
            flush=True,
        )
    save("contended", rows, before=arguments.before or "")


if __name__ == "__main__":
    main()
