"""Registers and spills of every kernel, compiled ahead of time for a Hopper GPU (sm_90); no GPU is needed.

The operations run on small CPU tensors with launches replaced by compilation, so the kernels are those that a GPU
gets. `ptxas`, which triton ships, says what they take.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from machine import save
from triton.backends.compiler import GPUTarget
from triton.runtime import autotuner, driver, jit

from reformer.ops import backends
from reformer.ops.attention import local_attention, lsh_attention
from reformer.ops.gpu import kernels

TARGET = GPUTarget("cuda", 90, 32)
RULES: dict[str, dict[str, Any]] = {
    "bucket": {"window": 64, "num_hashes": 4},
    "bucket, dropout": {"window": 64, "num_hashes": 4, "dropout_p": 0.1},
    "bucket, wide": {"window": 128, "num_hashes": 4},
    "bucket, two-sided": {"window": 64, "num_hashes": 4, "causal": False},
    "bucket, one round": {"window": 64, "num_hashes": 1},
    "bucket, many octaves": {"window": 64, "num_hashes": 2, "bucket_size": 1},
    "chunk": {"rule": "chunk", "chunk_length": 64, "num_hashes": 4},
    "chunk, dropout": {"rule": "chunk", "chunk_length": 64, "num_hashes": 4, "dropout_p": 0.1},
    "chunk, factors": {"rule": "chunk", "chunk_length": 64, "num_hashes": 2, "num_buckets": [16, 64]},
    "local": {"window": 64},
    "local, two-sided": {"window": 64, "causal": False},
}


class Driver:
    """As much of a driver as compilation asks for."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Compiled:
    """Takes the place of launches."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.rule = ""
        driver.set_active(Driver())
        launch = jit.JITFunction.run

        def compile_only(function: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
            kernel = launch(function, *arguments, grid=grid, warmup=True, **options)
            self.measure(function.__name__, kernel, options)

        def compile_each(tuner: Any, *arguments: Any, **options: Any) -> None:
            for config in tuner.configs:
                tuner.fn.run(*arguments, **options, **config.all_kwargs())

        jit.JITFunction.run = compile_only
        autotuner.Autotuner.run = compile_each

    def measure(self, name: str, kernel: Any, options: dict[str, Any]) -> None:
        key = f"{kernel.hash}"
        if key in self.rows:
            return
        ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "kernel.ptx"
            source.write_text(kernel.asm["ptx"])
            command = [ptxas, "-v", f"-arch=sm_{TARGET.arch}a", source, "-o", Path(folder) / "kernel.cubin"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers = re.search(r"Used (\d+) registers", said)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
        assert registers is not None
        assert spills is not None
        row = {
            "kernel": name,
            "rule": self.rule,
            "width": options.get("D"),
            "warps": kernel.metadata.num_warps,
            "stages": kernel.metadata.num_stages,
            "registers": int(registers[1]),
            "spilled bytes": int(spills[1]) + int(spills[2]),
            "shared bytes": kernel.metadata.shared,
        }
        self.rows[key] = row
        print("  ".join(f"{value!s:>20}" if i < 2 else f"{value!s:>8}" for i, value in enumerate(row.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], help="float16 and float32 too")
    parser.add_argument("--masked", action="store_true", help="with padding, and rounds one at a time")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    arguments = parser.parse_args()
    compiled = Compiled()
    backends.interpreted = lambda: True  # from here on tensors on a CPU are welcome
    torch.manual_seed(0)
    print("  ".join(["kernel, rule".rjust(42), "   width    warps   stages  registers  spilled    shared"]))
    if arguments.masked:
        kernels.PARTS = 0
    mask = torch.ones(1, 600, dtype=torch.bool) if arguments.masked else None
    for width, dtype in product(arguments.widths, arguments.dtypes):
        for compiled.rule in arguments.rules:
            local = compiled.rule.startswith("local")
            kind = {"dtype": getattr(torch, dtype), "requires_grad": True}
            inputs = [torch.zeros(1, 2, 600, width, **kind) for _ in range(2 + local)]
            attention = local_attention if local else lsh_attention
            attention(*inputs, backend="triton", key_padding_mask=mask, **RULES[compiled.rule]).sum().backward()
    rows = list(compiled.rows.values())
    save("gpu_registers", rows, target="sm_90")
    spilled = [row for row in rows if row["spilled bytes"] and row["width"] == 64]
    if spilled:
        sys.exit(f"{len(spilled)} kernels spill at head width 64")


if __name__ == "__main__":
    main()
