"""`reformer generate` as a person calls it."""

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
from reformer.models import DryLogitsProcessor
from tests.cli.command import reformer


def test_generate(run: Path) -> None:
    arguments = ("generate", "model", "--prompt", "to be", "--max-new-tokens", "12", "--seed", "1", "--top-k", "20")
    one, two = reformer(*arguments, cwd=run), reformer(*arguments, cwd=run)
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert one.stdout.startswith("to be")
    assert one.stderr.startswith("12 tokens behind 6: the first after ")
    assert one.stderr.endswith(" tokens a second\n")


@pytest.mark.slow
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
        timeout=300,
    )
    written = "\n".join(whole.stdout.decode().replace("\r\n", "\n").split("\r"))  # as `reformer` reads it
    assert written == "to be or \ufffd not " + on.stdout
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


def test_the_flags_of_dry_reach_the_penalty(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, float]] = []

    class Noted(DryLogitsProcessor):
        def __init__(self, **values: float) -> None:
            made.append(values)
            super().__init__(**values)  # type: ignore[arg-type]

    monkeypatch.chdir(run)
    monkeypatch.setattr("reformer.inference.sampling.DryLogitsProcessor", Noted)
    command = ["generate", "model", "--prompt", "to be", "--max-new-tokens", "3", "--temperature", "0"]
    for flags in ([], ["--dry-multiplier", "0"], ["--dry-multiplier", "1"]):
        assert main([*command, *flags]) == 0
    others = ["--dry-base", "3", "--dry-allowed-length", "4", "--dry-penalty-last-n", "9"]
    assert main([*command, "--dry-multiplier", "2", *others]) == 0
    assert made == [
        {"multiplier": 1.0},
        {"multiplier": 2.0, "base": 3.0, "allowed_length": 4, "penalty_last_n": 9},
    ]


def test_a_person_at_a_terminal(run: Path) -> None:
    """Answers one text after another; Ctrl-C ends an answer, Ctrl-D the program."""
    terminal, other = pty.openpty()
    # the likeliest token each time: sampled text can end by itself, or have in it what is waited for below
    command = [sys.executable, "-m", "reformer", "generate", "model"]
    command += ["--max-new-tokens", "100000", "--temperature", "0"]
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
        try:
            os.close(other)
            until(b"> ")
            os.write(terminal, b"to be\n")
            until(b"to be\r\nto be")
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            until(b"\r\n> ")
            time.sleep(1)  # Python's `input` is deaf between its prompt and its reading
            process.send_signal(signal.SIGINT)  # in front of an empty prompt it only asks again
            until(b"\r\n> ")
            os.write(terminal, b"\x04")
            assert process.wait(60) == 0
        finally:
            process.kill()  # else leaving the `with` waits for it without end
    os.close(terminal)


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
        (("--dry-multiplier", "-1"), "dry-multiplier=-1.0 must be at least 0"),
        (("--dry-multiplier", "1", "--dry-base", "0.5"), "dry-base=0.5 must be at least 1"),
        (("--dry-allowed-length", "4"), "no effect without --dry-multiplier"),
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
