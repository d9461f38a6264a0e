"""The page of training runs: of one that goes on, ended, failed, and of several side by side."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock

from reformer.errors import InputError
from reformer.report.chart import Line, line_chart
from reformer.report.runs import FINDINGS, REPORT, report
from reformer.settings.run_file import RUN_FILE
from reformer.training.log import LOG, read_log
from tests.cli.command import TINY, reformer

HOSTILE = "<script>alert(1)</script>\u202e\"'&<img src=x onerror=alert(2)>\x00"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Elements(HTMLParser):
    """Opens and closes in pairs; keeps names, attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path, steps: int = 3, of: int = 3) -> Path:
    """A folder as a run leaves it, or is about to."""
    folder.mkdir()
    (folder / RUN_FILE).write_text(f'[model]\nhidden_size = 32\n[data]\ntask = "lm"\n[training]\nsteps = {of}\n')
    rows = [
        {"step": i, "of": of, "loss": 5.0 - i, "accuracy": 0.1 * i, "grad_norm": float("nan")} for i in range(steps + 1)
    ]
    (folder / LOG).write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"step": 9')  # and half a line
    return folder


def test_states(tmp_path: Path) -> None:
    ended, failed = made(tmp_path / "ended"), made(tmp_path / "failed", 2)
    (ended / "config.json").write_text("{}")
    (failed / "checkpoint-2").mkdir()
    (failed / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert "ended after 3 steps" in report([ended])
    (other := made(tmp_path / "early", 2)).joinpath("config.json").write_text("{}")
    assert "ended early, after 2 of 3 steps; its model is saved" in report([other])
    assert "stopped at step 2 of 3; the last checkpoint is that of step 2" in report([failed])
    assert 'http-equiv="refresh"' not in report([failed])
    with FileLock(tmp_path / ".failed.lock"):
        page = report([failed])
    assert "going on: step 2 of 3" in page
    assert 'http-equiv="refresh"' in page
    empty = made(tmp_path / "empty", -1)
    (empty / LOG).unlink()
    assert "nothing yet" in report([empty])
    with pytest.raises(InputError, match=r"run\.toml is missing"):
        report([tmp_path])


def test_several_side_by_side_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other", of=5)
    page = Elements(report([one, other]))
    assert page.names.count("svg") == 6
    assert not page.links
    assert "script" not in page.names
    assert re.search(r"training\.steps\s*3\s*5", re.sub(r"(?<=\w)(?=\d)", " ", page.text).replace("steps", "steps "))
    assert "http" not in report([one]).replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_hostile_text_is_text(tmp_path: Path) -> None:
    run = made(tmp_path / "<b>run")
    findings = {
        "samples": [{"prompt": HOSTILE, "text": HOSTILE}],
        "positions": [{"from": 1, "loss": 2.0}, {"from": 2, "loss": float("nan")}, {"from": 4, "loss": "x"}],
        "scores": {HOSTILE: 0.5},
    }
    (run / FINDINGS).write_text(json.dumps(findings))
    page = Elements(report([run]))
    assert {"script", "img", "b>run"}.isdisjoint(page.names)
    assert page.text.count("<script>alert(1)</script>") == 3
    for damaged in ("[]", "{", '{"samples": 3}'):
        (run / FINDINGS).write_text(damaged)
        Elements(report([run]))


def test_train_writes_it_and_report_prints_its_path(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five " * 200)
    trained = reformer("train", "text.txt", *TINY.split(), "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.splitlines()[-1] == "report: run/report.html"
    page = Elements((tmp_path / "run" / REPORT).read_text())
    assert "ended after 4 steps" in page.text
    assert "Does a longer context pay?" in page.text
    assert "Samples" in page.text
    shown = reformer("report", "run", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "run/report.html\n")
    other = reformer("report", "run", "run", "--out", "both.html", cwd=tmp_path)
    assert other.stdout == "both.html\n"
    assert Elements((tmp_path / "both.html").read_text())
    for arguments, said in ((("text.txt",), "run.toml"), (("run", "--out", "no/where.html"), "cannot be written")):
        wrong = reformer("report", *arguments, cwd=tmp_path)
        assert wrong.returncode == 2
        assert said in wrong.stderr
    assert not list(tmp_path.glob("**/*.partial"))


@pytest.mark.slow
def test_a_resumed_run_takes_back_what_it_does_again(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five " * 200)
    more = ("--save-steps", "2", "--log-steps", "1", "--eval-steps", "0")
    command = ("train", "text.txt", *TINY.replace("--log-steps 2", "").split(), *more, "--out", "run")
    assert reformer(*command, cwd=tmp_path).returncode == 0
    whole = read_log(tmp_path / "run" / LOG)
    done = reformer(*command, "--resume", "run/checkpoint-2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = read_log(tmp_path / "run" / LOG)
    assert [row["step"] for row in again] == [row["step"] for row in whole] == [1, 2, 3, 4]
    assert [row["loss"] for row in again] == [row["loss"] for row in whole]


@pytest.mark.slow
def test_what_a_page_cannot_do_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five " * 200)
    command = ("train", "text.txt", *TINY.split(), "--save-steps", "2", "--out", "run")
    assert reformer(*command, cwd=tmp_path).returncode == 0
    run = tmp_path / "run"
    (run / LOG).write_bytes(b'\xff{"step": 1}\n{"step": 2, "loss": ' + b"9" * 400 + b"}\n")
    for name in (REPORT, FINDINGS):
        (run / name).unlink()
        (run / name / "in the way").mkdir(parents=True)
    again = reformer(*command, "--resume", "run/checkpoint-2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "not measured for the report" in again.stderr
    assert "report: not written" in again.stderr.splitlines()[-1]
    assert reformer("report", "run", "--out", "other.html", cwd=tmp_path).returncode == 0


def test_a_name_that_libraries_cannot_write_to_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two three four five " * 200)
    done = reformer("train", "text.txt", *TINY.split(), "--out", os.fsdecode(b"q\xff"), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is not UTF-8" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_tokens_of_a_plan_are_those_of_the_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    text = (run / RUN_FILE).read_text().replace('task = "lm"', 'task = "lm"\ntokenizer = "bpe:500"')
    (run / RUN_FILE).write_text(text)
    assert "nothing is saved yet" in report([run])
    (run / "config.json").write_text('{"vocab_size": 500}')
    assert "tokens a step      2,048" in report([run])
    rows = (run / LOG).read_text().replace('"step": 3', '"step": 3, "processes": 4')
    (run / LOG).write_text(rows)
    assert "tokens a step      8,192" in report([run])
    (run / RUN_FILE).write_text(text.replace('"lm"', '"classify"').replace("bpe:500", "bytes"))
    assert "not worked out for tasks on rows" in report([run])


def test_long_curves_are_thinned() -> None:
    xs = list(range(100_000))
    drawn = line_chart("t", [Line("l", xs, [1.0 if x != 50_001 else 9.0 for x in xs])], "x")
    assert len(drawn) < 60_000
    assert ">8<" in drawn  # the one that stands out is there
