"""What the README and the pages print runs: Python as it stands, shell commands in small."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from reformer.cli.main import main
from reformer.cli.parse import parse
from reformer.cli.serve import Serve
from reformer.settings.serving import ServerSettings
from tests.cli.command import run_group
from tests.forks import in_a_fork
from tests.inference.serve.serving import running, small_model

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text()
    for name in ("README.md", "docs/index.md", "docs/index.zh.md", "docs/training.md", "docs/models.md")
}
LONG = {"docs/training.md", "docs/index.zh.md"}
"""Pages whose commands take a minute, or are those of another one."""
MORE = [(ROOT / "docs" / f"{name}.md").read_text() for name in ("interop", "generation", "library")]
INTEROP = (ROOT / "docs" / "interop.md").read_text()
TINY = "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, window=8"
SMALL = ["--hidden-size", "32", "--num-hidden-layers", "2", "--num-attention-heads", "2", "--window", "8"]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("code", [block for page in (*PAGES.values(), *MORE) for block in python_blocks(page)])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    if "their-model" in code:
        save_theirs(tmp_path / "their-model")
    if "corpus/" in code:
        (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus" / "text.txt").write_text("Once upon a time there was a byte. " * 60)
        code = code.replace('preset="demo", steps=100', f"length=64, steps=2, {TINY}")
    done = in_a_fork(_run_code, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def _run_code(code: str) -> None:
    exec(code, {"__name__": "__main__"})


def save_theirs(folder: Path) -> None:
    config = transformers.ReformerConfig(attn_layers=["local", "lsh"], is_decoder=True, vocab_size=258, hash_seed=0)
    transformers.ReformerModelWithLMHead(config).save_pretrained(folder)


def test_conversions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    save_theirs(Path("their-model"))
    found = [line for line in commands(INTEROP) if line.startswith("reformer convert")]
    assert len(found) == 2
    for command in found:
        assert main(shlex.split(command)[1:]) == 0
    before, after = (load_file(Path(name, "model.safetensors")) for name in ("their-model", "their-model-again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def write_rows() -> None:
    """Files for tasks."""
    rows = {
        "reviews": [
            {"text": f"a {word} book, number {i}", "stars": word} for i in range(30) for word in ("good", "bad")
        ],
        "questions": [{"context": f"Byte {i} is set.", "question": "Which?", "answer": str(i)} for i in range(60)],
    }
    for name, found in rows.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    Path("words.csv").write_text("text,label\n" + "".join(f"Ann has {i} bytes,B-P O O O\n" for i in range(60)))
    for language in ("en", "de"):
        Path(f"{language}.txt").write_text("".join(f"{language} line {i}\n" for i in range(60)))


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if re.search(r"\breformer (?!-)", line)]


def in_small(command: str) -> str:
    """The same command over small windows, few steps and a small model, where the command makes a new one."""
    command = re.sub(r"--steps \d+", "--steps 2", command)
    command = re.sub(r"--max-new-tokens 100|--max-new-tokens 300", "--max-new-tokens 5", command)
    command = command.replace("--length 4096", "--length 64").replace("--length 8192", "--length 64")
    command = command.replace("--length-schedule 512:200", "--length-schedule 32:1").replace(
        "--stride 1024", "--stride 16"
    )
    if " train " not in command or "--dry-run" in command or re.search(r"--preset$", command):
        return command
    more = [] if "--steps" in command else ["--steps", "2"]
    more += [] if "--length " in command else ["--length", "64"]
    if not re.search(r"--init|--config", command):
        more += SMALL
    return f"{command} {shlex.join(more)}"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in PAGES])
def test_shell_commands_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    for i in range(12):
        Path("corpus", f"{i}.txt").write_text(f"Once upon a time there were {i} bytes. " * 20)
    Path("book.txt").write_text("Once upon a time there was a byte. " * 60)
    Path("log.jsonl").write_text('{"message": "it works and works"}\n' * 60)
    write_rows()
    subprocess.run("cp book.txt notes.txt && gzip notes.txt", shell=True, check=True)
    found = commands(PAGES[name])
    assert len(found) >= 5
    for command in found:
        small = in_small(command)
        if re.match(r"reformer [^|]*$", small):
            code = main(shlex.split(small)[1:])
            assert code == 0, f"{command}: {capsys.readouterr().err}"
            continue
        line = small.replace("torchrun", f"OMP_NUM_THREADS=1 {sys.executable} -m torch.distributed.run")
        line = re.sub(r"(?<!-m )reformer train", f"{sys.executable} -m reformer train", line)
        code, said = run_group(line, shell=True)
        assert code == 0, f"{command}: {said}"
    assert {line.split("reformer ")[1].split()[0] for line in found} >= {"train", "evaluate", "generate"}, name


def test_the_page_of_generation_and_that_of_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the first run; those of the second parse, and its program talks to a server."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("Once upon a time there was a byte. " * 60)
    assert main(shlex.split(f"train book.txt --out runs/mine --steps 2 --length 64 {shlex.join(SMALL)}")) == 0
    for command in commands((ROOT / "docs" / "generation.md").read_text()):
        assert main(shlex.split(in_small(command))[1:]) == 0, command
    page = (ROOT / "docs" / "serving.md").read_text()
    found = commands(page)
    assert len(found) == 4
    for command in found:
        parse(Serve, shlex.split(command)[2:], "serve")
    (code,) = python_blocks(page)
    with running(small_model()) as served:
        exec(code.replace("http://127.0.0.1:8000", served.url), {})
    assert {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", page)} <= {
        field.name for field in fields(ServerSettings)
    }


def test_results_that_pages_name_say_where_they_are_from() -> None:
    """And which of them are of another state of the source: a list, which `-s` shows."""
    done = subprocess.run([sys.executable, "stale.py"], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for line in done.stdout.splitlines():
        result = json.loads((ROOT / "benchmarks" / "results" / line.split(" ")[0]).read_text())
        assert {"date", "command", "machine"} <= result.keys()
