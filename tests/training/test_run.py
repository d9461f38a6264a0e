import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from reformer.cli import train as train_verb
from reformer.data.corpus import Document
from reformer.errors import RunError, lost_peer
from reformer.inference.evaluate import evaluate
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.settings.run_file import Run, check_same_run, read_run_file, write_run_file
from reformer.tasks import tasks
from reformer.tasks.lm import LanguageModelling
from reformer.training.checkpoint import load_checkpoint
from reformer.training.folder import RunFolder
from reformer.training.guards import NonFiniteLoss
from reformer.training.run import Interrupted, build_model
from reformer.training.state import load_weights
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import TEXT, corpus, settings, train, training

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


def settings_of(path: Path) -> Run:
    return Run.of(read_run_file(path, tasks()), tasks())


def test_a_run_learns_logs_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    out = tmp_path / "run"
    model = train(corpus(), settings(), training(steps=40), out, say=said.append)
    log = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert len(log) == 21  # the first step, then every second, and the last
    assert log[-1].startswith("step 40/40  loss ")
    for word in ("bits/byte", "accuracy", "grad norm", "tokens/s", "left 0:00:00"):
        assert word in log[-1]
    first, last = (float(line.split("bits/byte ")[1].split()[0]) for line in (log[0], log[-1]))
    assert first > 7
    assert last < 4.5
    assert "weights" in said[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "log.jsonl",
        "model.safetensors",
        "reformer_auto.py",
        "run.toml",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing is left beside it
    x = torch.randint(3, 259, (1, 50))
    assert torch.equal(load_checkpoint(out)(x).logits, model.eval()(x).logits)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(out)(x).logits, model(x).logits)
    assert settings_of(out / "run.toml") == Run(settings(), LanguageModelling(), training(steps=40))


