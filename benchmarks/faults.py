"""What a run survives: kills at any instant, damaged checkpoints, full disks, SIGTERM, clocks, a second run.

A run of a tiny model (dropout on, evaluations and checkpoints at different steps) is disturbed in every way, and gone
on with by `--resume auto` until it is done; then its weights are compared, bit for bit, with those of a run that nobody
disturbed (one CPU thread). "Lost" is every checkpoint that was whole before a fault and is not behind it, every run
that could not go on, and every one that ended with other bits. Exits with 1 if there is any. Cases that need a file
system of their own (tmpfs, so Linux and root) are skipped with a reason elsewhere.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from machine import save

from reformer.cli import train as _train  # noqa: F401
from reformer.cli.main import start
from reformer.errors import InputError
from reformer.training.checkpoint import PARTIAL, checkpoints
from reformer.training.manifest import damage
from reformer.training.run import find_checkpoint

STEPS, SAVE, EVALUATE = 60, 4, 6
FLAGS = (
    f"--steps {STEPS} --save-steps {SAVE} --eval-steps {EVALUATE} --eval-tokens 2000 --log-steps 20 --hidden-size 32 "
    "--num-hidden-layers 2 --num-attention-heads 2 --window 8 --local-window 8 --length 128 --batch-size 2 "
    "--hidden-dropout 0.1 --attention-dropout 0.1 --seed 3"
).split()
PATIENCE = 120
"""Seconds that any one run may take."""


@dataclass
class Row:
    """What became of the cases of one kind."""

    kind: str
    cases: int = 0
    same_bits: int = 0
    refused: int = 0
    """With a sentence, as it should."""
    lost: int = 0
    said: list[str] = field(default_factory=list)
    """Some of what the runs said, without their folders."""

    def note(self, good: bool, refused: bool = False) -> None:
        self.cases += 1
        self.same_bits += good and not refused
        self.refused += good and refused
        self.lost += not good


class Bench:
    """A folder to work in, the text, and the bits of the undisturbed run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        words = ["lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit"]
        text = " ".join(self.random.choice(words) for _ in range(20_000))
        (folder / "text.txt").write_text(text)
        started = time.monotonic()
        self.whole = folder / "whole"
        assert self.finish(self.whole), self.log(self.whole).read_text()
        self.seconds = time.monotonic() - started
        self.bits = (self.whole / "model.safetensors").read_bytes()

    def log(self, out: Path) -> Path:
        return self.folder / f"{out.name}.log"

    def begin(self, out: Path, **environment: str) -> int:
        """A run in a process of its own, gone on with where there is a checkpoint."""
        argv = ["train", str(self.folder / "text.txt"), "--out", str(out), "--resume", "auto", *FLAGS]
        child = os.fork()
        if child:
            return child
        log = os.open(self.log(out), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        sys.argv = ["reformer", *argv]
        os._exit(start())

    def finish(self, out: Path) -> bool:
        return wait(self.begin(out)) == 0

    def ends_alike(self, out: Path) -> bool:
        """Go on with a run to its end: whether it has the bits of the undisturbed one."""
        return self.finish(out) and (out / "model.safetensors").read_bytes() == self.bits

    def last_line(self, out: Path) -> str:
        lines = self.log(out).read_text().splitlines()
        return lines[-1].replace(str(self.folder), "") if lines else ""

    def half(self, name: str) -> Path:
        """A run that was killed behind half of its steps."""
        out = self.folder / name
        child = self.begin(out)
        wait_until(lambda: len(whole_of(out)) > 1 and step_of(checkpoints(out)[-1]) >= STEPS // 2, child)
        kill(child)
        return out


def step_of(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def whole_of(out: Path) -> set[str]:
    return {folder.name for folder in checkpoints(out) if damage(folder) is None}


def wait(child: int) -> int:
    """The exit code, or minus the signal."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    kill(child)
    raise TimeoutError("a run hangs")


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def alive(child: int) -> bool:
    """Whether a process goes on; it is not waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait_until(condition: Callable[[], bool], child: int) -> bool:
    """Whether it came true while the process went on."""
    while alive(child):
        if condition():
            return True
        time.sleep(0.001)
    return False


def await_save(partial: Path, which: int, child: int) -> None:
    """Until the first, second, third, ... save from now on has begun."""
    for _ in range(which - 1):
        wait_until(partial.exists, child)
        wait_until(lambda: not partial.exists(), child)
    wait_until(partial.exists, child)


def kills(bench: Bench, cases: int) -> Iterator[Row]:
    """Kill -9, again and again until the run is done; every other time while a checkpoint is being written."""
    rows = [Row("kill -9 at any instant"), Row("kill -9 during a save")]
    chain = 0
    while sum(row.cases for row in rows) < cases:
        out, killed = bench.folder / f"killed-{chain}", [0, 0]
        while True:
            before = whole_of(out)
            child = bench.begin(out)
            saving = rows[1].cases + killed[1] <= rows[0].cases + killed[0]
            if saving:
                pause = bench.random.uniform(0, 0.05)
                await_save(out / PARTIAL, bench.random.randrange(1, 4), child)
            else:
                pause = bench.random.uniform(0, bench.seconds)
            until = time.monotonic() + pause
            wait_until(lambda until=until: time.monotonic() > until, child)
            seen = whole_of(out)
            if not alive(child):
                break
            kill(child)
            killed[saving] += 1
            newest = sorted(before | seen, key=lambda name: int(name.split("-")[1]))[-1:]
            for name in newest:  # it may have been replaced by a later one, and by nothing else
                if not any(int(other.split("-")[1]) >= int(name.split("-")[1]) for other in whole_of(out)):
                    rows[saving].lost += 1
            if sum(row.cases for row in rows) + sum(killed) >= cases:
                child = bench.begin(out)
                break
        good = wait(child) == 0 and (out / "model.safetensors").read_bytes() == bench.bits
        for row, count in zip(rows, killed, strict=True):
            for _ in range(count):
                row.note(good)
        shutil.rmtree(out)
        chain += 1
    yield from rows


def damages(bench: Bench, cases: int, whole_runs: int) -> Iterator[Row]:
    """Each file of the last checkpoint cut short or with a bit flipped; some of these runs go on to their end."""
    out, row = bench.half("damaged"), Row("a checkpoint's file cut or flipped")
    last, before = checkpoints(out)[-1], checkpoints(out)[-2]
    assert damage(last) is None, damage(last)
    files = sorted(path for path in last.rglob("*") if path.is_file())
    for case in range(cases):
        path = files[case % len(files)]
        content = path.read_bytes()
        at = bench.random.randrange(len(content))
        flipped = content[:at] + bytes([content[at] ^ (1 << bench.random.randrange(8))]) + content[at + 1 :]
        path.write_bytes(content[:at] if case // len(files) % 2 else flipped)
        said: list[str] = []
        try:
            found = find_checkpoint(out, "auto", said.append)
            good = found == before and len(said) == 1 and str(last) in said[0]
        except InputError:
            good = False
        row.note(good, refused=True)
        row.said = [line.replace(str(bench.folder), "") for line in said]
        if good and case < whole_runs:
            copy = bench.folder / "copy"
            shutil.copytree(out, copy)
            row.note(bench.ends_alike(copy))
            shutil.rmtree(copy)
        path.write_bytes(content)
    yield row


def terminations(bench: Bench, cases: int) -> Iterator[Row]:
    """SIGTERM at any instant behind the first step."""
    row = Row("SIGTERM")
    for case in range(cases):
        out = bench.folder / f"terminated-{case}"
        child = bench.begin(out)
        wait_until(lambda out=out: bool(checkpoints(out)), child)
        time.sleep(bench.random.uniform(0, 0.3))
        os.kill(child, signal.SIGTERM)
        good = wait(child) == 143 and bool(whole_of(out))
        row.said = [bench.last_line(out)]
        row.note(good and bench.ends_alike(out))
        shutil.rmtree(out)
    yield row


def clocks(bench: Bench) -> Iterator[Row]:
    """All files from the future, as behind a clock that was set back, newest ones oldest."""
    row, out = Row("the clock set back"), bench.half("clock")
    future = time.time() + 1e7
    for n, path in enumerate(sorted(path for path in out.rglob("*"))):
        os.utime(path, (future - n, future - n))
    os.utime(bench.folder / "text.txt", (future, future))
    row.note(bench.ends_alike(out))
    yield row


def second_runs(bench: Bench) -> Iterator[Row]:
    """A second run in a folder, while the first one lives and when it was killed."""
    row, out = Row("two runs in one folder"), bench.folder / "two"
    first = bench.begin(out)
    wait_until(lambda: bool(checkpoints(out)), first)
    os.kill(first, signal.SIGSTOP)
    row.note(wait(bench.begin(out)) == 2, refused=True)
    row.said = [bench.last_line(out)]
    os.kill(first, signal.SIGCONT)
    kill(first)
    row.note(bench.ends_alike(out))
    yield row


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where none can be made."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def full_disks(bench: Bench, cases: int) -> Iterator[Row]:
    """A disk that becomes full during a save, and has room again afterwards."""
    row = Row("a full disk during a save")
    size = sum(path.stat().st_size for path in checkpoints(bench.whole)[-1].rglob("*"))
    for case in range(cases):
        with small_disk(bench.folder / f"disk-{case}", int(size * (2.2 + 0.8 * case / cases))) as disk:
            if disk is None:
                row.said = ["skipped: a tmpfs needs Linux and root"]
                break
            filler, out = disk / "filler", disk / "run"
            filler.write_bytes(bytes(size // 2))
            code = wait(bench.begin(out))
            row.said = [bench.last_line(out)]
            row.note(code == 1 and "could not be written" in row.said[0] and bool(whole_of(out)), refused=True)
            filler.unlink()
            roomier = ["mount", "-o", f"remount,size={8 * size}", str(disk)]
            subprocess.run(roomier, check=True)
            row.note(bench.ends_alike(out))
    yield row


def full_caches(bench: Bench) -> Iterator[Row]:
    """No room for compiled kernels and for the index of texts: everything runs without keeping."""
    row = Row("full cache directories")
    with small_disk(bench.folder / "cache", 1 << 16) as disk:
        if disk is None:
            row.said = ["skipped: a tmpfs needs Linux and root"]
        else:
            try:
                (disk / "filler").write_bytes(bytes(1 << 20))
            except OSError:
                out = bench.folder / "cached"
                places = {"NUMBA_CACHE_DIR": str(disk / "numba"), "HF_DATASETS_CACHE": str(disk)}
                command = [sys.executable, "-m", "reformer", "train", str(bench.folder / "text.txt"), "--out", str(out)]
                done = subprocess.run(
                    [*command, *FLAGS], env={**os.environ, **places}, capture_output=True, text=True, check=False
                )
                kept = [line for line in done.stderr.splitlines() if "can be kept" in line or "be kept in" in line]
                row.said = [line.replace(str(bench.folder), "") for line in kept]
                row.note(
                    done.returncode == 0 and len(kept) == 2 and (out / "model.safetensors").read_bytes() == bench.bits
                )
    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few cases of each kind, and nothing is kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    small = arguments.small
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        os.environ["HF_DATASETS_CACHE"] = f"{scratch}/cache-of-texts"
        bench = Bench(Path(scratch).resolve(), arguments.seed)
        kinds: list[Iterator[Row]] = [
            kills(bench, 1 if small else 50),
            damages(bench, 12 if small else 200, whole_runs=1 if small else 12),
            terminations(bench, 1 if small else 10),
            second_runs(bench),
        ]
        if not small:
            kinds += [clocks(bench), full_disks(bench, 5), full_caches(bench)]
        print(f"{'fault':36}{'cases':>7}{'same bits':>11}{'refused':>9}{'lost':>6}")
        rows: list[dict[str, Any]] = []
        for kind in kinds:
            for row in kind:
                print(f"{row.kind:36}{row.cases:7}{row.same_bits:11}{row.refused:9}{row.lost:6}", flush=True)
                for line in row.said:
                    print(f"    {line[:200]}", flush=True)
                rows.append(asdict(row))
    lost = sum(row["lost"] for row in rows)
    print(f"{lost} lost")
    if not small:
        save("faults", rows, lost=lost, steps=STEPS, seed=arguments.seed)
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
