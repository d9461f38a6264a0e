"""Bytes that a step of several processes exchanges, counted by the loopback device, beside the formula.

4 layers of width 256, processes on one machine that speak through Gloo; nothing else may use the loopback. With W
bytes of weights a process sends 2 (P - 1) / P W with DDP, for the gradients, and 4 (P - 1) / P W with FSDP: the weights
in the forward, again in the backward, and twice for the gradients, since Gloo scatters sums by summing all (with NCCL
it is 3). Windows are of 512 tokens there; of 8,192 where the processes share them, which sends, besides, (P - 1) / P of
its part of the tensors that go through all-to-alls (of an LSH layer queries, values and outputs, of a local one keys
too), each of them three times: in the forward, in the second forward, and as a gradient.

    python benchmarks/exchanged.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import save

from reformer.settings import ModelSettings

WARM, COUNTED = 2, 3
PROCESSES = (2, 4)
FORMULA = {"ddp": 2, "fsdp": 4, "ddp, parts": 2, "fsdp, parts": 4}
WIDTH, LAYERS, LENGTH = 256, 4, 8192


def through_loopback() -> int:
    """Bytes that this machine has sent to itself."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[0])


def shared_bytes(processes: int) -> float:
    """What a process sends in a step for its part of the windows: all-to-alls, ends of convolutions, labels."""
    share, lsh = (processes - 1) / processes, LAYERS // 2
    tensors = 3 * lsh + 4 * (LAYERS - lsh)
    ends = lsh * (ModelSettings().conv_size - 1) * WIDTH * (processes - 1)
    return 3 * 4 * (tensors * share * LENGTH / processes * WIDTH + ends) + 8 * share * LENGTH


def one(engine: str, out: Path) -> None:
    """A training run as one of its processes."""
    import torch.distributed as dist
    from transformers import TrainerCallback

    from reformer.data.corpus import standard_library
    from reformer.data.prepare import Corpus
    from reformer.settings.training import TrainingSettings
    from reformer.tasks.lm import LanguageModelling
    from reformer.training import run
    from reformer.training.processes import process_count
    from reformer.training.trainer import ReformerTrainer

    found: dict[str, Any] = {}

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step in (WARM, WARM + COUNTED):
                dist.barrier()
                found[str(state.global_step)] = through_loopback()
                dist.barrier()
                found["weights"] = sum(weight.numel() for weight in others["model"].parameters())

    original = ReformerTrainer.train

    def train(self: ReformerTrainer, **options: Any) -> Any:
        self.add_callback(Count())
        return original(self, **options)

    ReformerTrainer.train = train  # type: ignore[method-assign]
    model = ModelSettings(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4)
    share = process_count() if "parts" in engine else 1
    training = TrainingSettings(
        length=LENGTH if share > 1 else 512,
        steps=WARM + COUNTED + 1,
        warmup_steps=1,
        eval_steps=0,
        save_steps=0,
        fsdp="fsdp" in engine,
        sequence_parallel=share,
    )
    text = Corpus.in_memory(standard_library()[:40])
    run.train(text, model, training, out / "run", task=LanguageModelling(), say=lambda _: None)
    (out / "counted.json").write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], Path(arguments.one[1]))
        return
    rows = []
    for processes in PROCESSES:
        for engine, times in FORMULA.items():
            with tempfile.TemporaryDirectory() as out:
                torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
                subprocess.run([*torchrun, str(processes), __file__, "--one", engine, out], check=True)
                found = json.loads(Path(out, "counted.json").read_text())
            counted = (found[str(WARM + COUNTED)] - found[str(WARM)]) / COUNTED / processes
            formula = times * (processes - 1) / processes * 4 * found["weights"]
            if "parts" in engine:
                formula += shared_bytes(processes)
            rows.append(
                {
                    "engine": engine,
                    "processes": processes,
                    "weights": found["weights"],
                    "counted_bytes": counted,
                    "formula_bytes": formula,
                    "ratio": counted / formula,
                }
            )
            print(f"{engine:11} {processes} processes: {counted:13,.0f} bytes, {counted / formula:.3f} of the formula")
    save("exchanged", rows)


if __name__ == "__main__":
    main()
