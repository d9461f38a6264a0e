"""Peak memory of a training step against depth: reversible, with adapters beside it, checkpointed layers, plain.

Each figure is the peak resident memory of a fresh process over what it held before the step, weights and gradients
included; MALLOC_MMAP_THRESHOLD_ keeps glibc from holding on to freed blocks. Linux only.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from memory import MIB, in_fresh_process, resident

MODES = ("reversible", "lora", "checkpointed", "plain")


def measure(mode: str, layers: int, length: int, width: int) -> dict[str, float]:
    import torch
    from torch.utils.checkpoint import checkpoint

    from reformer import ReformerConfig, ReformerForCausalLM
    from reformer.layers.reversible import ReversibleBlock

    torch.manual_seed(0)
    config = ReformerConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        reversible=mode in ("reversible", "lora"),
        loss_chunk=1024,
        hidden_dropout=0.1,
    )
    model = ReformerForCausalLM(config).train()
    if mode == "checkpointed":
        inner = ReversibleBlock.forward
        ReversibleBlock.forward = lambda *args: checkpoint(inner, *args, use_reentrant=False)  # type: ignore[method-assign]
    if mode == "lora":
        from reformer.settings.lora import LoraSettings
        from reformer.training.finetune import add_lora

        model = add_lora(model, LoraSettings(r=8))
    for p in filter(lambda p: p.requires_grad, model.parameters()):
        p.grad = torch.zeros_like(p)
    x = torch.randint(3, 259, (1, length))
    small = x[:, :256]
    model(input_ids=small, labels=small).loss.backward()  # loads what a first step loads
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    started = time.perf_counter()
    loss = model(input_ids=x, labels=x).loss
    after_forward = resident("VmRSS")
    loss.backward()
    return {
        "peak_mib": (resident("VmHWM") - before) / MIB,
        "after_forward_mib": (after_forward - before) / MIB,
        "seconds": time.perf_counter() - started,
        "weights_mib": sum(p.nbytes for p in model.parameters()) / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.layers[0], arguments.length, arguments.width)))
        return

    from machine import save

    rows = []
    print(f"{'':14}{'layers':>7}{'peak MiB':>10}{'after forward':>15}{'seconds':>9}")
    for mode in arguments.modes:
        for layers in arguments.layers:
            size = f"--layers={layers}", f"--length={arguments.length}", f"--width={arguments.width}"
            row = {"mode": mode, "layers": layers, **in_fresh_process(__file__, f"--one={mode}", *size)}
            rows.append(row)
            print(
                f"{mode:14}{layers:7}{row['peak_mib']:10.0f}{row['after_forward_mib']:15.0f}{row['seconds']:9.1f}",
                flush=True,
            )
    per_layer = {}
    for mode in arguments.modes:
        peaks = {row["layers"]: row["peak_mib"] for row in rows if row["mode"] == mode}
        low, high = min(peaks), max(peaks)
        if low < high:
            per_layer[mode] = (peaks[high] - peaks[low]) / (high - low)
            print(f"{mode}: {per_layer[mode]:.2f} MiB a layer, beyond weights and gradients")
    save("memory_by_depth", rows, length=arguments.length, width=arguments.width, mib_per_layer=per_layer)


if __name__ == "__main__":
    main()
