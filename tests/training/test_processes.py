"""Runs of several processes: the losses of one, checkpoints that any number of them goes on from, faults."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from reformer.models import ReformerConfig, ReformerForCausalLM
from reformer.training.checkpoint import checkpoints, load_checkpoint
from tests.cli.command import run_group
from tests.training.several import losses_of

CLOSE = 1e-5
MODEL = {"model": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1}}
SCHEDULE: dict[str, Any] = {"length_schedule": ["32:10", "48:20"]}


def several(processes: int, cases: list[dict[str, Any]], folder: Path) -> tuple[dict[str, list[float]], str]:
    """The losses of runs that torchrun starts, and what it said."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--standalone", "-m", "tests.training.several", "cases.json", "losses.json"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    code, said = run_group(command, cwd=folder, env=environment)
    assert code == 0, said
    return json.loads((folder / "losses.json").read_text()), said


SAVED: dict[str, Any] = {"save_steps": 10, "keep": 3, "steps": 30, "weight_decay": 0.3}


def behind(run: Path, step: int, out: Path) -> str:
    """A copy of a run as it was when it had saved that step."""
    shutil.copytree(run, out)
    for folder in checkpoints(out):
        if folder.name != f"checkpoint-{step}":
            shutil.rmtree(folder)
    for name in ("config.json", "model.safetensors"):
        (out / name).unlink()
    return str(out)


