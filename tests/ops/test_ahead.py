"""Kernels that other processes compile."""

import errno
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from numba import typeof

from reformer.ops.attention import lsh_attention
from reformer.ops.convolution import short_convolution
from reformer.ops.cpu import ahead, jit
from reformer.ops.cpu.first_kernels import first_kernels


@pytest.fixture(autouse=True)
def backend() -> str:
    """These tests are about one."""
    return "numba"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The commands of helpers that were started, which do nothing."""
    commands: list[list[str]] = []

    def start(command: list[str], **_: object) -> subprocess.Popen[bytes]:
        commands.append(command)
        return popen([sys.executable, "-c", "pass"])

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(ahead, "_helpers", {})
    monkeypatch.setattr(ahead, "_cores", lambda: {0, 1})
    monkeypatch.delenv("REFORMER_BACKEND", raising=False)
    yield commands
    for helper in ahead._helpers.values():
        helper.wait()


def test_helpers_compile_for_the_types_that_a_training_step_has() -> None:
    q, v = (torch.randn(1, 2, 300, 16, requires_grad=True) for _ in range(2))
    lsh_attention(q, v, seed=0, backend="numba").sum().backward()
    x, weight = torch.randn(1, 300, 32, requires_grad=True), torch.randn(32, 4, requires_grad=True)
    short_convolution(x, weight).sum().backward()
    kernels = first_kernels()
    assert sorted(kernels) == sorted(name for names in ahead.GROUPS.values() for name in names)
    for name, (kernel, arguments) in kernels.items():
        assert tuple(typeof(argument) for argument in arguments) in kernel.overloads, name


def test_one_helper_a_group_where_nothing_was_kept(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        ahead.compile_ahead_unless_kept()
    assert [command[-1] for command in started] == ["forward", "backward"]


def test_no_helper_where_kernels_were_kept(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "forward.attend_runs-100.py311.nbi").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    ahead.compile_ahead_unless_kept()
    assert not started


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "1"), ("REFORMER_BACKEND", "plain")])
def test_no_helper_where_it_would_not_help(
    started: list[list[str]], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    ahead.compile_ahead()
    assert not started


def test_a_kernel_waits_for_its_helper_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"]) as helper:
        monkeypatch.setattr(ahead, "_helpers", {"backward": helper})
        begun = time.monotonic()
        ahead.wait_for("attend_runs")
        assert helper.poll() is None
        ahead.wait_for("differentiate_runs")
        assert helper.poll() == 0
        assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_helper_leaves_kernels_where_the_next_process_finds_them(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "reformer.ops.cpu.first_kernels", "forward"]
    subprocess.run(command, env=environment, check=True, cwd=Path(ahead.__file__).parents[3])
    code = (
        "import torch; from reformer.ops.attention import lsh_attention;"
        "from reformer.ops.cpu.forward import attend_runs;"
        "q = torch.randn(1, 1, 99, 8); lsh_attention(q, q, seed=0); stats = attend_runs.stats;"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


class Kept:
    """What numba does on a disk that is full, or with a file that is cut short."""

    def __init__(self, folder: Path) -> None:
        self.cache_path, self.loaded = str(folder), 0
        self._cache_file = SimpleNamespace(_index_path=str(folder / "index"), _load_index=self.load_overload)

    def load_overload(self, *arguments: object) -> None:
        self.loaded += 1
        raise pickle.UnpicklingError("pickle data was truncated")

    def save_overload(self, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_kernels_that_cannot_be_kept_are_compiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_said", set())
    (tmp_path / "index").write_bytes(b"cut")
    cache = Kept(tmp_path)
    jit._make_safe(cache, "a kernel")
    for _ in range(2):
        assert cache.load_overload(None, None) is None
        cache.save_overload(None, None)
    assert cache.loaded == 2
    assert not (tmp_path / "index").exists()  # so that it can be kept again
    assert not jit._is_kept(cache)
    unread, unkept = [record.getMessage() for record in caplog.records]  # each once
    assert unread == "kept kernels cannot be read (UnpicklingError('pickle data was truncated')) and are compiled anew"
    assert unkept.startswith(f"compiled kernels cannot be kept in {tmp_path} (No space left on device): each process")
