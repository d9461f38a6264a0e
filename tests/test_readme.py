"""The README's Python runs as printed, and its shell commands in small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shell_commands_run(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for name in ("corpus/a.txt", "book.txt"):
        (tmp_path / name).write_text("Once upon a time there was a byte. " * 60)
    commands = re.findall(r"^reformer .*$", README, re.MULTILINE)
    assert {command.split()[1] for command in commands} == {"train", "evaluate", "generate"}
    for command in commands:
        small = re.sub(r"--steps \d+", "--steps 2", command).replace("--length 4096", "--length 128")
        small = small.replace("--max-new-tokens 300", "--max-new-tokens 5")
        line = f"{sys.executable} -m {small}"
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
