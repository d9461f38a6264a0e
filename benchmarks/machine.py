"""What a result file says of where it was measured."""

import json
import platform
import shutil
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Machine, versions, command and date."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "command": f"python {_script()} {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("torch", "triton", "transformers", "numpy", "numba", "reformer-pytorch")
            if _has(name)
        },
    }


def _script() -> str:
    spec, path = sys.modules["__main__"].__spec__, Path(sys.argv[0]).resolve()
    return f"{path.parent.name}/{path.name}" if spec is None else f"-m {spec.name}"


def _commit() -> str:
    """The commit whose `src/` was measured, with a + where that has changed since."""
    if shutil.which("git") is None:
        return "unknown"

    def git(*words: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "../src") else "")


def save(name: str, rows: Any, **more: Any) -> Path:
    """Write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**describe(), **more, "rows": rows}, indent=1) + "\n")
    return path


def _has(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()
