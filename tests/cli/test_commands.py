"""The command as a person calls it: in a process of its own."""

import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reformer.cli.main import main

TINY = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --window 8 --length 64 --steps 4 --log-steps 2"


def reformer(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reformer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    done = reformer("train", "text.txt", "--out", "model", *TINY.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "bits/byte" in done.stderr
    assert "saved to model after 4 steps" in done.stderr
    return folder


def test_evaluate(run: Path) -> None:
    text = reformer("evaluate", "model", "text.txt", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "bits per byte" in text.stdout
    assert "windows of 64 tokens" in text.stdout
    assert "bytes          4,200 in 1 documents" in text.stdout
    found = reformer("evaluate", "model", "text.txt", "--json", "--length", "32", cwd=run)
    result = json.loads(found.stdout)
    assert result["bytes"] == 4200
    assert result["length"] == 32
    scores = {"loss", "bits_per_byte", "perplexity", "accuracy"}
    assert set(result) == {*scores, "model", "bytes", "tokens", "length", "stride", "files"}


def test_evaluate_side_by_side_per_document_and_position(run: Path) -> None:
    (run / "other.txt").write_text("nothing like that")
    arguments = ("evaluate", "model", "text.txt", "other.txt", "--against", "model", "--per-document", "--per-position")
    text = reformer(*arguments, "--stride", "16", "--plot", "positions.png", cwd=run)
    assert text.returncode == 0, text.stderr
    lines = text.stdout.splitlines()
    assert lines[0].split() == ["model", "model", "model"]
    row = next(line for line in lines if line.startswith("other.txt"))
    assert len(row.split()) == 4
    assert any(line.startswith("32 to 63") for line in lines)
    assert max(map(len, lines)) <= 80
    assert (run / "positions.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(reformer(*arguments, "--json", cwd=run).stdout)
    assert len(found) == 2
    assert [document["name"] for document in found[0]["documents"]] == ["text.txt", "other.txt"]
    assert sum(position["tokens"] for position in found[0]["positions"]) == found[0]["tokens"] == 4217
    wrong = reformer("evaluate", "model", "text.txt", "--plot", "positions.xyz", cwd=run)
    assert wrong.returncode == 2
    assert ".xyz is no kind of picture" in wrong.stderr


def test_a_tokenizer_goes_with_its_model(run: Path) -> None:
    done = reformer(
        "train", "text.txt", "--out", "bpe", "--tokenizer", "bpe:270", "--tie-word-embeddings", *TINY.split(), cwd=run
    )
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stderr
    assert (run / "bpe" / "tokenizer.json").exists()
    found = json.loads(reformer("evaluate", "bpe", "text.txt", "--json", cwd=run).stdout)
    assert found["bytes"] == 4200
    assert found["tokens"] < 4000
    assert abs(found["bits_per_byte"] * 4200 - found["loss"] / math.log(2) * found["tokens"]) < 1e-6
    text = reformer("generate", "bpe", "--prompt", "to be", "--max-new-tokens", "9", "--seed", "1", cwd=run)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("to be")
    tuned = reformer("train", "text.txt", "--init", "bpe", "--out", "tuned", "--steps", "1", "--length", "64", cwd=run)
    assert tuned.returncode == 0, tuned.stderr
    assert (run / "tuned" / "tokenizer.json").read_text() == (run / "bpe" / "tokenizer.json").read_text()


def test_presets_are_listed_and_planned() -> None:
    listed = reformer("train", "--preset")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["books", "demo", "enwik8", "small"]
    for name, weights in (("demo", 0.9e6), ("books", 6.3e6), ("small", 12e6), ("enwik8", 140e6)):
        planned = reformer("train", "--preset", name, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        count = int(planned.stdout.split()[1].replace(",", ""))
        assert 0.85 * weights < count < 1.15 * weights
        for word in ("FLOPs a step", "gradients", "optimizer", "streams", "orders", "largest piece", "sum"):
            assert word in planned.stdout


def test_standard_input_and_resuming_from_the_folder_alone(run: Path) -> None:
    command = [sys.executable, "-m", "reformer", "train", "-", "--out", "piped", *TINY.split(), "--save-steps", "2"]
    done = subprocess.run(command, input=b"read me, read me. " * 99, capture_output=True, cwd=run, check=False)
    assert done.returncode == 0, done.stderr
    (run / "resumable.txt").write_text("read me, read me. " * 99)
    flags = ("train", "resumable.txt", "--out", "stopped", "--save-steps", "2", "--resume", "auto")
    first = reformer(*flags, *TINY.split(), cwd=run)
    assert first.returncode == 0, first.stderr
    assert "starting afresh" in first.stderr
    again = reformer("train", "--out", "stopped", "--resume", "auto", cwd=run)
    assert again.returncode == 0, again.stderr
    other = reformer("train", "--out", "stopped", "--resume", "auto", "--window", "16", cwd=run)
    assert other.returncode == 2
    assert "other settings: window=16 (it has 8)" in other.stderr
    command[command.index("piped")] = "empty"
    empty = subprocess.run(command, input=b"", capture_output=True, cwd=run, check=False)
    assert empty.returncode == 2
    assert b"standard input is empty" in empty.stderr


def test_a_person_at_a_terminal(run: Path) -> None:
    """Answers one text after another; Ctrl-C ends an answer, Ctrl-D the program."""
    terminal, other = pty.openpty()
    command = [sys.executable, "-m", "reformer", "generate", "model", "--max-new-tokens", "100000"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    shown = b""

    def until(words: bytes) -> None:
        nonlocal shown
        while words not in shown:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, shown
            shown += os.read(terminal, 4096)
        shown = shown[shown.index(words) + len(words) :]

    with subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, cwd=run, preexec_fn=heed, start_new_session=True
    ) as process:
        os.close(other)
        until(b"> ")
        os.write(terminal, b"to be\n")
        until(b"to be\r\nto be")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        until(b"> ")
        process.send_signal(signal.SIGINT)  # in front of an empty prompt it only asks again
        until(b"> ")
        os.write(terminal, b"\x04")
        assert process.wait(60) == 0
    os.close(terminal)


def test_generate(run: Path) -> None:
    arguments = ("generate", "model", "--prompt", "to be", "--max-new-tokens", "12", "--seed", "1", "--top-k", "20")
    one, two = reformer(*arguments, cwd=run), reformer(*arguments, cwd=run)
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert one.stdout.startswith("to be")
    assert one.stderr.startswith("12 tokens behind 6: the first after ")
    assert one.stderr.endswith(" tokens a second\n")


def test_a_prompt_is_computed_once_and_used_many_times(run: Path) -> None:
    (run / "prompt.txt").write_bytes(b"to be or \xff not ")
    greedy = ("--temperature", "0", "--max-new-tokens", "10")
    saved = reformer(
        "generate", "model", "--prompt-file", "prompt.txt", "--save-cache", "p.cache", "--max-new-tokens", "0", cwd=run
    )
    assert saved.returncode == 0, saved.stderr
    assert saved.stdout == "to be or \ufffd not \n"
    on = reformer("generate", "model", "--load-cache", "p.cache", "--prompt", "to", *greedy, cwd=run)
    assert on.returncode == 0, on.stderr
    (run / "whole.txt").write_bytes(b"to be or \xff not to")
    whole = subprocess.run(
        [sys.executable, "-m", "reformer", "generate", "model", "--prompt-file", "-", *greedy],
        input=(run / "whole.txt").read_bytes(),
        capture_output=True,
        cwd=run,
        check=True,
    )
    assert whole.stdout.decode() == "to be or \ufffd not " + on.stdout
    again = reformer("generate", "model", "--load-cache", "p.cache", *greedy, "--save-cache", "q.cache", cwd=run)
    more = reformer("generate", "model", "--load-cache", "q.cache", *greedy, cwd=run)
    longer = reformer("generate", "model", "--load-cache", "p.cache", *greedy[:3], "20", cwd=run)
    assert again.stdout[:-1] + more.stdout == longer.stdout


def test_a_stop_ends_the_text(run: Path) -> None:
    arguments = (
        "generate",
        "model",
        "--prompt",
        "e",
        "--max-new-tokens",
        "400",
        "--seed",
        "1",
        "--stop",
        "e",
        "--stop",
        "t",
    )
    done = reformer(*arguments, cwd=run)
    assert done.returncode == 0, done.stderr
    text = done.stdout.removesuffix("\n")
    assert text[-1] in "et"
    assert not set(text[1:-1]) & set("et")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "a", "--prompt-file", "text.txt"), "both given"),
        (("--prompt-file", "missing.txt"), "cannot be read"),
        (("--max-new-tokens", "0"), "for --save-cache"),
        (("--save-cache", "nowhere/c"), "folder does not exist"),
        (("--load-cache", "text.txt", "--prompt", "a"), "holds no cache"),
        (("--temperature", "0", "--top-k", "3"), "has no effect"),
        (("--stop", ""), "ends every text"),
        (("--min-p", "2"), "at most 1"),
        (("--repetition-penalty", "0"), "above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_generate_refuses_in_one_line(
    run: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run)
    assert main(["generate", "model", *arguments]) == 2
    shown = capfd.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_evaluate_in_one_context(run: Path) -> None:
    text = reformer("evaluate", "model", "text.txt", "--stream", "--piece", "1000", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "one each; cache of" in text.stdout
    streamed = json.loads(reformer("evaluate", "model", "text.txt", "--stream", "--json", cwd=run).stdout)
    whole = json.loads(reformer("evaluate", "model", "text.txt", "--length", "4201", "--json", cwd=run).stdout)
    assert streamed["bytes"] == whole["bytes"] == 4200
    assert abs(streamed["bits_per_byte"] - whole["bits_per_byte"]) < 1e-3
    refused = reformer("evaluate", "model", "text.txt", "--stream", "--length", "8", cwd=run)
    assert refused.returncode == 2
    assert "leave --length" in refused.stderr


def test_the_run_file_and_flags_over_it(run: Path) -> None:
    (run / "more.toml").write_text("[training]\nsteps = 3\nlength = 48\n")
    done = reformer("train", "text.txt", "--out", "again", "--config", "model/run.toml", "--steps", "2", cwd=run)
    assert done.returncode == 0, done.stderr
    written = (run / "again" / "run.toml").read_text()
    assert "steps = 2" in written
    assert "hidden_size = 32" in written
    over = reformer(
        "train", "text.txt", "--out", "third", "--preset", "demo", "--config", "more.toml", *TINY.split(), cwd=run
    )
    assert over.returncode == 0, over.stderr
    third = (run / "third" / "run.toml").read_text()
    assert "steps = 4" in third  # the flag
    assert "length = 64" in third
    assert "local_window = 64" in third  # the preset


BAD = [
    ("train none.txt --out x", "none.txt does not exist; give a file or a folder of text"),
    ("train empty.txt --out x", "empty.txt is empty"),
    ("train folder --out x", "folder holds no text"),
    ("train text.txt", "--out is missing"),
    (
        "train text.txt --out x --preset demmo",
        "preset 'demmo' is none of books, demo, enwik8, small; did you mean 'demo'?",
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
    ("train text.txt --out x/y/z --seed 5000000000", "seed=5000000000 must be an integer of from 0 to 4294967295"),
    ("train text.txt --out x --config kinds.toml", "causal='no' is of the wrong kind; it must be true or false"),
    ("generate model --max-new-tokens 0", "max-new-tokens=0"),
    ("train text.txt --out x --tokenizer folder", "holds no tokenizer"),
    ("train text.txt --out x --lora r=8", "name the model that has them with --init"),
    ("train text.txt --out x --init folder", "holds no checkpoint"),
    (
        "train text.txt --out model --init model --hidden-size 64 --overwrite",
        "keeps what it is; leave out hidden_size=64",
    ),
    ("train text.txt --out x --fsdp", "fsdp=true shards over accelerators"),
    ("train text.txt --out x --resume text.txt", "is no checkpoint of a run"),
    ("train text.txt --out x --length-schedule 64", "must be LENGTH:STEP"),
    ("train bad.jsonl --out x", "bad.jsonl, line 2: no JSON"),
    ("train bad.jsonl --field body --out x", "line 1: no field 'body'; it has 'text'"),
    ("evaluate model text.txt --stride 64", "stride=64 must be from 1 to 63"),
    ("evaluate model text.txt --plot no/where.png", "folder does not exist"),
    ("trian", "no verb 'trian'; did you mean 'train'?"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_gets_one_line(
    run: Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    (run / "empty.txt").write_bytes(b"")
    (run / "folder").mkdir(exist_ok=True)
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


def test_help_and_version() -> None:
    for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["generate", "--help"]):
        done = reformer(*arguments)  # in 80 columns, where there is no terminal
        assert done.returncode == 0
        assert "usage: reformer" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
    assert reformer("--version").stdout.strip() == "0.1.0"
    assert reformer().returncode == 2


def test_debug_shows_the_traceback(run: Path) -> None:
    assert "Traceback" in reformer("evaluate", "none", "--debug", cwd=run).stderr


def test_ctrl_c_saves_and_says_so(run: Path) -> None:
    command = [sys.executable, "-m", "reformer", "train", "text.txt", "--out", "broken-off", *TINY.split()]
    command[command.index("--steps") + 1] = "100000"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    options = {"stderr": subprocess.PIPE, "text": True, "cwd": run, "env": environment}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    with subprocess.Popen(command, preexec_fn=heed, **options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step      4"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert rest.strip().splitlines()[-1].startswith("reformer: interrupted at step")
    assert reformer("generate", "broken-off", "--max-new-tokens", "2", cwd=run).returncode == 0


def test_two_processes(run: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reformer", "train"]
    command += ["text.txt", "--out", "two", *TINY.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=run, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("saved to two after 4 steps") == 1
    assert (run / "two" / "model.safetensors").exists()
