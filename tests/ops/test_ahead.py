"""Kernels that other processes compile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from numba import typeof

from reformer.ops.attention import lsh_attention
from reformer.ops.convolution import short_convolution
from reformer.ops.cpu import ahead
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
