"""What all verbs share: help, and how bad input is refused."""

import errno
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from reformer.cli.main import main
from reformer.errors import InputError, Interrupted, RunError, Terminated, not_written
from reformer.models import ReformerCache, ReformerConfig, ReformerForCausalLM, save_cache
from reformer.report.positions import plot_positions
from reformer.report.tasks import write_answers
from reformer.training.checkpointing import NotSaved
from reformer.training.guards import NonFiniteLoss
from tests.cli.command import reformer_alone as reformer


def test_help_and_version() -> None:
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["generate", "--help"],
        ["convert", "--help"],
    ):
        done = reformer(*arguments)  # in 80 columns, where there is no terminal
        assert done.returncode == 0
        assert "usage: reformer" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
    assert reformer("--version").stdout.strip() == "0.2.0"
    assert reformer().returncode == 2


def test_debug_shows_the_traceback(run: Path) -> None:
    assert "Traceback" in reformer("evaluate", "none", "--debug", cwd=run).stderr


BAD = [
    ("train none.txt --out x", "none.txt does not exist; give a file or a folder of text"),
    ("train empty.txt --out x", "empty.txt is empty"),
    ("train folder --out x", "folder holds no text"),
    ("train text.txt", "--out is missing"),
    (
        "train text.txt --out x --preset demmo",
        "preset 'demmo' is none of books, demo, enwik8, long, small; did you mean 'demo'?",
    ),
    ("train text.txt --out x --hidden-sise 3", "--hidden-size"),
    ("train text.txt --out x --hidden-size three", "three"),
    ("train text.txt --out x --config wrong.toml", "[model] has no key 'hiden_size'; did you mean 'hidden_size'?"),
    ("train text.txt --out x --config none.toml", "none.toml does not exist"),
    ("train text.txt --out x --window 0", "window=0 must be an integer of at least 1"),
    ("train text.txt --out x --num-attention-heads 3", "num_attention_heads=3 does not divide hidden_size=256"),
    ("train text.txt --out x --position-embedding axial", "needs axial_shape"),
    (
        "train text.txt --out x --position-embedding axial --axial-shape 4 4 --axial-dims 8 8",
        "axial_dims=[8, 8] add up to 16; they must add up to hidden_size=256",
    ),
    (
        "train text.txt --out x --position-embedding learned --max-position-embeddings 100",
        "length=2048 is over 100, the longest document of learned positions",
    ),
    ("train text.txt --out x --held-out 1.5", "held_out=1.5"),
    (
        "train text.txt --out model",
        "model holds another run or other files; choose another folder, or give --overwrite",
    ),
    ("train text.txt --out text.txt", "text.txt is a file"),
    ("evaluate none text.txt", "none is not a folder"),
    ("evaluate folder text.txt", "holds no checkpoint"),
    ("evaluate model none.txt", "none.txt does not exist"),
    ("evaluate model text.txt --length 1", "length=1 must be"),
    ("generate none", "none is not a folder"),
    ("generate model --top-p 2", "top-p=2.0 must be above 0 and at most 1"),
    ("generate model --temperature -1", "temperature=-1.0"),
    ("generate model --seed -1", "seed=-1"),
    ("train text.txt --out . --overwrite", "has no name of its own"),
    ("train text.txt --out x/y/z --seed 5000000000", "seed=5000000000 must be an integer from 0 to 4294967295"),
    ("train text.txt --out x --config kinds.toml", "causal='no' is of the wrong kind; it must be true or false"),
    ("generate model --max-new-tokens 0", "max-new-tokens=0"),
    ("train text.txt --out x --tokenizer folder", "holds no tokenizer"),
    ("train text.txt --out x --lora r=8", "name the model that has them with --init"),
    ("train text.txt --out x --init folder", "holds no checkpoint"),
    (
        "train text.txt --out model --init model --hidden-size 64 --overwrite",
        "keeps what it is; leave out hidden_size=64",
    ),
    ("train text.txt --out x --fsdp", "fsdp=true shards over the processes of torchrun"),
    ("train text.txt --out x --resume text.txt", "is no checkpoint of a run"),
    ("train text.txt --out x --length-schedule 64", "must be LENGTH:STEP"),
    ("train bad.jsonl --out x", "bad.jsonl, line 2: no JSON"),
    ("train bad.jsonl --field body --out x", "line 1: no field 'body'; it has 'text'"),
    ("evaluate model text.txt --stride 64", "stride=64 must be from 1 to 63"),
    ("evaluate model text.txt --plot no/where.png", "folder does not exist"),
    ("train packed.xz --out x", "packed.xz is packed (xz); unpack it, or give --raw"),
    ("train rows.csv --field body --out x", "line 2: no field 'body'; it has 'text', 'n'"),
    ("train object.json --out x", "object.json: a dict, not a list of objects; --raw takes it as text"),
    ("trian", "no verb 'trian'; did you mean 'train'?"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_gets_one_line(
    run: Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    (run / "empty.txt").write_bytes(b"")
    (run / "folder").mkdir(exist_ok=True)
    (run / "packed.xz").write_bytes(lzma.compress(b"a text"))
    (run / "rows.csv").write_text("text,n\na text,1\n")
    (run / "object.json").write_text('{"a": 1}')
    (run / "kinds.toml").write_text('[model]\ncausal = "no"\n')
    (run / "bad.jsonl").write_text('{"text": "a"}\n{"text"')
    (run / "wrong.toml").write_text("[model]\nhiden_size = 3\n")
    before = sorted(path.name for path in run.iterdir())
    assert main(line.split()) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    (said,) = shown.err.strip().splitlines()
    assert said.startswith("reformer: ")
    assert message in said
    assert sorted(path.name for path in run.iterdir()) == before


def torch_out_of_memory() -> Exception:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("window=0"), 2, "window=0"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 2, "x.txt: No such file or directory"),
        (PermissionError(13, "Permission denied", "x.txt"), 2, "x.txt: Permission denied"),
        (OSError(28, "No space left on device", "x.txt"), 1, "x.txt: No space left on device"),
        (NotSaved("checkpoint-3 could not be written"), 1, "checkpoint-3 could not be written"),
        (NonFiniteLoss("the loss is nan"), 1, "the loss is nan"),
        (MemoryError(), 1, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "out of memory (CUDA out of memory)"),
        (torch_out_of_memory(), 1, "can't allocate memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("interrupted at step 3"), 130, "interrupted at step 3"),
        (Terminated("terminated at step 3"), 143, "terminated at step 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whose_fault_it_is(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("reformer.cli.generate.run", fail)
    assert main(["generate"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert main(["generate", "--debug"]) == code
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert said in shown.splitlines()[-1]


@pytest.mark.parametrize("error", [ValueError("from inside a library"), KeyError("x"), AssertionError()])
def test_a_bug_shows_its_traceback_and_how_to_report_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("reformer.cli.generate.run", fail)
    assert main(["generate"]) == 70
    *above, line = capsys.readouterr().err.splitlines()
    assert any("Traceback" in each for each in above)
    assert type(error).__name__ in above[-1]
    assert line.startswith("reformer: this is a bug in reformer; please report it")


@pytest.mark.parametrize("line", [["train", "", "--out", "x"], ["evaluate", "model", ""]])
def test_an_empty_path_is_no_folder(run: Path, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = reformer(*line, cwd=run)
    assert done.returncode == 2
    assert "a path is empty" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--config", "--preset", "--out", "--field", "--init", "--held-out-files"])
def test_an_empty_value_is_none(run: Path, flag: str) -> None:
    for words in ([flag, ""], [f"{flag}="]):
        done = reformer("train", "text.txt", *words, cwd=run)
        assert done.returncode == 2
        assert f"{flag} is empty; give a value" in done.stderr


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(x, marks=pytest.mark.slow) for x in ("cp1252", "latin-1"))]
)
@pytest.mark.parametrize(
    "verb", ["generate", *(pytest.param(x, marks=pytest.mark.slow) for x in ("evaluate", "train"))]
)
def test_what_a_console_cannot_show_is_replaced(run: Path, encoding: str, verb: str) -> None:
    (run / "☃.txt").write_text("snow ☃ " * 40)
    arguments = {
        "generate": ["model", "--prompt", "☃", "--max-new-tokens", "3", "--seed", "0"],
        "evaluate": ["model", "☃.txt", "--per-document"],
        "train": ["☃.txt", "--out", "model"],
    }[verb]
    command = [sys.executable, "-m", "reformer", verb, *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=run, env=environment, capture_output=True, check=False, timeout=300)
    assert done.returncode == (2 if verb == "train" else 0), done.stderr
    if verb != "train":
        assert b"?" in done.stdout


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FULL, RunError),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), RunError),
        (OSError(errno.EIO, os.strerror(errno.EIO)), RunError),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), InputError),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), InputError),
        (SafetensorError("Error while serializing: I/O error: No such file or directory (os error 2)"), InputError),
    ],
    ids=str,
)
def test_a_full_disk_is_not_the_users_fault(error: Exception, kind: type[Exception]) -> None:
    assert type(not_written(error, "it")) is kind


