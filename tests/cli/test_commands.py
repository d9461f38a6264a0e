"""The command as a person calls it: in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

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
    found = reformer("evaluate", "model", "text.txt", "--json", "--length", "32", cwd=run)
    result = json.loads(found.stdout)
    assert result["bytes"] == 4200
    assert result["length"] == 32
    assert set(result) == {"loss", "bits_per_byte", "perplexity", "accuracy", "bytes", "length", "files"}


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
def test_generate_refuses_in_one_line(run: Path, arguments: tuple[str, ...], said: str) -> None:
    done = reformer("generate", "model", *arguments, cwd=run)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_evaluate_in_one_context(run: Path) -> None:
    text = reformer("evaluate", "model", "text.txt", "--stream", "--piece", "1000", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "a cache of up to" in text.stdout
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
    ("train text.txt --out x --preset demmo", "preset 'demmo' is none of demo; did you mean 'demo'?"),
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
    ("trian", "no verb 'trian'; did you mean 'train'?"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_gets_one_line(run: Path, line: str, message: str) -> None:
    (run / "empty.txt").write_bytes(b"")
    (run / "folder").mkdir(exist_ok=True)
    (run / "kinds.toml").write_text('[model]\ncausal = "no"\n')
    (run / "wrong.toml").write_text("[model]\nhiden_size = 3\n")
    before = sorted(path.name for path in run.iterdir())
    done = reformer(*line.split(), cwd=run)
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith("reformer: ")
    assert message in said
    assert sorted(path.name for path in run.iterdir()) == before


def test_help_and_version() -> None:
    for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["generate", "--help"]):
        done = reformer(*arguments)
        assert done.returncode == 0
        assert "usage: reformer" in done.stdout
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
