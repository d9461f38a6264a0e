"""Peak memory of a process, and the seconds of a step, where several share a sequence; beside one that has it alone.

Forward and backward of 4 layers of width 128, one window, fp32, one thread a process, Gloo; memory is what a fresh
process takes beyond model and inputs. Sending takes time on one machine, whose processes share its memory.

    python benchmarks/parts.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from machine import save
from memory import MIB, peak_over_start

import reformer
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.training.plan import plan

PROCESSES, LENGTHS = (1, 2, 4), (65_536, 262_144)
MODEL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "loss_chunk": 2048, "vocab_size": 259}


def one(length: int, out: Path) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    share = reformer.SequenceParallel()
    config = reformer.ReformerConfig(**MODEL)
    model = reformer.ReformerForCausalLM(config)

    def step(tokens: torch.Tensor) -> None:
        batch = {"input_ids": tokens, "labels": tokens}
        parts = share.part(batch) if share.size > 1 else batch
        model(**parts, sequence_parallel=share if share.size > 1 else None).loss.backward()

    step(torch.randint(3, 259, (1, 512)))  # compiles, and makes gradients
    tokens = torch.randint(3, 259, (1, length))
    dist.barrier()
    started = time.perf_counter()
    peak = peak_over_start(lambda: step(tokens))
    seconds = time.perf_counter() - started
    (out / f"{share.place}.json").write_text(json.dumps({"peak": peak, "seconds": seconds}))
    dist.barrier()
    dist.destroy_process_group()


def planned(length: int, processes: int) -> int:
    """Bytes that `reformer train --dry-run` says, but for weights, gradients and optimizer."""
    training = TrainingSettings(length=length, sequence_parallel=processes)
    memory = plan(ModelSettings(**MODEL), training).memory
    return sum(memory[name] for name in ("streams", "orders", "largest piece"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(int(arguments.one[0]), Path(arguments.one[1]))
        return
    rows: list[dict[str, float]] = []
    for length in LENGTHS:
        for processes in PROCESSES:
            with tempfile.TemporaryDirectory() as out:
                torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
                command = [*torchrun, str(processes), __file__, "--one", str(length), out]
                environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, env=environment)
                found = [json.loads(path.read_text()) for path in Path(out).iterdir()]
            peak = max(one["peak"] for one in found)
            alone = (
                peak
                if processes == 1
                else next(row["peak_mib"] * MIB for row in rows if row["length"] == length and row["processes"] == 1)
            )
            seconds = max(one["seconds"] for one in found)
            rows.append(
                {
                    "length": length,
                    "processes": processes,
                    "peak_mib": round(peak / MIB, 1),
                    "of_one": round(peak / alone, 3),
                    "planned_mib": round(planned(length, processes) / MIB, 1),
                    "seconds": round(seconds, 2),
                }
            )
            print(
                f"{length:9,} tokens, {processes} processes: {peak / MIB:8,.0f} MiB, {peak / alone:.2f} of one's, "
                f"{seconds:.1f} s",
                flush=True,
            )
    save("parts", rows)


if __name__ == "__main__":
    main()