def test_nothing_is_half_written_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, plots and caches."""

    def full(*arguments: Any, **options: Any) -> None:
        raise FULL

    model = ReformerForCausalLM(ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).eval()
    cache = ReformerCache(model.config)
    model(torch.full((1, 4), 7), past_key_values=cache)
    monkeypatch.setattr(Path, "replace", full)
    for write in (
        lambda: write_answers(tmp_path / "answers.jsonl", ["a"]),
        lambda: plot_positions({}, tmp_path / "plot.png"),
        lambda: save_cache(cache, tmp_path / "cache", model),
    ):
        with pytest.raises(RunError, match=r"cannot be written .*No space left on device.*; choose another place"):
            write()
        assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import os, signal, sys, time, types
from reformer.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background may have it ignored
class Owner:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        time.sleep(0.1)
def run(_):
    Owner()
    time.sleep(30)
main.import_module = lambda _: types.SimpleNamespace(run=run)
sys.argv = ["reformer", "train"]
sys.exit(main.start())
"""


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_within_a_finalizer_is_not_lost(number: str, code: int) -> None:
    """Python lets no exception out of one."""
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.format(number=number)], capture_output=True, text=True, timeout=25
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "code", "said"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_an_import_that_a_signal_broke_off_is_no_bug(number: str, code: int, said: str) -> None:
    """C extensions say `initialization failed` of what came while they loaded."""
    program = SWALLOWED.format(number=number).replace(
        "    Owner()\n    time.sleep(30)",
        f"    try:\n        os.kill(os.getpid(), signal.{number})\n        time.sleep(30)\n"
        "    except BaseException as error:\n        raise ImportError('initialization failed') from error",
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stderr) == (code, f"reformer: {said}\n")
