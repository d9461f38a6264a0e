"""How many cycles a tile takes in the fused kernels, by a model of a scheduler that reads their machine code; no GPU.

A Hopper multiprocessor has four schedulers. Of each program that fits on it, each scheduler has one warp, and the warps
of a program go together, so that one scheduler with as many warps as programs stands for all. An instruction waits for
its fixed stall, for the scoreboards that it names, and for its pipe. Loads from memory take as long as `--latency`
says; the other latencies and rates below are of the kind that microbenchmarks publish, none is fitted.

On an H200 the backward of commit 377662b took 7,600 cycles a tile and multiprocessor (triton 3.6, by the hardware's
counters); of it the model says 5,400 with a latency of 500 and 7,600 with 1,000. It is for telling where a kernel
waits, not for figures of record.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from gpu_registers import RULES, Compiled
from machine import save

from reformer.ops import backends
from reformer.ops.attention import local_attention, lsh_attention

FUSED = {"attend_runs": 3, "differentiate_tiles": 2}  # programs on a multiprocessor, by their registers
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

ALU = (
    *("ISETP", "F2FP", "LEA", "FSEL", "PRMT", "LOP3", "VIADD", "SHF", "IADD3", "FMNMX", "SEL", "PLOP3", "FSETP"),
    *("P2R", "R2P", "VIMNMX", "SGXT", "CS2R", "IABS"),
)
PIPES = dict.fromkeys(ALU, ("alu", 2)) | dict.fromkeys(("FMUL", "FADD", "FFMA", "MOV"), ("fma", 1))
PIPES |= {"IMAD": ("heavy", 2), "MUFU": ("special", 8), "SHFL": ("memory", 8)}
PIPES |= dict.fromkeys(("LDSM", "STSM"), ("memory", 16))
LATENCIES = {"MUFU": 24, "HGMMA": 72, "STG": 40, "R2UR": 15, "S2R": 15}
LATENCIES |= dict.fromkeys(("LDS", "LDSM", "SHFL", "STS", "STSM"), 33)
BARRIER, FENCE, READ = 25, 20, 25  # cycles; READ: until an instruction has read its registers


@dataclass
class Instruction:
    """One instruction, with what the compiler wrote beside it for the scheduler."""

    address: int
    text: str
    control: int

    def __post_init__(self) -> None:
        self.name = re.sub(r"^@!?U?P[T\d]+\s+", "", self.text).split()[0]
        self.kind = self.name.split(".")[0]
        self.stall = max(self.control & 15, 1)
        self.result, self.inputs = self.control >> 5 & 7, self.control >> 8 & 7  # scoreboards that it sets, 7 for none
        self.waits = [i for i in range(6) if self.control >> 11 >> i & 1]

    def pipe(self) -> tuple[str, float] | None:
        """What it occupies, and for how many cycles; the other schedulers use memory and tensor cores alike."""
        if self.kind == "HGMMA":  # 64 x 64 x 16
            return "tensor", 32
        if self.kind in ("LDG", "STG", "LDGSTS", "LDS", "STS"):
            return "memory", 16 if ".128" in self.name else 4
        return PIPES.get(self.kind)

    def operands(self) -> float:
        """Cycles of shared memory that a product takes to read; one operand may be in registers."""
        if self.kind != "HGMMA":
            return 0
        return 16 if re.search(r"BF16 R\d+, R\d+", self.text) else 32


def loop_of(binary: Path) -> list[Instruction]:
    """The longest loop of a kernel."""
    said = subprocess.run([TOOLS / "cuobjdump", "-sass", binary], capture_output=True, text=True, check=True).stdout
    pattern = r"/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;\s+/\* 0x[0-9a-f]+ \*/\s+/\* (0x[0-9a-f]+) \*/"
    code = [Instruction(int(at, 16), text, int(high, 16) >> 41) for at, text, high in re.findall(pattern, said)]
    index = {each.address: i for i, each in enumerate(code)}
    loops = []
    for end, each in enumerate(code):
        target = re.search(r"BRA.* 0x([0-9a-f]+)", each.text)
        if target and (start := index[int(target[1], 16)]) < end:
            loops.append(code[start : end + 1])
    return max(loops, key=len)


@dataclass
class Warp:
    """Where a warp stands, and what it waits for."""

    ready: float
    at: int = 0
    rounds: int = 0
    boards: list[float] = field(default_factory=lambda: [0.0] * 6)
    products: float = 0.0
    loads: float = 0.0
    copies: float = 0.0
    groups: list[float] = field(default_factory=list)

    def may_issue(self, each: Instruction) -> tuple[float, str]:
        """When the next instruction may go, and what it waits for."""
        reasons = [(self.ready, "stall"), *((self.boards[i], "scoreboard") for i in each.waits)]
        if each.name.startswith("WARPGROUP.DEPBAR"):
            reasons.append((self.products, "product"))
        if each.kind == "MEMBAR":
            reasons.append((self.loads, "fence"))
        if each.kind == "DEPBAR":
            left = int(each.text.split()[-1], 16)
            reasons.append((max(self.groups[: len(self.groups) - left], default=0.0), "copy"))
        return max(reasons)

    def issue(self, each: Instruction, now: float, latency: float) -> None:
        """What follows for this warp."""
        takes = latency if each.kind in ("LDG", "LDGSTS") else LATENCIES.get(each.kind, 20)
        for board, cycles in ((each.result, takes), (each.inputs, min(takes, READ))):
            if board < 6:
                self.boards[board] = max(self.boards[board], now + cycles)
        if each.kind == "HGMMA":
            self.products = max(self.products, now + takes)
        elif each.kind == "LDG":
            self.loads = max(self.loads, now + takes)
        elif each.kind == "LDGSTS":
            self.copies = max(self.copies, now + takes)
        elif each.kind == "LDGDEPBAR":
            self.groups.append(self.copies)
            self.copies = 0.0
        self.ready = now + max(each.stall, {"BAR": BARRIER, "MEMBAR": FENCE}.get(each.kind, 0))


def simulate(loop: list[Instruction], programs: int, latency: float, rounds: int = 6) -> tuple[float, Counter[str]]:
    """Cycles of an iteration on a multiprocessor, and what a warp waits for meanwhile; the first two do not count."""
    warps = [Warp(37.0 * i) for i in range(programs)]
    free: dict[str, float] = {}
    waited: Counter[str] = Counter()
    marks = []
    issued = 0.0
    while any(warp.rounds < rounds for warp in warps):
        best: tuple[float, int, str] | None = None
        for i, warp in enumerate(warps):
            each = loop[warp.at]
            pipe = each.pipe()
            reasons = [warp.may_issue(each), (issued, "scheduler")]
            reasons += [(free.get(pipe[0], 0.0), pipe[0])] if pipe else []
            reasons += [(free.get("memory", 0.0) - 64, "memory")] if each.operands() else []
            now, reason = max(reasons)
            if warp.rounds < rounds and (best is None or now < best[0]):
                best = now, i, reason
        assert best is not None
        now, i, reason = best
        warp, each = warps[i], loop[warps[i].at]
        waited[reason] += now - warp.ready if warp.rounds >= 2 else 0
        if pipe := each.pipe():
            free[pipe[0]] = now + pipe[1]
        free["memory"] = max(free.get("memory", 0.0), now if each.operands() else 0.0) + each.operands()
        issued = now + 1
        warp.issue(each, now, latency)
        warp.at = (warp.at + 1) % len(loop)
        warp.rounds += warp.at == 0
        if i == 0 and warp.at == 0:
            marks.append(now)
    per_warp = Counter({name: cycles / (rounds - 2) / programs for name, cycles in waited.items()})
    return (marks[-1] - marks[1]) / (rounds - 2) / programs, per_warp


class Scheduled(Compiled):
    """Takes the place of launches, and models each fused kernel."""

    def __init__(self, latencies: list[float]) -> None:
        super().__init__()
        self.latencies = latencies

    def measure(self, name: str, kernel: Any, options: dict[str, Any]) -> None:
        key = f"{self.rule} {name}"  # configurations differ in the length of the run, not in the loop
        if name not in FUSED or key in self.rows:
            return
        with tempfile.TemporaryDirectory() as folder:
            binary = Path(folder) / "kernel.cubin"
            binary.write_bytes(kernel.asm["cubin"])
            loop = loop_of(binary)
        found = {latency: simulate(loop, FUSED[name], latency) for latency in self.latencies}
        row = {"kernel": name, "rule": self.rule, "programs": FUSED[name], "instructions": len(loop)}
        row |= {f"cycles, latency {latency:.0f}": round(cycles) for latency, (cycles, _) in found.items()}
        row["waits"] = {reason: round(cycles) for reason, cycles in found[self.latencies[-1]][1].most_common(6)}
        self.rows[key] = row
        print("  ".join(f"{name}: {value}" for name, value in row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", nargs="+", type=float, default=[500, 1000, 2000], help="of loads, in cycles")
    arguments = parser.parse_args()
    scheduled = Scheduled(arguments.latency)
    backends.interpreted = lambda: True  # from here on tensors on a CPU are welcome
    for scheduled.rule in ("bucket", "local"):
        local = scheduled.rule == "local"
        inputs = [torch.zeros(1, 2, 600, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(2 + local)]
        attention = local_attention if local else lsh_attention
        attention(*inputs, backend="triton", **RULES[scheduled.rule]).sum().backward()
    save("gpu_schedule", list(scheduled.rows.values()), target="sm_90, modelled")


if __name__ == "__main__":
    main()