def once(
    factory: pytest.TempPathFactory, name: str, processes: int, cases: Callable[[Path], list[dict[str, Any]]]
) -> tuple[dict[str, list[float]], Path, str]:
    """Runs of several processes, which one of pytest's workers makes for all: losses, folder, and what was said."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            _, said = several(processes, cases(folder), folder)
            (folder / "said").write_text(said)
    return json.loads((folder / "losses.json").read_text()), folder, (folder / "said").read_text()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[float]], Path, str]:
    """All runs of two processes, which start only once."""
    cases: list[dict[str, Any]] = [
        {"out": "ddp parts", "training": {"batch_size": 4, "sequence_parallel": 2, **SCHEDULE, **WATCHED}},
        {"out": "ddp rows", "training": {"batch_size": 2, **SCHEDULE}},
        {"out": "ddp micro-batches", "training": {"batch_size": 1, "accumulation": 2, **SCHEDULE}},
        {"out": "ddp examples", "training": {"batch_size": 2}, "examples": True},
        {"out": "fsdp rows", "training": {"batch_size": 2, "fsdp": True, **SCHEDULE}},
        {"out": "fsdp micro-batches", "training": {"batch_size": 1, "accumulation": 2, "fsdp": True, **SCHEDULE}},
        {"out": "fsdp examples", "training": {"batch_size": 2, "fsdp": True}, "examples": True},
        {"out": "ddp dropout", "training": {"steps": 12}, **MODEL},
        {"out": "fsdp dropout", "training": {"steps": 12, "fsdp": True}, **MODEL},
        {"out": "sharded", "training": {**SAVED, "batch_size": 3, "fsdp": True}},
        {
            "out": "fsdp parts",
            "training": {"batch_size": 4, "sequence_parallel": 2, "fsdp": True, **SCHEDULE, **WATCHED},
        },
    ]
    return once(tmp_path_factory, "two", 2, lambda _: cases)


WATCHED: dict[str, Any] = {"save_steps": 30, "eval_steps": 10, "eval_tokens": 700}
ONE: dict[str, dict[str, Any]] = {
    "parts": {"training": {"batch_size": 4, **SCHEDULE, **WATCHED}},
    "rows": {"training": {"batch_size": 4, **SCHEDULE}},
    "micro-batches": {"training": {"batch_size": 2, "accumulation": 2, **SCHEDULE}},
    "examples": {"training": {"batch_size": 2, "accumulation": 2}, "examples": True},
}


@pytest.mark.parametrize("kind", ONE)
def test_two_processes_learn_as_one(kind: str, two: Any, tmp_path: Path) -> None:
    alone = losses_of({"out": str(tmp_path / "one"), **ONE[kind]}, lambda _: None)
    assert len(alone) == 30
    for engine in ("ddp", "fsdp"):
        found = two[0][f"{engine} {kind}"]
        assert max(abs(a - b) for a, b in zip(alone, found, strict=True)) < CLOSE, (engine, kind)
    if kind == "parts":
        held_out = _held_out(tmp_path / "one")
        assert len(held_out) == 3
        for engine in ("ddp", "fsdp"):
            assert _held_out(two[1] / f"{engine} parts") == pytest.approx(held_out, abs=CLOSE)


def _held_out(run: Path) -> list[float]:
    history = json.loads((checkpoints(run)[-1] / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_loss"] for entry in history if "eval_loss" in entry]


@pytest.mark.slow
def test_two_groups_of_two_learn_as_one(tmp_path: Path) -> None:
    alone = losses_of({"out": str(tmp_path / "one"), **ONE["parts"]}, lambda _: None)
    split = {"batch_size": 2, "sequence_parallel": 2, **SCHEDULE, **WATCHED}
    cases = [
        {"out": "ddp", "training": split},
        {"out": "micro-batches", "training": {**split, "batch_size": 1, "accumulation": 2}},
        {"out": "fsdp", "training": {**split, "fsdp": True}},
    ]
    found, _ = several(4, cases, tmp_path)
    for losses in found.values():
        assert max(abs(a - b) for a, b in zip(alone, losses, strict=True)) < CLOSE
    for name in found:
        assert _held_out(tmp_path / name) == pytest.approx(_held_out(tmp_path / "one"), abs=CLOSE)


def test_a_row_has_the_bits_that_it_has_alone() -> None:
    """With the integer that the Trainer hands in; with another one it has others."""
    torch.manual_seed(0)
    config = ReformerConfig(vocab_size=259, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    model = ReformerForCausalLM(config).train()
    ids = torch.randint(3, 259, (3, 301))
    with torch.no_grad():
        together = model(ids, seed=7).logits
        for row, logits in enumerate(together):
            assert torch.equal(model(ids[row : row + 1], seed=7).logits[0], logits)
            assert not torch.allclose(model(ids[row : row + 1], seed=8).logits[0], logits)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_dropout_changes_no_more_than_it_should(engine: str, two: Any) -> None:
    plain, dropped = two[0][f"{engine} rows"], two[0][f"{engine} dropout"]
    assert all(0 < loss < 7 for loss in dropped)
    assert abs(dropped[11] - plain[11]) < 0.7


@pytest.fixture(scope="module")
def three(two: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[float]], Path, str]:
    """Three processes go on from what two wrote."""
    cases: list[dict[str, Any]] = [
        {"out": "sharded", "training": {**SAVED, "batch_size": 2, "fsdp": True}, "resume": "auto"},
        {"out": "narrower", "training": {**SAVED, "batch_size": 1, "fsdp": True}, "resume": "auto"},
    ]

    def made(folder: Path) -> list[dict[str, Any]]:
        for case in cases:
            behind(two[1] / "sharded", 10, folder / case["out"])
        return cases

    return once(tmp_path_factory, "three", 3, made)


@pytest.mark.slow
def test_three_processes_go_on_from_what_two_wrote(two: Any, three: Any) -> None:
    whole, found = two[0]["sharded"][10:], three[0]["sharded"]
    assert max(abs(a - b) for a, b in zip(whole, found, strict=True)) < CLOSE
    assert "6 became 3 items of the data a step, behind step 10: the data goes on at the same place" in three[2]
    origin = json.loads((three[1] / "narrower" / "checkpoint-30" / "origin.json").read_text())
    assert origin["past"] == [[10, 6], [30, 3]]


def test_one_process_goes_on_from_what_two_wrote(two: Any, tmp_path: Path) -> None:
    out = behind(two[1] / "sharded", 10, tmp_path / "run")
    changes = {**SAVED, "batch_size": 6, "fsdp": False}
    found = losses_of({"out": out, "training": changes, "resume": "auto"}, lambda _: None)
    whole = two[0]["sharded"][10:]
    assert max(abs(a - b) for a, b in zip(whole, found, strict=True)) < CLOSE


@pytest.mark.slow
def test_two_go_on_from_one_and_from_three(two: Any, three: Any, tmp_path: Path) -> None:
    changes = {**SAVED, "batch_size": 6}
    alone = losses_of({"out": str(tmp_path / "one"), "training": changes}, lambda _: None)
    assert max(abs(a - b) for a, b in zip(alone, two[0]["sharded"], strict=True)) < CLOSE
    cases = [
        {"out": out, "training": {**SAVED, "batch_size": 3, "fsdp": out != "ddp"}, "resume": "auto"}
        for out in ("ddp", "fsdp", "from three")
    ]
    for out in ("ddp", "fsdp"):
        behind(tmp_path / "one", 20, tmp_path / out)
    behind(three[1] / "sharded", 20, tmp_path / "from three")
    losses, _ = several(2, cases, tmp_path)
    for found in losses.values():
        assert max(abs(a - b) for a, b in zip(alone[20:], found, strict=True)) < CLOSE


def test_a_sharded_model_is_a_model_as_any(two: Any, tmp_path: Path) -> None:
    sharded, plain = two[1] / "sharded", two[1] / "ddp rows"
    for folder in (sharded, *checkpoints(sharded)):
        assert load_checkpoint(folder).num_parameters() > 0
        assert load_file(folder / "model.safetensors").keys() == load_file(plain / "model.safetensors").keys()
    assert {path.name for path in plain.iterdir()} <= {path.name for path in sharded.iterdir()}
    configs = [json.loads((run / "config.json").read_text()) for run in (sharded, plain)]
    assert configs[0] == configs[1]
    shards = sorted((checkpoints(sharded)[-1] / "optimizer").iterdir())
    assert len(shards) == 2
    sizes = [path.stat().st_size for path in shards]
    assert max(sizes) < 0.6 * sum(sizes)
    assert not [
        path for path in sharded.rglob("*") if path.suffix in (".bin", ".distcp", ".pt") or path.name == ".metadata"
    ]
    last, model = load_file(checkpoints(sharded)[-1] / "model.safetensors"), load_file(sharded / "model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in model.items())
