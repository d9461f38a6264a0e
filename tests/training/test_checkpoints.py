"""Checkpoints: whole or not there, the last and the best, and runs that go on as if they had never stopped."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reformer.data.corpus import Document
from reformer.inference.evaluate import evaluate
from reformer.settings.run_file import Run
from reformer.tasks.lm import LanguageModelling
from reformer.training.checkpoint import checkpoints, load_checkpoint
from reformer.training.checkpointing import NotSaved
from reformer.training.folder import RunFolder
from reformer.training.run import Interrupted, find_checkpoint
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import TEXT, corpus, settings, stop_behind, train, training

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")

HELD_OUT = [Document("b", (b"the lazy dog jumps over the quick brown fox. " * 10)[:441])]  # seven windows of 64
EVERY_TWO: dict[str, Any] = {"save_steps": 2, "eval_steps": 2}


def run(out: Path, resume: str | None = None, **changes: Any) -> Any:
    model = settings(hidden_dropout=0.1, embedding_dropout=0.1)
    found = find_checkpoint(out, resume) if resume else None
    options = training(**{**EVERY_TWO, **changes})
    return train(corpus(held_out=HELD_OUT), model, options, out, resume=found, say=lambda _: None)


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulation": 2, "length_schedule": ("16:3",)}, {"optimizer": "adafactor", "eval_steps": 3}],
    ids=str,
)
def test_a_resumed_run_is_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        stop_behind(3, patch)
        with pytest.raises(Interrupted, match=r"interrupted at step 3; .*--resume auto"):
            run(tmp_path / "parts", **changes)
    assert load_checkpoint(tmp_path / "parts").num_parameters() == whole.num_parameters()  # usable at once
    resumed = run(tmp_path / "parts", resume="auto", **changes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    last = [checkpoints(tmp_path / name)[-1] for name in ("whole", "parts")]
    for name in ("model.safetensors",):
        assert all(torch.equal(x, load_file(last[1] / name)[key]) for key, x in load_file(last[0] / name).items())
    (first,), (second,) = ([*(folder / "optimizer").glob("*.safetensors")] for folder in last)
    moments, others = load_file(first), load_file(second)
    assert moments.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in moments.items())


def test_evaluation_changes_nothing(tmp_path: Path) -> None:
    one = run(tmp_path / "one", eval_steps=0)
    two = run(tmp_path / "two", eval_steps=1, steps=6)
    last = [load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("one", "two")]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in last), strict=True))
    assert one is not two


def test_the_last_and_the_best_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    said: list[str] = []
    options = training(steps=12, learning_rate=0.3, clip=100.0, warmup_steps=6, **EVERY_TWO)
    model = train(corpus(held_out=HELD_OUT), settings(), options, out, say=said.append)
    log = [line for line in capsys.readouterr().err.splitlines() if "held out" in line]
    assert len(log) == 6
    losses = [float(line.split("loss ")[1].split()[0]) for line in log]
    best = 2 * (losses.index(min(losses)) + 1)
    assert best < 12  # such a rate ruins it
    assert [path.name for path in checkpoints(out)] == [f"checkpoint-{step}" for step in sorted({best, 10, 12})]
    assert said[-1] == f"saved to {out} after 12 steps: the model of step {best}"
    assert abs(evaluate(model, HELD_OUT, 64).loss - min(losses)) < 1e-4
    kept = load_checkpoint(checkpoints(out)[0])
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), load_checkpoint(out).parameters(), strict=True))
    assert not list(out.rglob("*.bin"))
    files = {path.name for path in checkpoints(out)[0].iterdir()}
    assert {"config.json", "model.safetensors", "run.toml", "optimizer", "schedule.json", "rng_state.pth"} <= files


def test_a_damaged_best_checkpoint_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ReformerTrainer.return_to_best

    def behind_damage(self: ReformerTrainer) -> bool:
        best = self.best_checkpoint()
        assert best is not None
        spoil(best / "model.safetensors", "flipped")
        return original(self)

    monkeypatch.setattr(ReformerTrainer, "return_to_best", behind_damage)
    out, said = tmp_path / "run", []
    options = training(steps=12, learning_rate=0.3, clip=100.0, warmup_steps=6, **EVERY_TWO)
    model = train(corpus(held_out=HELD_OUT), settings(), options, out, say=said.append)
    assert "the best one, is damaged (model.safetensors is not what was written): the model is that of the" in said[-2]
    assert said[-1] == f"saved to {out} after 12 steps"
    last = load_checkpoint(out / "checkpoint-12")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), last.parameters(), strict=True))


def test_what_is_held_out_is_predicted_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = run(tmp_path / "run", steps=2, eval_steps=2)
    line = next(line for line in capsys.readouterr().err.splitlines() if "held out" in line)
    loss = float(line.split("loss ")[1].split()[0])
    assert abs(loss - evaluate(model, HELD_OUT, 64).loss) < 1e-4


def test_early_stopping(tmp_path: Path) -> None:
    said: list[str] = []
    options = training(steps=60, learning_rate=0.5, clip=100.0, warmup_steps=4, patience=2, **EVERY_TWO)
    train(corpus(held_out=HELD_OUT), settings(), options, tmp_path / "run", say=said.append)
    steps = int(said[-1].split(" after ")[1].split()[0])
    best = int(said[-1].split("step ")[-1])
    assert steps < 60
    assert steps == best + 4


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, original = tmp_path / "run", ReformerTrainer._save_rng_state

    def full(self: ReformerTrainer, folder: str) -> None:
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(ReformerTrainer, "_save_rng_state", full)
        with pytest.raises(
            NotSaved, match=r"checkpoint-4 could not be written \(.*No space left on device\).*-2\. Make"
        ):
            run(out)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-2", "log.jsonl", "run.toml"]
    assert load_checkpoint(out / "checkpoint-2").num_parameters() > 0
    whole, resumed = run(tmp_path / "whole"), run(out, resume="auto")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_run_that_was_killed_before_it_saved_begins_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder(out, Run(settings(), LanguageModelling(), training()), corpus())
    assert find_checkpoint(out, "auto") is None
    run(out, steps=2)
    run(tmp_path / "bare", save_steps=0)
    with pytest.raises(ValueError, match="holds a model and no checkpoint to go on from"):
        find_checkpoint(tmp_path / "bare", "auto")


def test_going_on_from_an_older_checkpoint_keeps_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, later = tmp_path / "run", tmp_path / "run" / "checkpoint-99"
    with monkeypatch.context() as patch:
        stop_behind(2, patch)
        with pytest.raises(Interrupted):
            run(out, eval_steps=0)
    shutil.copytree(out / "checkpoint-2", later)
    run(out, resume=str(out / "checkpoint-2"), eval_steps=0)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4", "checkpoint-6"]


def test_as_many_are_kept_as_are_asked_for(tmp_path: Path) -> None:
    for keep, names in ((1, ["checkpoint-6"]), (3, ["checkpoint-2", "checkpoint-4", "checkpoint-6"])):
        run(tmp_path / str(keep), keep=keep, eval_steps=0)
        assert [path.name for path in checkpoints(tmp_path / str(keep))] == names


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run(out, eval_steps=0)
    return out


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 4]) + whole[len(whole) // 2 + 1 :])


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
def test_a_run_goes_on_from_the_last_whole_checkpoint(finished: Path, how: str, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(finished)) for path in (finished / "checkpoint-6").rglob("*") if path.is_file())
    assert {"checkpoint-6/manifest.json", "checkpoint-6/rng_state.pth", "checkpoint-6/run.toml"} <= set(names)
    for i, name in enumerate(names):
        out = tmp_path / str(i)
        shutil.copytree(finished, out)
        spoil(out / name, how)
        said: list[str] = []
        assert find_checkpoint(out, "auto", said.append) == out / "checkpoint-4", name
        (line,) = said
        assert line.startswith(f"{out / 'checkpoint-6'} is damaged (")
        assert Path(name).name in line or name.endswith("manifest.json")
        with pytest.raises(ValueError, match=r"checkpoint-6 is damaged \(.*give auto"):
            find_checkpoint(out, str(out / "checkpoint-6"))
    spoil(out / "checkpoint-4" / "config.json", how)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole; begin again with --overwrite"):
        find_checkpoint(out, "auto", said.append)


@pytest.mark.parametrize("written", ["", "{", "[]", "{}", '{"files": {}}', '{"files": {"trainer_state.json": 1}}'])
def test_a_manifest_that_lists_nothing_is_damage(finished: Path, written: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "checkpoint-6" / "manifest.json").write_text(written)
    assert find_checkpoint(out, "auto", lambda _: None) == out / "checkpoint-4"


def test_a_damaged_checkpoint_costs_steps_and_no_bits(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    spoil(out / "checkpoint-6" / "optimizer" / "optimizer.safetensors", "flipped")
    run(out, resume="auto", eval_steps=0)
    for name in ("model.safetensors", "optimizer/optimizer.safetensors"):
        assert (out / "checkpoint-6" / name).read_bytes() == (finished / "checkpoint-6" / name).read_bytes()


def test_damaged_weights_are_not_loaded(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-6"
    shutil.copytree(finished / "checkpoint-6", folder)
    spoil(folder / "optimizer" / "optimizer.safetensors", "gone")  # a model needs none
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"use_cache": true', '"use_cache": false'))  # by its owner
    assert load_checkpoint(folder).num_parameters() > 0
    spoil(folder / "model.safetensors", "flipped")
    with pytest.raises(ValueError, match=r"checkpoint-6 is damaged \(model.safetensors is not what was written\)"):
        load_checkpoint(folder)


def test_what_a_killed_run_had_half_written_is_cleared(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for half in (".partial/checkpoint-8", ".model"):
        (out / half).mkdir(parents=True)
        (out / half / "model.safetensors").write_bytes(b"half")
    run(out, resume="auto", eval_steps=0)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, save_steps=3)
    with pytest.raises(ValueError, match=r"other settings: steps=9 \(it has 6\), learning_rate=0.5 \(it has 0.003\)"):
        run(out, resume="auto", steps=9, learning_rate=0.5, save_steps=3)
    found = find_checkpoint(out, "auto")
    model, options = settings(hidden_dropout=0.1, embedding_dropout=0.1), training(**EVERY_TWO | {"save_steps": 3})
    with pytest.raises(ValueError, match="other settings: files"):
        train(corpus(held_out=HELD_OUT), model, options, out, task=LanguageModelling(files=("x",)), resume=found)
    with pytest.raises(ValueError, match="is no checkpoint of a run"):
        find_checkpoint(out, str(tmp_path))
    with pytest.raises(ValueError, match="is a checkpoint of another run"):
        find_checkpoint(tmp_path / "other", str(checkpoints(out)[-1]))
    assert find_checkpoint(tmp_path / "other", "auto") is None
    other = corpus([Document("a", TEXT[0].text.replace(b"fox", b"cat"))], HELD_OUT)
    with pytest.raises(ValueError, match="text is not the one"):
        train(other, model, options, out, resume=found)


def test_a_checkpoint_of_a_newer_version(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, steps=1)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "reformer_version": "9.0.0", "new_field": 1}))
    with pytest.raises(
        ValueError, match=r"'new_field'.*; reformer 9.0.0 wrote it, and this is .*: install the newer one"
    ):
        load_checkpoint(out)
