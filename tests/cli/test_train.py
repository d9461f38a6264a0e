"""`reformer train` as a person calls it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cli.command import TINY, reformer, run_group


def test_presets_are_listed_and_planned() -> None:
    listed = reformer("train", "--preset")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["books", "demo", "enwik8", "long", "small"]
    for name, weights in (("demo", 0.9e6), ("books", 6.3e6), ("long", 3.2e6), ("small", 12e6), ("enwik8", 140e6)):
        planned = reformer("train", "--preset", name, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        count = int(planned.stdout.split()[1].replace(",", ""))
        assert 0.85 * weights < count < 1.15 * weights
        for word in ("FLOPs a step", "gradients", "optimizer", "streams", "orders", "largest piece", "sum"):
            assert word in planned.stdout


def test_another_rule_than_the_preset_s_or_the_run_file_s(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("[model]\nhidden_size = 32\nnum_attention_heads = 2\nwindow = 8\n")
    flags = ("train", "--config", "small.toml", "--dry-run", "--rule", "chunk")
    planned = reformer(*flags, cwd=tmp_path)
    assert planned.returncode == 0
    assert planned.stderr.splitlines() == ["window=8 is dropped: it goes with another rule than rule='chunk'"]
    refused = reformer(*flags, "--window", "16", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "window=16 goes with rule='bucket' and the rule is 'chunk': leave one out" in refused.stderr


@pytest.mark.slow
def test_a_run_without_positions_goes_on_and_is_repeated(run: Path) -> None:
    flags = ("train", "text.txt", "--save-steps", "2", *TINY.split(), "--position-embedding", "none")
    assert reformer(*flags, "--out", "bare", cwd=run).returncode == 0
    on = reformer("train", "--out", "bare", "--resume", "auto", cwd=run)
    assert on.returncode == 0, on.stderr
    again = reformer("train", "--out", "bare-again", "--config", "bare/run.toml", cwd=run)
    assert again.returncode == 0, again.stderr
    weights = [(run / name / "model.safetensors").read_bytes() for name in ("bare", "bare-again")]
    assert weights[0] == weights[1]
    wider = reformer("train", "--out", "wider", "--config", "bare/run.toml", "--hidden-size", "64", cwd=run)
    assert wider.returncode == 0, wider.stderr
    config = json.loads((run / "wider" / "config.json").read_text())
    assert (config["head_dim"], config["intermediate_size"], config["position_embedding"]) == (32, 256, "none")
    assert {"head_dim", "intermediate_size"} <= set(config["left_open"])


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
    assert "loss_chunk = 2048" in third  # the preset


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


@pytest.mark.slow
def test_standard_input_and_resuming_from_the_folder_alone(run: Path) -> None:
    command = [sys.executable, "-m", "reformer", "train", "-", "--out", "piped", *TINY.split(), "--save-steps", "2"]
    done = subprocess.run(
        command, input=b"read me, read me. " * 99, capture_output=True, cwd=run, check=False, timeout=300
    )
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
    empty = subprocess.run(command, input=b"", capture_output=True, cwd=run, check=False, timeout=300)
    assert empty.returncode == 2
    assert b"standard input is empty" in empty.stderr


def stop(run: Path, out: str, number: signal.Signals) -> tuple[int, str]:
    """Exit code and last words of a run that gets a signal behind its fourth step."""
    command = [sys.executable, "-m", "reformer", "train", "text.txt", "--out", out, *TINY.split()]
    command[command.index("--steps") + 1] = "100000"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    options = {"stderr": subprocess.PIPE, "text": True, "cwd": run, "env": environment}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    with subprocess.Popen([*command, "--save-steps", "50000"], preexec_fn=heed, **options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step      4"):
                break
        time.sleep(0.2)
        process.send_signal(number)
        try:
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, rest.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_saves_and_says_so(number: signal.Signals, code: int, said: str, run: Path) -> None:
    found, line = stop(run, said, number)
    assert found == code
    assert line.startswith(f"reformer: {said} at step")
    assert line.endswith("go on with --resume auto")
    assert reformer("generate", said, "--max-new-tokens", "2", cwd=run).returncode == 0


def test_sigterm_before_the_first_step_leaves_nothing(run: Path) -> None:
    command = [sys.executable, "-m", "reformer", "train", "-", "--out", "waited", *TINY.split()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run) as process:
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1] == "reformer: terminated"
    assert not (run / "waited").exists()


@pytest.mark.slow
def test_two_processes(run: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reformer", "train"]
    command += ["text.txt", "--out", "two", *TINY.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code, said = run_group(command, cwd=run, env=environment)
    assert code == 0, said
    assert said.count("saved to two after 4 steps") == 1
    assert (run / "two" / "model.safetensors").exists()
