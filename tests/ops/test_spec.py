"""What an attention is, written down once."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from reformer import LSHAttention, lsh_attention
from reformer.layers.attention import LocalAttention
from reformer.ops.attention import local_attention
from reformer.ops.flat import flatten, unflatten
from reformer.ops.spec import LSH, OPTIONS, Band, Chunks, Local, Octaves, make_local, make_lsh

OTHER_VALUES: dict[type, dict[str, Any]] = {
    Octaves: {"window": 3, "bucket_size": 5, "num_buckets": 8, "factor_from": 16},
    Chunks: {"length": 3, "before": 2, "after": 4, "multiple": 6, "factors": (4, 10)},
    Band: {"window": 7},
    LSH: {
        "rule": Chunks(factors=(2,)),
        "causal": False,
        "rounds": 2,
        "rounds_eval": 6,
        "share_rotations": True,
        "hash_rotations": "transformers",
        "hash_seed": 9,
        "scale": 0.5,
        "duplicates": "once",
        "successor_values": True,
        "dropout": 0.25,
        "part_of": (1, 3),
    },
    Local: {"rule": Chunks(), "causal": False, "scale": 0.5, "dropout": 0.25, "part_of": (1, 3)},
}


@pytest.mark.parametrize("kind", OTHER_VALUES, ids=lambda kind: kind.__name__)
def test_every_field_goes_to_an_operator_and_comes_back(kind: Any) -> None:
    values = OTHER_VALUES[kind]
    assert set(values) == {field.name for field in fields(kind)}, "a new field belongs into this test"
    plain = kind(rule=Chunks(factors=(2,))) if "rule" in values else kind()
    for changes in ({}, values, *({name: value} for name, value in values.items())):
        made = replace(plain, **changes)
        spec = made if kind in (LSH, Local) else (Local if kind is Band else LSH)(rule=made)
        again = unflatten(flatten(spec))
        assert again == spec
        assert hash(again) == hash(spec)
        assert vars(again).keys() == vars(spec).keys()
        assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(spec).values()]


def test_what_is_left_open_is_worked_out() -> None:
    assert Octaves(16) == Octaves(16, 16)
    assert LSH() == LSH(successor_values=True)
    assert LSH(causal=False) == LSH(causal=False, successor_values=False)
    assert LSH(rounds=2, rounds_eval=5, dropout=0.5).in_evaluation() == LSH(rounds=5, rounds_eval=5)
    assert Chunks(8).fitted(1000).factors == (128,)
    assert Octaves(64).fitted(10) == Octaves(10, 10)


OF_THE_OTHER_RULE = [
    ("chunk", {"window": 8}, "window=8 goes with rule='bucket' and the rule is 'chunk': leave one out"),
    ("chunk", {"bucket_size": 8}, "bucket_size=8 goes with rule='bucket'"),
    ("chunk", {"factor_from": 8}, "factor_from=8 goes with rule='bucket'"),
    ("bucket", {"chunk_length": 8}, "chunk_length=8 goes with rule='chunk' and the rule is 'bucket'"),
    ("bucket", {"chunks_before": 0}, "chunks_before=0 goes with rule='chunk'"),
    ("bucket", {"chunks_after": 0}, "chunks_after=0 goes with rule='chunk'"),
    ("bucket", {"length_multiple": 2}, "length_multiple=2 goes with rule='chunk'"),
]


@pytest.mark.parametrize(("rule", "options", "message"), OF_THE_OTHER_RULE)
def test_options_of_the_other_rule_are_refused(rule: str, options: dict[str, int], message: str) -> None:
    q = torch.randn(1, 1, 8, 4)
    with pytest.raises(ValueError, match=message):
        lsh_attention(q, q, rule=rule, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        LSHAttention(8, 2, rule=rule, **options)
    if rule == "bucket":
        message = message.replace("bucket", "window")
        with pytest.raises(ValueError, match=message):
            local_attention(q, q, q, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            LocalAttention(8, 2, **options)


def test_local_chunks_have_no_window() -> None:
    q = torch.randn(1, 1, 8, 4)
    with pytest.raises(ValueError, match="window=8 goes with rule='window' and the rule is 'chunk'"):
        local_attention(q, q, q, rule="chunk", window=8)


def test_public_names() -> None:
    lsh = make_lsh(num_hashes=3, num_hashes_eval=4, window=5, bucket_size=6, num_buckets=8, factor_from=2, causal=False)
    assert lsh == LSH(rule=Octaves(5, 6, 8, 2), rounds=3, rounds_eval=4, causal=False)
    chunks = {"chunk_length": 3, "chunks_before": 0, "chunks_after": 2, "length_multiple": 4}
    assert make_lsh("chunk", **chunks, num_buckets=[4, 6]).rule == Chunks(3, 0, 2, 4, (4, 6))
    assert make_local("chunk", **chunks).rule == Chunks(3, 0, 2, 4)
    assert make_local(window=5) == Local(rule=Band(5))
    names = {name for kind in (LSH, Octaves, Chunks) for name in OPTIONS[kind]} - {"dropout"}
    assert names - {"num_hashes_eval", "hash_seed", "hash_rotations"} <= set(lsh_attention.__annotations__)
