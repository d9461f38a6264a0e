"""Folders of models and runs whose files are damaged or made to do harm."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.corpus import Document
from reformer.data.prepare import Corpus
from reformer.data.tokenizer import load_tokenizer, tokenizer_of, train_bpe
from reformer.errors import InputError
from reformer.interop.transformers.folder import convert_folder
from reformer.settings.run_file import Run, read_run_file
from reformer.tasks import tasks
from reformer.tasks.lm import LanguageModelling
from reformer.training.checkpoint import load_model
from reformer.training.finetune import check_init
from reformer.training.folder import check_same
from reformer.training.manifest import write_manifest
from reformer.training.run import NotResumed, find_checkpoint
from tests.hostile.mutations import DEEP, FUZZ, harmless, spoilt_bytes, spoilt_json, spoilt_safetensors
from tests.training.conftest import TEXT, settings, train, training

OPTIMIZER = "optimizer/optimizer.safetensors"

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run whose tokens are a BPE."""
    out = tmp_path_factory.mktemp("whole") / "run"
    tokenizer = train_bpe([TEXT[0].text], 300)
    train(Corpus.in_memory(TEXT, tokenizer=tokenizer), settings(), training(steps=4, save_steps=2), out)
    return out / "checkpoint-2"


def spoilt(name: str, whole: bytes) -> st.SearchStrategy[bytes]:
    if name.endswith(".json"):
        return st.one_of(spoilt_json(json.loads(whole)), spoilt_bytes(whole))
    if name.endswith(".safetensors"):
        return st.one_of(spoilt_safetensors(whole), spoilt_bytes(whole))
    return spoilt_bytes(whole)


def check_file(folder: Path, name: str, read: Callable[[], Any]) -> None:
    """Reading the folder does no harm, however one of its files is spoilt."""
    path = folder / name
    whole = path.read_bytes()

    @FUZZ
    @given(spoilt(name, whole))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        harmless(read)

    check()


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
)
def test_a_model_that_is_spoilt(checkpoint: Path, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "manifest.json").unlink()

    def read() -> None:
        harmless(lambda: tokenizer_of(folder))
        harmless(lambda: load_tokenizer(str(folder)))
        harmless(lambda: check_init(str(folder), settings(), type(load_model(folder))))
        load_model(folder)

    check_file(folder, name, read)


@pytest.mark.parametrize("name", ["run.toml", "origin.json", "manifest.json", "trainer_state.json", OPTIMIZER])
def test_a_checkpoint_that_is_spoilt(checkpoint: Path, name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    folder = out / "checkpoint-2"
    shutil.copytree(checkpoint, folder)
    run, corpus = (
        Run(settings(), LanguageModelling(), training(steps=4, save_steps=2)),
        Corpus.in_memory([Document("a", b"b")]),
    )

    def read() -> None:
        harmless(lambda: find_checkpoint(out, "auto", lambda _: None))
        harmless(lambda: check_same(folder, run, corpus))
        Run.of(read_run_file(folder / "run.toml", tasks()), tasks())

    check_file(folder, name, read)


@pytest.mark.parametrize(
    "name",
    [
        OPTIMIZER,
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("trainer_state.json", "schedule.json", "rng_state.pth")),
    ],
)
def test_a_forged_checkpoint_is_not_gone_on_from(checkpoint: Path, name: str, tmp_path: Path) -> None:
    """One whose manifest is right."""
    out = tmp_path / "run"
    folder = out / "checkpoint-2"
    corpus = Corpus.in_memory(TEXT, tokenizer=load_tokenizer(str(checkpoint)))
    shutil.copytree(checkpoint, folder)
    shutil.copy(folder / "run.toml", out)
    path = folder / name
    whole = path.read_bytes()
    for data in (b"", b"[]", b"{}", whole[: len(whole) // 2], b"[" * DEEP):
        path.write_bytes(data)
        write_manifest(folder)
        resume = find_checkpoint(out, "auto", lambda _: None)
        with pytest.raises(NotResumed, match="checkpoint-2 cannot be gone on from"):
            train(corpus, settings(), training(steps=4, save_steps=2), out, resume=resume)


RUN_FILES = [
    b"[model]\nhidden_size = " + b"9" * DEEP,
    b"[model]\nattention_pattern = " + b"[" * DEEP,
    b"a = " + b"{b = " * DEEP,
    b".".join([b"a"] * DEEP) + b" = 1",
    b"[model]\nnum_hidden_layers = 1000000000000",
    b"[training]\nlength_schedule = ['" + b"9" * DEEP + b":1']",
    b"[data]\nfiles = [1]",
    b"\xff\xfe",
    b"[model]\nhidden_size = nan",
    b"[training]\nlearning_rate = nan",
    b"[training]\nspike = nan\nclip = inf",
]


@pytest.mark.parametrize("text", RUN_FILES, ids=lambda text: text[:30].decode("latin-1"))
def test_run_files_made_to_do_harm(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text)
    with pytest.raises(InputError):
        Run.of(read_run_file(path, tasks()), tasks())


def test_run_files_that_are_spoilt(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"

    @FUZZ
    @given(spoilt_bytes((checkpoint / "run.toml").read_bytes()))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        harmless(lambda: Run.of(read_run_file(path, tasks()), tasks()))

    check()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_of_transformers_that_is_spoilt(checkpoint: Path, name: str, tmp_path: Path) -> None:
    import transformers

    folder, target = tmp_path / "theirs", tmp_path / "ours"
    config = transformers.ReformerConfig(
        attn_layers=["local", "lsh"], hidden_size=16, num_attention_heads=2, attention_head_size=8,
        feed_forward_size=16, axial_pos_shape=[4, 4], axial_pos_embds_dim=[8, 8], num_buckets=4, vocab_size=30,
        is_decoder=True,
    )  # fmt: skip
    transformers.ReformerModelWithLMHead(config).save_pretrained(folder)

    def read() -> None:
        shutil.rmtree(target, ignore_errors=True)
        convert_folder(folder, target, 16)

    check_file(folder, name, read)
