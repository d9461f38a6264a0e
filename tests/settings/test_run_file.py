"""Run files: every field through every kind of value, and files laid over each other."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from reformer.ops.spec import Octaves
from reformer.settings.model import RULE_VERSION, ModelSettings
from reformer.settings.presets import load_preset, preset_names
from reformer.settings.run_file import Run, check_same_run, lay, read_run_file, read_tables, write_run_file
from reformer.settings.training import TrainingSettings
from reformer.tasks import tasks
from reformer.tasks.lm import LanguageModelling


def values_of(kind: Any) -> Iterator[Any]:
    """What a field of that kind may hold: every choice, and of numbers and texts some, "none" among them."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif get_origin(kind) is tuple:
        yield from ((), *((value, value) for value in values_of(get_args(kind)[0])))
    elif kind is NoneType:
        yield None
    elif kind in (bool, int, float, str):
        yield from {bool: (True, False), int: (0, 1, 7), float: (0.0, 0.5, 3), str: ("", "none", "a b", "ü\n")}[kind]
    else:
        for part in get_args(kind):
            yield from values_of(part)


KINDS = [("model", ModelSettings), ("training", TrainingSettings), *(("data", kind) for kind in tasks().values())]


@pytest.mark.parametrize(("table", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_field_comes_back_with_every_value(table: str, kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for field in fields(kind):
        hint = get_type_hints(kind)[field.name]
        for value in values_of(hint) if field.name != "rule_version" else [RULE_VERSION]:
            assert not (str in get_args(hint) and NoneType in get_args(hint) and field.default is not None), field.name
            settings = object.__new__(kind)  # not checked: a value alone may not go with the others' defaults
            settings.__dict__.update({each.name: each.default for each in fields(kind)} | {field.name: value})
            write_run_file(path, replace(Run.of({}), **{table: settings}))
            read = read_run_file(path, tasks()).get(table, {}).get(field.name, field.default)
            assert (read, type(read)) == (value, type(value)), field.name


def test_what_is_left_open_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_run_file(path, Run.of({}))
    tables = read_run_file(path)
    assert not {"head_dim", "vocab_size", "window", "num_buckets", "successor_values"} & set(tables["model"])
    assert not {"init", "lora"} & set(tables["training"])
    assert Run.of(tables) == Run.of({})
    other = Run.of({**tables, "model": {**tables["model"], "hidden_size": 512}})
    assert other.model == ModelSettings(hidden_size=512)
    assert (other.model.head_width, other.model.feed_forward_width) == (128, 2048)


@pytest.mark.parametrize("position_embedding", ["none", "rotary"])
def test_the_same_run_is_the_same(position_embedding: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    run = Run(
        ModelSettings(position_embedding=position_embedding, pad_token_id=None), LanguageModelling(), TrainingSettings()
    )
    write_run_file(path, run)
    assert Run.of(read_run_file(path, tasks()), tasks()) == run
    check_same_run(path, run)
    check_same_run(path, replace(run, model=run.model.worked_out()))
    for other in ({"position_embedding": "sinusoidal"}, {"pad_token_id": 0}, {"head_dim": 32}, {"window": 16}):
        (name,) = other
        with pytest.raises(ValueError, match=rf"was trained with other settings: {name}="):
            check_same_run(path, replace(run, model=replace(run.model, **other)))  # type: ignore[arg-type]


def test_what_differs_is_named_without_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_run_file(path, Run.of({}))
    wider = Run.of({"model": {"hidden_size": 512, "rule": "chunk"}})
    with pytest.raises(
        ValueError, match=r"settings: hidden_size=512 \(it has 256\), rule='chunk' \(it has 'bucket'\);"
    ):
        check_same_run(path, wider)


def test_presets_are_read_as_run_files_are() -> None:
    for name in preset_names():
        Run.of(load_preset(name))
    with pytest.raises(ValueError, match=r"here: \[model\] has no key 'hiden_size'; did you mean 'hidden_size'"):
        read_tables("[model]\nhiden_size = 3", "here")
    tables = read_tables('[model]\nattention_pattern = ["lsh"]\npad_token_id = "none"', "here")
    assert tables == {"model": {"attention_pattern": ("lsh",), "pad_token_id": None}}


def test_what_goes_with_another_rule_is_dropped_and_said() -> None:
    said: list[str] = []
    below = {"model": {"window": 16, "bucket_size": 8, "num_buckets": 64, "local_window": 9, "hidden_size": 32}}
    laid = lay(below, {"model": {"rule": "chunk", "chunk_length": 8}}, said.append)
    assert laid["model"] == {"hidden_size": 32, "local_window": 9, "rule": "chunk", "chunk_length": 8}
    assert said == [
        "bucket_size=8 is dropped: it goes with another rule than rule='chunk'",
        "num_buckets=64 is dropped: it goes with another rule than rule='chunk'",
        "window=16 is dropped: it goes with another rule than rule='chunk'",
    ]
    assert below["model"]["window"] == 16
    back = lay(laid, {"model": {"rule": "bucket", "local_rule": "chunk"}}, said.append)["model"]
    assert back == {"hidden_size": 32, "rule": "bucket", "local_rule": "chunk"}
    assert isinstance(ModelSettings(**back).lsh.rule, Octaves)
    assert lay(below, {"model": {"rule": "bucket"}}, said.append)["model"]["window"] == 16
    assert len(said) == 5
    rings = {"model": {"rule": "chunk", "length_multiple": 6, "lsh_rotary": True, "hash_rotations": "own"}}
    assert lay(rings, {"model": {"rule": "bucket"}}, said.append)["model"] == {"rule": "bucket"}
    assert [line.split("=")[0] for line in said[5:]] == ["length_multiple", "lsh_rotary"]  # the third is as it would be
    chunks = {"model": {**rings["model"], "local_rule": "chunk"}}
    assert lay(chunks, {"model": {"rule": "bucket"}}, said.append)["model"]["length_multiple"] == 6
    both = lay({}, {"model": {"rule": "chunk", "window": 8}}, said.append)  # in the same breath
    with pytest.raises(ValueError, match="window=8 goes with rule='bucket'"):
        Run.of(both)


def test_what_goes_with_another_task_is_refused_or_dropped_and_said() -> None:
    for values, message in (
        ({"mask": 0.2}, "mask is for task='mlm', and task is 'lm'; leave it out"),
        ({"task": "qa", "label_field": "x"}, "label_field is for task='classify' and task='tag', and task is 'qa'"),
        ({"task": "guess"}, "task='guess'"),
        ({"feild": "x"}, r"no key 'feild'; did you mean 'field'"),
    ):
        with pytest.raises(ValueError, match=message):
            Run.of({"data": values}, tasks())
    assert Run.of({"data": {"mask": 0.15}}, tasks()).data == LanguageModelling()  # as it would be
    said: list[str] = []
    below = {"data": {"task": "classify", "field": "body", "label_field": "kind"}}
    assert lay(below, {"data": {"task": "tag"}}, said.append, tasks())["data"]["label_field"] == "kind"
    assert lay(below, {"data": {"task": "mlm"}}, said.append, tasks())["data"] == {"task": "mlm", "field": "body"}
    assert said == ["label_field='kind' is dropped: it is not for task='mlm'"]


def test_a_run_of_another_task_is_another(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_run_file(path, Run.of({"data": {"task": "mlm"}}, tasks()))
    with pytest.raises(ValueError, match="was trained for task='mlm', not 'lm'"):
        check_same_run(path, Run.of({}, tasks()))
