"""A folder with a text and a model of it."""

from pathlib import Path

import pytest

from tests.cli.command import TINY, reformer


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    done = reformer("train", "text.txt", "--out", "model", *TINY.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "bits/byte" in done.stderr
    assert "saved to model after 4 steps" in done.stderr
    return folder
