"""The examples run, in small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("article_listing.py",),
        pytest.param(("article_listing_keras.py",), marks=pytest.mark.slow),
        pytest.param(("article_listing_keras.py", "--fit"), marks=pytest.mark.slow),
    ],
)
def test_the_articles_listing_prints_the_articles_lines(command: tuple[str, ...]) -> None:
    out = run(*command, "--epochs", "2", "--steps", "4", "--test-steps", "1", "--log-steps", "2")
    number = r"\d+\.\d+(e-\d+)?"
    steps = "".join(rf"Step: {n}\n\tLoss: {number}\n" for n in (2, 4))
    more = "".join(rf"Step: {n}\n\tLoss: {number}\n" for n in (6, 8))
    epoch = rf"Epoch: {{}} \tAverage Test Loss: {number} \tAverage Test Accuracy: {number}\n"
    assert re.fullmatch(steps + epoch.format(1) + more + epoch.format(2), out), out


@pytest.mark.slow
def test_one_sequence_in_two_processes() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, EXAMPLES / "one_sequence.py", "--length", "101", "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"^step \d  loss (.*)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert "logits of 101 tokens" in done.stdout


def test_the_demo(tmp_path: Path) -> None:
    out = run("demo.py", "--out", str(tmp_path / "demo"), "--steps", "3", "--held-out-bytes", "5000")
    found = dict(re.findall(r"^  (\S.*?)\s{2,}(\d+\.\d+)$", out, re.MULTILINE))
    assert list(found) == [
        "order-0 byte model",
        "order-2 byte model",
        "lzma",
        "Reformer before training",
        "Reformer after training",
        "0 to 63",
        "64 to 255",
        "256 to 1,023",
        "1,024 to 2,047",
        "2,048 on",
    ]
    assert 2.0 < float(found["lzma"]) < 4.0
    assert 4.0 < float(found["order-0 byte model"]) < 5.5
    assert float(found["order-2 byte model"]) < 3.5
    assert float(found["Reformer after training"]) < float(found["Reformer before training"])
    assert (tmp_path / "demo" / "model.safetensors").exists()
