"""`reformer serve` as a process."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.cli.command import reformer


class Process:
    """A server that was started, and what it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.said = process, list[str]()
        assert process.stderr is not None
        for line in process.stderr:
            self.said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                self.url = f"http://127.0.0.1:{found[1]}"
                break
        else:
            raise AssertionError(self.said)

    def completed(self, prompt: str, **options: Any) -> dict[str, Any]:
        body = json.dumps({"prompt": prompt, "seed": 1, **options}).encode()
        with urllib.request.urlopen(f"{self.url}/v1/completions", body, timeout=60) as answer:
            return dict(json.loads(answer.read()))

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(how)
        rest = self.process.communicate(timeout=60)[1]
        return self.process.returncode, "".join(self.said) + rest


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "reformer", "serve", "model", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


def test_answers_that_are_being_written_come_to_their_end(run: Path) -> None:
    """And the caches of prompts are there again in the next run."""
    (run / "prefixes").mkdir()
    prompt = (run / "text.txt").read_text()
    with serving(run, "--prompt-file", "text.txt", "--prefixes", "prefixes") as server:
        first = server.completed(prompt + "to", max_tokens=5)
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == len(prompt) + 1
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            options: dict[str, Any] = {"max_tokens": 1500, "logit_bias": {"1": -100}, "stream": True}
            stream = iter(client.completions.create(model="model", prompt="a", **options))
            got = [next(stream)]
            ended: list[tuple[int, str]] = []
            ending = threading.Thread(target=lambda: ended.append(server.end()))
            ending.start()
            got += list(stream)
            ending.join()
        assert got[-1].choices[0].finish_reason == "length"
        assert ended[0][0] == 143
        assert ended[0][1].splitlines()[-1] == "reformer: terminated"
    assert len(list((run / "prefixes").glob("*.cache"))) == 1
    with serving(run, "--prefixes", "prefixes") as server:
        again = server.completed(prompt + "to", max_tokens=5)
        assert again["choices"] == first["choices"]
        assert again["usage"] == first["usage"]
        code, said = server.end(signal.SIGINT)
        assert code == 130
        assert said.splitlines()[-1] == "reformer: interrupted"


@pytest.mark.slow
def test_an_end_has_a_bound(run: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 10**6, "logit_bias": {"1": -100}, "stream": True}
    with (
        serving(run, "--drain", "1", "--max-tokens", "1000000") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        next(iter(client.completions.create(model="model", prompt="a", **options)))
        assert server.end()[0] == 143


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port=70000 must be an integer from 0 to 65535"),
        (["--rows", "0"], "rows=0 must be an integer"),
        (["--timeout", "nan"], "timeout=nan must be a number"),
        (["--prompt-file", "missing.txt"], "missing.txt cannot be read"),
        (["--prefixes", "missing"], "missing is no folder; make it first"),
        (["--token-file", "empty"], "must hold one word"),
        (["--prompt-file", "text.txt", "--prefix-gib", "0.0001"], "raise it"),
        (["--prompt-file", "text.txt", "--max-prompt", "7"], "over max-prompt=7"),
    ],
)
def test_what_is_refused(run: Path, options: list[str], said: str) -> None:
    (run / "empty").write_text("\n")
    done = reformer("serve", "model", *options, cwd=run)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_an_address_that_is_taken(run: Path) -> None:
    with serving(run) as server:
        done = reformer("serve", "model", "--port", server.url.rsplit(":", 1)[1], cwd=run)
    assert done.returncode == 1
    assert "give another --port" in done.stderr.splitlines()[-1]
