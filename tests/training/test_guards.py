"""What a run does about bad numbers, memory that is out, dead helpers and steps that never end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from reformer.cli.flags import ModelFlags, TrainingFlags
from reformer.cli.parse import parse
from reformer.cli.train import Train
from reformer.data.corpus import Document
from reformer.data.windows import TrainingWindows
from reformer.errors import InputError, Terminated
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.training.checkpoint import checkpoints
from reformer.training.guards import ENOUGH, NonFiniteLoss, StepGuard
from reformer.training.memory import OutOfMemory
from reformer.training.plan import in_units, plan
from reformer.training.run import WorkerDied, build_model, find_checkpoint
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import TEXT, corpus, job, settings, train, training

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], micro: int = 0, by: float = float("nan")) -> None:
    """A loss that is not finite in these steps, in one of their micro-batches."""
    original, seen = ReformerTrainer.compute_loss, {"micro": 0, "step": -1}

    def compute(self: ReformerTrainer, *args: Any, **kwargs: Any) -> Tensor:
        step = self.state.global_step
        seen["micro"] = seen["micro"] + 1 if seen["step"] == step else 0
        seen["step"] = step
        # as deep in the model as it arises
        factor = by if step + 1 in steps and seen["micro"] == micro else 1.0
        hook = self.model.get_output_embeddings().register_forward_hook(lambda *given: given[-1] * factor)  # type: ignore[union-attr]
        try:
            return original(self, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(ReformerTrainer, "compute_loss", compute)


class Weights(TrainerCallback):
    """The weights behind each step."""

    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def on_step_end(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
        self.kept.append([weight.detach().clone() for weight in model.parameters()])


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adafactor"}, {"accumulation": 2}], ids=str)
def test_a_step_that_is_not_finite_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    spoil(monkeypatch, {3, 4})
    said: list[str] = []
    rows = [{"input_ids": x, "labels": x} for x in torch.randint(3, 259, (40, 30))]
    run = training(steps=6, log_steps=1, warmup_steps=0, **changes)
    trainer = ReformerTrainer(build_model(settings(), 0), job(rows), run, str(tmp_path), say=said.append)
    trainer.add_callback(weights := Weights())
    trainer.train()
    same = [all(map(torch.equal, a, b)) for a, b in zip(weights.kept, weights.kept[1:], strict=False)]
    assert same == [False, True, True, False, False]  # steps 3 and 4
    assert all(weight.isfinite().all() for weight in weights.kept[-1])
    assert [line.split(":")[0] for line in said] == ["step 3 is skipped", "step 4 is skipped"]
    assert "(2 so far; 3 in a row are the most)" in said[1]
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 6
    assert all(map(torch.isfinite, torch.tensor(losses)))  # the last finite one stands for it


def test_one_micro_batch_spoils_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {2}, micro=0, by=float("inf"))
    said: list[str] = []
    train(corpus(), settings(), training(accumulation=3), tmp_path / "run", say=said.append)
    assert len([line for line in said if line.startswith("step 2 is skipped")]) == 1


def test_a_gradient_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    model, said = build_model(settings(), 0), []
    sent: list[int] = []

    def spoilt(gradient: Tensor) -> Tensor:
        sent.append(1)
        return gradient * float("inf") if len(sent) == 2 else gradient

    next(model.parameters()).register_hook(spoilt)
    before = training(steps=3, log_steps=1)
    rows = [{"input_ids": x, "labels": x} for x in torch.randint(3, 259, (12, 30))]
    trainer = ReformerTrainer(model, job(rows), before, str(tmp_path), say=said.append)
    trainer.add_callback(weights := Weights())
    trainer.train()
    assert said == ["step 2 is skipped: the norm of the gradient is nan (1 so far; 3 in a row are the most)"] or said[
        0
    ].startswith("step 2 is skipped: the norm of the gradient is inf")
    assert all(map(torch.equal, weights.kept[0], weights.kept[1]))


def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {2, 4, 5, 6})  # one is forgiven, and counts no more
    said: list[str] = []
    options = training(steps=9, skip_nonfinite=2, save_steps=1)
    with pytest.raises(
        NonFiniteLoss,
        match=r"nan at step 6 after 2 skipped steps; .*checkpoint-3: --resume auto",
    ):
        train(corpus(), settings(), options, tmp_path / "run", say=said.append)
    assert len([line for line in said if "is skipped" in line]) == 3
    assert find_checkpoint(tmp_path / "run", "auto") == tmp_path / "run" / "checkpoint-3"
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-1", "checkpoint-3"]
    assert "no checkpoint is made at step 5, which was skipped" in said


def test_a_leap_of_the_gradient_is_said() -> None:
    said: list[str] = []
    guard = StepGuard(3, 10.0, said.append, lambda: "")
    for step in range(1, ENOUGH + 1):
        assert not guard.skips(step, 1.0, 9.0 if step == 3 else 0.5)
    assert said == []  # too early to compare
    guard.skips(ENOUGH + 1, 1.0, 6.0)
    guard.skips(ENOUGH + 2, 1.0, 4.9)
    (line,) = said
    assert line == "step 21: the norm of the gradient is 6, that of the last steps 0.5 (median)"
    silent = StepGuard(3, 0.0, said.append, lambda: "")
    for step in range(200):
        silent.skips(step, 1.0, 10.0**step)
    assert len(said) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_memory_that_is_out_becomes_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def out(self: ReformerTrainer, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(ReformerTrainer, "compute_loss", out)
    model, options = settings(), training(length=4096, batch_size=4)
    with pytest.raises(OutOfMemory) as caught:
        train(corpus(), model, options, tmp_path / "run")
    message = str(caught.value)
    assert f"a step was planned to take {in_units(plan(model, options).bytes)} beyond the libraries; with " in message
    assert message.endswith("; nothing was saved yet")
    ways = re.findall(r"(--[a-z][^:;]*): ([\d.]+ \w+)", message)
    assert [flags.split()[0] for flags, _ in ways] == ["--chunk-size-feed-forward", "--batch-size", "--length"]
    for flags, size in ways:  # each is a command line, and does what is said of it
        given = Train(training=TrainingFlags(**vars(options)), model=ModelFlags(**vars(model)))
        asked = parse(Train, flags.split(), "train", given)
        changed = TrainingSettings(**vars(asked.training))
        assert in_units(plan(ModelSettings(**vars(asked.model)), changed).bytes) == size
        assert changed.batch_size * changed.accumulation == options.batch_size


def test_data_workers_change_no_bit(tmp_path: Path) -> None:
    model = settings(hidden_dropout=0.1)
    one, two = (train(corpus(), model, training(data_workers=n, save_steps=3), tmp_path / str(n)) for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_dead_data_worker_ends_the_run_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, main = TrainingWindows.__getitem__, os.getpid()

    def dies(self: TrainingWindows, index: int) -> Any:
        if index >= 8 and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

    monkeypatch.setattr(TrainingWindows, "__getitem__", dies)
    with pytest.raises(WorkerDied, match=r"a data worker died \(.*; use fewer --data-workers if memory"):
        train(corpus(), settings(), training(data_workers=1, save_steps=1), tmp_path / "run")


def slow_step(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """A signal in front of a forward that takes a minute, behind some random numbers."""
    original = ReformerTrainer.compute_loss

    def slow(self: ReformerTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1:
            torch.rand(3)
            os.kill(os.getpid(), number)
            time.sleep(60)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ReformerTrainer, "compute_loss", slow)


def test_a_step_is_given_up_after_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = settings(hidden_dropout=0.1, embedding_dropout=0.1)
    options = training(save_steps=50, grace=1)
    whole = train(corpus(), model, options, tmp_path / "whole")
    out, said = tmp_path / "parts", []
    with monkeypatch.context() as patch:
        slow_step(patch, 4, signal.SIGTERM)
        started = time.monotonic()
        with pytest.raises(Terminated, match=r"terminated at step 3; .*--resume auto"):
            train(corpus(), model, options, out, say=said.append)
    assert time.monotonic() - started < 40
    assert "the step took more than 1 seconds (--grace) and is given up" in said
    assert [path.name for path in checkpoints(out)] == ["checkpoint-3"]
    resumed = train(corpus(), model, options, out, resume=find_checkpoint(out, "auto"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_first_step_that_is_given_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_step(monkeypatch, 1, signal.SIGTERM)
    with pytest.raises(Terminated, match=r"^terminated$"):
        train(corpus(), settings(), training(save_steps=50, grace=1), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_step_does_not_begin_behind_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in an evaluation: it is finished, and what stood in front of the next step is saved."""
    model, options = settings(hidden_dropout=0.1), training(eval_steps=2, save_steps=50)
    held_out = [Document("b", TEXT[0].text[:300])]
    whole = train(corpus(held_out=held_out), model, options, tmp_path / "whole")
    original, out = ReformerTrainer.evaluate, tmp_path / "parts"

    def signalled(self: ReformerTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ReformerTrainer, "evaluate", signalled)
        with pytest.raises(Terminated, match="terminated at step 2"):
            train(corpus(held_out=held_out), model, options, out)
    assert "checkpoint-2" in [path.name for path in checkpoints(out)]
    resumed = train(corpus(held_out=held_out), model, options, out, resume=find_checkpoint(out, "auto"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "message"), [(InputError, "^a file is not what it was$"), (IndexError, "Caught IndexError in DataLoader")]
)
def test_an_error_in_a_data_worker_is_not_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    def refuses(self: TrainingWindows, index: int) -> Any:
        raise kind("a file is not what it was")

    monkeypatch.setattr(TrainingWindows, "__getitem__", refuses)
    with pytest.raises(kind, match=message):
        train(corpus(), settings(), training(data_workers=1), tmp_path / "run")


STALLED = """
import sys, time
from pathlib import Path
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import TEXT, corpus, settings, train, training

original = ReformerTrainer.compute_loss
def stuck(self, *args, **kwargs):
    if self.state.global_step == 4:
        time.sleep(100)
    return original(self, *args, **kwargs)
ReformerTrainer.compute_loss = stuck
say = lambda line: print(line, file=sys.stderr, flush=True)
train(corpus(), settings(), training(stall_timeout=5, save_steps=2), Path(sys.argv[1]), say=say)
"""


@pytest.mark.slow
def test_a_run_that_stalls_is_ended(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STALLED, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nothing was done for 5 seconds (--stall-timeout): the run is ended. It stands in ")
    assert ", stuck; its last line: step 4/6  loss " in last
    assert find_checkpoint(tmp_path / "run", "auto") == tmp_path / "run" / "checkpoint-4"
