"""Runs that lose a process, a node or all but one, and go on; two nodes that see each other through a network alone."""

import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reformer.training.checkpoint import checkpoints
from tests.cli.command import reformer

TINY = shlex.split(
    "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --window 8 --length 64 --steps 40 --log-steps 1 "
    "--save-steps 5 --eval-steps 0 --learning-rate 3e-3 --warmup-steps 4"
)
TRAIN = ["-m", "reformer", "train", "text.txt", "--resume", "auto", *TINY]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
BOUND = 200
"""Seconds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("elastic")
    words = shlex.split("the quick brown fox jumps over a lazy dog while an old cat sat on its mat")
    order = random.Random(0)
    (made / "text.txt").write_text(" ".join(order.choice(words) for _ in range(20000)))
    return made


@pytest.fixture(scope="module")
def calm(folder: Path) -> list[float]:
    """The losses of one process that takes the rows of two, and that nothing happens to."""
    done = reformer(*TRAIN[2:], "--out", "calm", "--batch-size", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return losses(folder / "calm")


def losses(run: Path) -> list[float]:
    """Those of all steps, as the last checkpoint has them."""
    state = json.loads((checkpoints(run)[-1] / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


def wait_for(condition: Any, what: str) -> None:
    end = time.time() + BOUND
    while not condition():
        assert time.time() < end, what
        time.sleep(0.05)


def workers(agent: int) -> list[int]:
    """The processes that a torchrun has started."""
    said = subprocess.run(["pgrep", "-P", str(agent)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in said.split()]


def ended(agents: list[subprocess.Popen[str]]) -> list[str]:
    """What they said on standard error, once all have ended well."""
    try:
        said = [agent.communicate(timeout=BOUND)[1] for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    assert [agent.returncode for agent in agents] == [0] * len(agents), said
    return said


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**ENVIRONMENT, **environment}, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("trial", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 10))])
def test_a_rank_that_is_killed_costs_steps_and_no_bits(trial: int, folder: Path, calm: list[float]) -> None:
    out, chance = f"killed {trial}", random.Random(trial)
    fsdp = ["--fsdp"] if trial % 2 else []
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", *TRAIN, "--out", out, *fsdp]
    agent = start(command, folder)
    wait_for(lambda: checkpoints(folder / out), "no checkpoint was written")
    time.sleep(chance.random())
    os.kill(chance.choice(workers(agent.pid)), signal.SIGKILL)
    (said,) = ended([agent])
    assert "bug" not in said
    assert "failed (exitcode: -9)" in said
    found = losses(folder / out)
    assert max(abs(a - b) for a, b in zip(calm, found, strict=True)) < 1e-5


def test_a_killed_process_ends_those_that_share_its_windows(folder: Path) -> None:
    """With a line of its own: there is no torchrun here that would end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    flags = ["--sequence-parallel", "2", "--out", "parts", "--steps", "100000", "--save-steps", "0"]
    both = [
        start([sys.executable, *TRAIN, *flags], folder, **common, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")
    ]
    try:
        log = folder / "parts" / "log.jsonl"
        wait_for(lambda: log.exists() and log.read_text().count("loss") > 2, "the run did not begin")
        both[1].kill()
        said = both[0].communicate(timeout=60)[1]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert both[0].returncode == 1
    assert said.splitlines()[-1].startswith("reformer: another process of this run is gone"), said
    both[1].communicate()


@pytest.fixture
def network() -> Iterator[list[list[str]]]:
    """What starts a command on each of two nodes: network namespaces with addresses 10.77.0.1 and 10.77.0.2."""
    names = [f"reformer{os.getpid()}{side}" for side in "ab"]
    if shutil.which("ip") is None:
        pytest.skip("two nodes need the command ip (Debian: iproute2)")
    first = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True, check=False)
    if first.returncode:
        pytest.skip(f"network namespaces are not allowed here: {first.stderr.strip()}")
    try:
        for command in (
            f"ip netns add {names[1]}",
            f"ip -n {names[0]} link add veth0 type veth peer name veth0 netns {names[1]}",
            *(f"ip -n {name} addr add 10.77.0.{i}/24 dev veth0" for i, name in enumerate(names, 1)),
            *(f"ip -n {name} link set {device} up" for name in names for device in ("lo", "veth0")),
        ):
            made = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: {command}: {made.stderr.strip()}")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_nodes(network: list[list[str]], folder: Path, calm: list[float]) -> None:
    rendezvous = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id 7 --rdzv-endpoint 10.77.0.1:29400"
    agents = []
    for number, node in enumerate(network):  # who a node is does not follow from its name here, which both share
        who = f"--rdzv-conf is_host={1 - number} --local-addr 10.77.0.{number + 1}"
        command = [*node, *TORCHRUN, *rendezvous.split(), *who.split(), *TRAIN, "--out", "nodes", "--fsdp"]
        agents.append(start(command, folder, GLOO_SOCKET_IFNAME="veth0"))
    ended(agents)
    assert max(abs(a - b) for a, b in zip(calm, losses(folder / "nodes"), strict=True)) < 1e-5


@pytest.mark.slow
def test_a_node_that_goes_and_one_that_comes(folder: Path, calm: list[float]) -> None:
    options = "--nnodes 1:2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-id 8"
    options += " --rdzv-endpoint localhost:29411 --rdzv-conf last_call_timeout=3"
    long = ["--steps", "400", "--save-steps", "20", "--log-steps", "20"]
    command = [*TORCHRUN, *options.split(), *TRAIN, *long, "--out", "waning"]
    first, second = start(command, folder), start(command, folder)
    wait_for(lambda: checkpoints(folder / "waning"), "no checkpoint was written")
    second.terminate()
    second.communicate(timeout=BOUND)

    def past() -> list[list[int]]:
        found = checkpoints(folder / "waning")
        return json.loads((found[-1] / "origin.json").read_text())["past"] if found else []

    wait_for(lambda: past() and past()[-1][1] == 1, "the first node did not go on alone")
    third = start(command, folder)
    wait_for(lambda: len(past()) > 2 and past()[-1][1] == 2, "the node that came back was not taken in")
    ended([first, third])
    assert [items for _, items in past()] == [2, 1, 2]
