"""A training step of an encoder-decoder: memory and time beside a plain Transformer's, and how often its encoder runs.

The model and the source of `long_copy.py`; peak resident memory beyond weights and gradients, each kind and depth in
a process of its own. Runs of the encoder's branches: one in the forward, and for a reversible one, one to recover.
"""

import argparse
import json
import time

import torch
from long_copy import KINDS, LENGTH, batch, make
from machine import save
from memory import in_fresh_process, peak_over_start


def measure(kind: str, layers: int) -> dict[str, float]:
    """One step over one source, behind one that compiles and makes the gradients."""
    model = make(kind, num_hidden_layers=layers)
    source, _, labels = batch(1, LENGTH, torch.Generator().manual_seed(0))
    runs = {"forward": 0, "backward": 0}
    phase = "forward"

    def count(*_: object) -> None:
        runs[phase] += 1

    for name, module in model.encoder.layers.named_modules():
        if name.endswith(".f"):
            module.register_forward_hook(count)

    def step() -> None:
        nonlocal phase
        phase = "forward"
        loss = model(source, labels=labels).loss
        phase = "backward"
        loss.backward()

    step()
    runs.update(forward=0, backward=0)
    started = time.perf_counter()
    peak = peak_over_start(step)
    seconds = time.perf_counter() - started
    return {
        "peak_mib": peak / 2**20,
        "seconds": seconds,
        "encoder_runs_forward": runs["forward"] / layers,
        "encoder_runs_backward": runs["backward"] / layers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, help="measure one in this process")
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments.kind, arguments.layers)))
        return
    rows = []
    for kind in KINDS:
        for layers in (2, 8):
            found = in_fresh_process(__file__, "--kind", kind, "--layers", str(layers))
            rows.append({"kind": kind, "layers": layers, **found})
            print("  ".join(f"{name} {value:.3g}" if isinstance(value, float) else str(value)
                            for name, value in rows[-1].items()))  # fmt: skip
    save("encoder_decoder_step", rows, length=LENGTH)


if __name__ == "__main__":
    main()