def test_the_run_file_repeats_the_run(tmp_path: Path) -> None:
    one = train(corpus(), settings(hidden_dropout=0.1), training(), tmp_path / "one", say=lambda _: None)
    tables = settings_of(tmp_path / "one" / "run.toml")
    two = train(
        corpus(),
        tables.model,
        tables.training,
        tmp_path / "two",
        say=lambda _: None,
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_accumulation_and_bf16(tmp_path: Path) -> None:
    """A step hashes alike however it is cut into micro-batches."""
    losses = []
    for i, changes in enumerate(
        ({"batch_size": 4}, {"batch_size": 1, "accumulation": 4}, {"bf16": True, "batch_size": 4})
    ):
        model = train(corpus(), settings(), training(steps=3, **changes), tmp_path / str(i), say=lambda _: None)
        losses.append(evaluate(model, TEXT, 64).loss)
    assert abs(losses[0] - losses[1]) < 1e-3
    assert 0 < abs(losses[0] - losses[2]) < 0.05


def test_a_short_text_is_one_window(tmp_path: Path) -> None:
    said: list[str] = []
    train(corpus([Document("a", b"short text")]), settings(), training(steps=2), tmp_path / "run", say=said.append)
    assert said[0].startswith("the text has 11 tokens, less than one window of 64")


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"), [("AVX2", True, 1), ("AVX2", False, 0), ("AVX512", True, 0)]
)
def test_a_processor_without_products_of_bf16_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, bf16: bool, expected: int
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    said: list[str] = []
    train(corpus(), settings(), training(steps=1, bf16=bf16), tmp_path / "run", say=said.append)
    assert sum("no products of bf16" in line for line in said) == expected


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    model = build_model(settings(), 0)
    torch.nn.init.constant_(model.lm_head.bias, torch.nan)
    with pytest.raises(NonFiniteLoss, match="the loss is nan at step 1; nothing was saved yet; try a smaller"):
        train(corpus(), settings(), training(skip_nonfinite=0), out, model=model, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_saves_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ReformerTrainer.compute_loss

    def interrupt(self: ReformerTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ReformerTrainer, "compute_loss", interrupt)
    with pytest.raises(Interrupted, match="interrupted at step 3"):
        train(corpus(), settings(), training(), tmp_path / "run", say=lambda _: None)
    assert load_checkpoint(tmp_path / "run").num_parameters() > 0


def test_folders_that_hold_something(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(corpus(), settings(), training(steps=1), out, say=lambda _: None)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match="holds another run or other files; choose another folder, or give --overwrite"
    ):
        train(corpus(), settings(), training(steps=1), out, say=lambda _: None)
    train(corpus(), settings(), training(steps=2), out, overwrite=True, say=lambda _: None)
    assert (out / "model.safetensors").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        folder(tmp_path / "mine", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        folder(tmp_path / "mine" / "thesis.txt")


def folder(out: Path, **options: Any) -> RunFolder:
    return RunFolder(out, Run(settings(), LanguageModelling(), training()), corpus(), **options)


def test_what_was_trained_is_never_lost(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(corpus(), settings(), training(steps=1), out, say=lambda _: None)
    before = (out / "model.safetensors").read_bytes()
    replacing = folder(out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.former", ".run.lock", "run"]
    replacing.discard()  # a run that failed
    assert (out / "model.safetensors").read_bytes() == before
    folder(out, overwrite=True)  # a run that was killed; the next one finds what it put aside
    folder(out, overwrite=True).discard()
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    folder(out, overwrite=True)
    (out / "tensorboard").mkdir()  # of a run that was killed, too
    folder(out, overwrite=True).discard()
    assert (out / "model.safetensors").read_bytes() == before
    replacing = folder(out, overwrite=True)
    replacing.save(build_model(settings(), 1).save_pretrained)
    replacing.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (out / "model.safetensors").read_bytes() != before

    (tmp_path / "link").symlink_to(out, target_is_directory=True)
    train(corpus(), settings(), training(steps=1), tmp_path / "link", overwrite=True, say=lambda _: None)
    assert (tmp_path / "link").is_symlink()
    assert load_checkpoint(out).num_parameters() > 0

    nested = folder(tmp_path / "a" / "b" / "c")
    nested.discard()
    assert not (tmp_path / "a").exists()


def test_two_runs_cannot_have_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = folder(out)
    before = (out / "run.toml").stat().st_mtime_ns
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match=r"another run is going on in .*/run; wait for its end, or give another"):
            folder(out, **options)
    assert (out / "run.toml").stat().st_mtime_ns == before
    first.discard()
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.training.test_run import folder\n"
        "held = folder(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(out)], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / ".run.lock").exists()
    folder(out).discard()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_before_the_first_step_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ReformerTrainer, "compute_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(corpus(), settings(), training(), tmp_path / "run", say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    learned = settings(position_embedding="learned", max_position_embeddings=32)
    for model, message in (
        (learned, "length=64 is over 32, the longest document of learned positions"),
        (settings(vocab_size=200, eos_token_id=1), "vocab_size=200 is too small for the tokenizer's 259 tokens"),
        (settings(causal=False), "causal=False"),
    ):
        with pytest.raises(ValueError, match=message):
            train(corpus(), model, training(), tmp_path / "run", say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_evaluation_is_exact_and_deterministic() -> None:
    model = build_model(settings(), 0).eval()
    documents = [Document("a", bytes(range(200))), Document("b", b"hello")]
    result = evaluate(model, documents, 50)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert evaluate(model, documents, 50) == result
    assert torch.equal(torch.get_rng_state(), state)
    assert result.bytes == 205
    assert abs(result.bits_per_byte - result.loss / math.log(2)) < 1e-12
    assert abs(result.perplexity - math.exp(result.loss)) < 1e-9
    batched = evaluate(model, documents, 50, batch_size=3)
    assert abs(batched.loss - result.loss) < 1e-5
    whole = evaluate(model, documents[1:], 50)
    tokens = torch.tensor([[1, *(b + 3 for b in b"hello")]])
    assert abs(whole.loss - model(tokens, labels=tokens).loss.item()) < 1e-6
    with pytest.raises(ValueError, match="no document"):
        evaluate(model, [], 50)
    with pytest.raises(ValueError, match="length=1 must be"):
        evaluate(model, documents, 1)


def test_generation_writes_bytes_and_follows_its_seed() -> None:
    model = build_model(settings(), 0).eval()

    def write(**sampling: Any) -> str:
        pieces: list[str] = []
        generate_text(model, b"the ", 20, pieces.append, Sampling(**sampling))
        return "".join(pieces)

    assert write(seed=1) == write(seed=1)
    assert write(seed=1) != write(seed=2)
    assert write(temperature=0.0) == write(temperature=0.0)
    assert 0 < len(write(seed=1, top_k=5, top_p=0.9)) <= 20
    limited = build_model(settings(position_embedding="learned", max_position_embeddings=16), 0)
    with pytest.raises(ValueError, match="the prompt's 5 tokens and 20 new ones are over 16"):
        generate_text(limited, b"the ", 20, print)


def test_run_files(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    given = settings(num_buckets=8, pad_token_id=None, eos_token_id=None, attention_pattern=("lsh",))
    run = Run(given, LanguageModelling(files=("a", "b")), training(length_schedule=("32:3",)))
    write_run_file(path, run)
    assert settings_of(path) == run
    for text, message in (
        ("[model]\nhiden_size = 3", "has no key 'hiden_size'; did you mean 'hidden_size'"),
        ("[model]\nlogit_scale = 0.5", "has no key 'logit_scale'; it is 'attention_scale' now"),
        (
            '[model]\nrule = "chunk"\nrule_version = 1\nlogit_scale = 0.5',
            "rule_version=1 is none that .* train the model",
        ),
        ("[models]\nhidden_size = 3", r"no table \[models\]; did you mean 'model'"),
        ("[model\n", "is no TOML file"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_run_file(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_run_file(tmp_path / "none.toml")


def test_what_was_left_open_is_the_same_run_as_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    runs = [Run(settings(successor_values=value), LanguageModelling(), training()) for value in (None, True, False)]
    write_run_file(path, runs[0])
    check_same_run(path, runs[1])
    with pytest.raises(ValueError, match="successor_values=False"):
        check_same_run(path, runs[2])
    write_run_file(path, Run(settings(causal=False), LanguageModelling(), training()))
    check_same_run(path, Run(settings(causal=False, successor_values=False), LanguageModelling(), training()))


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(corpus(), settings(), training(steps=1), out, say=lambda _: None)
    weights = out / "model.safetensors"
    config = json.loads((out / "config.json").read_text())

    def complains(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_checkpoint(out)

    weights.write_bytes(weights.read_bytes()[:5000])
    complains("holds no checkpoint that can be read")
    weights.unlink()
    complains("half a checkpoint")
    weights.write_bytes(b"")
    complains("holds no checkpoint that can be read")
    (out / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    complains("its model_type is 'gpt2', not 'reformer_torch'")
    (out / "config.json").write_text("[1]")
    complains("holds a list, not an object")
    (out / "config.json").write_text(json.dumps({**config, "attention_pattern": 3}))
    complains("attention_pattern=3 is of the wrong kind")
    (out / "config.json").write_text(json.dumps({**config, "rule_version": 9}))
    complains("rule_version=9 is none that this library computes")
    for rule in ("bucket", "chunk"):
        before = {name: value for name, value in config.items() if name not in ("attention_scale", "conv_size")}
        (out / "config.json").write_text(json.dumps({**before, "rule": rule, "rule_version": 1, "logit_scale": 1.0}))
        complains("rule_version=1 .* train the model again, or convert it again from the original")
    (out / "config.json").unlink()
    complains("config.json is missing")
    with pytest.raises(ValueError, match="is not a folder"):
        load_checkpoint(tmp_path / "none")


def test_documents_apart_do_not_see_each_other(tmp_path: Path) -> None:
    seen: list[Any] = []
    documents = [Document("a", b"one " * 40), Document("b", b"two " * 40)]
    original = ReformerTrainer.compute_loss

    def watch(self: ReformerTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs.get("segment_ids"))
        return original(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReformerTrainer, "compute_loss", watch)
        for mode in ("join", "apart"):
            data = LanguageModelling(documents=mode)
            options = training(length=300, batch_size=1, steps=1)
            train(corpus(documents), settings(), options, tmp_path / mode, task=data, say=lambda _: None)
    assert seen[0] is None
    assert seen[1][0].diff().abs().sum() == 1  # the one begins where the other ends
    assert seen[0] is None
    assert 300 - 161 <= seen[1][0].tolist().count(seen[1][0][-1]) <= 161


def test_tensorboard(tmp_path: Path) -> None:
    train(corpus(), settings(), training(steps=2, tensorboard=True), tmp_path / "run", say=lambda _: None)
    assert next((tmp_path / "run" / "tensorboard").glob("events.out*")).stat().st_size > 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length_schedule": ("64",)}, "must be LENGTH:STEP"),
        ({"length_schedule": ("32:4", "48:2")}, "must be over 4 and below steps=6"),
        ({"length_schedule": ("128:4",)}, "windows of 128 tokens, over length=64"),
        ({"patience": 2}, "eval_steps=0; set it"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lora": "x"}, "lora='x'"),
    ],
)
def test_settings_that_contradict(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**changes)


def test_fsdp_needs_torchrun(tmp_path: Path) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match="fsdp=true shards over the processes of torchrun, and this is one alone"):
        train(corpus(), settings(), training(fsdp=True), tmp_path / "run", say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_adafactor_is_not_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="fsdp=true together with optimizer='adafactor' is not supported"):
        train(corpus(), settings(), training(fsdp=True, optimizer="adafactor"), tmp_path / "run", say=lambda _: None)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("Gloo connectFullMesh failed with no error"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (torch.distributed.DistNetworkError("timed out"), True),
        (RunError("no room in gloo/transport"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("gloo/transport"), False),
    ],
)
def test_a_lost_process_is_told_from_a_bug(error: Exception, lost: bool) -> None:
    assert lost_peer(error) == lost


def test_a_restart_does_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="overwrite would replace the run that torchrun starts again"):
        train_verb.run(["text.txt", "--out", str(tmp_path / "run"), "--overwrite"])


def test_what_is_missing_in_a_checkpoint_is_an_exception(tmp_path: Path) -> None:
    model = build_model(settings(vocab_size=259), 1)
    save_file({"other": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(Exception, match="Missing key"):  # PyTorch's own is none
        load_weights(model, tmp_path)
