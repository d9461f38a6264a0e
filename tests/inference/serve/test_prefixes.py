"""Which caches of prompts are kept, found, and written to files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reformer.inference.serve.prefixes import MOST, Prefixes, Tokens, as_tokens
from reformer.models import ReformerCache, ReformerForCausalLM, save_cache
from tests.inference.serve.serving import small_model


@pytest.fixture(scope="module")
def model() -> ReformerForCausalLM:
    return small_model().eval()


def text(seed: int, length: int = 300) -> Tokens:
    return np.random.default_rng(seed).integers(3, 259, length)


@torch.no_grad()
def read(model: ReformerForCausalLM, prompt: Tokens) -> ReformerCache:
    cache = ReformerCache(model.config)
    model(torch.from_numpy(prompt)[None], past_key_values=cache)
    return cache


def test_the_longest_is_found(model: ReformerForCausalLM) -> None:
    prefixes, long = Prefixes(1 << 30), text(0)
    for length in (100, 300, 200):
        prefixes.add(long[:length], read(model, long[:length]))
    prefixes.add(text(1), read(model, text(1)))
    cases = [
        (long, 299),  # the last token is to be computed
        (np.concatenate((long, text(2, 5))), 300),
        (np.concatenate((long[:250], text(2, 50))), 250),  # of 300, taken back
        (np.concatenate((long[:210], text(2, 50))), 200),  # 300 cannot be taken back as far
        (np.concatenate((long[:90], text(2, 50))), 90),
        (long[:50], 49),
        (text(1), 299),
    ]
    for prompt, known in cases:
        cache, found = prefixes.longest(prompt) or (None, 0)
        assert cache is not None
        assert found == cache.seen == known
    for prompt in (text(3), long[:1], long[:30]):
        assert prefixes.longest(prompt) is None
    assert prefixes.longest(as_tokens([5])) is None


def test_where_a_prompt_leaves_the_known_ones(model: ReformerForCausalLM) -> None:
    prefixes, long = Prefixes(1 << 30), text(0, 1000)
    prefixes.add(long, read(model, long))
    assert prefixes.fork(np.concatenate((long[:500], text(1))), 0) == 500
    assert prefixes.fork(np.concatenate((long[:500], text(1))), 480) is None  # too few
    assert prefixes.fork(np.concatenate((long[:20], text(1))), 0) is None
    assert prefixes.fork(text(2), 0) is None
    assert prefixes.fork(long[:500], 0) is None  # its own end is kept anyway


def test_memory_is_bounded_and_the_oldest_goes(model: ReformerForCausalLM) -> None:
    one = read(model, text(0))
    prefixes = Prefixes(1 << 30)
    prefixes.add(text(0), one)
    prefixes.most_bytes = int(3.5 * prefixes.bytes)
    for seed in (1, 2):
        prefixes.add(text(seed), read(model, text(seed)))
    assert prefixes.longest(text(0))
    prefixes.add(text(3), read(model, text(3)))
    assert [prefixes.longest(text(seed)) is not None for seed in range(4)] == [True, False, True, True]
    assert prefixes.bytes <= prefixes.most_bytes
    prefixes.add(text(4), read(model, text(4)), pinned=True)
    for seed in range(5, 12):
        prefixes.add(text(seed), read(model, text(seed)))
    assert prefixes.longest(text(4))
    prefixes.add(text(5, 20000), read(model, text(5, 20000)))  # larger than all there is
    assert prefixes.longest(text(5, 20000)) is None
    prefixes.add(text(20, 30), read(model, text(20, 30)))  # too short to be worth it
    prefixes.add(text(21), read(model, text(21)), known=295)
    assert prefixes.longest(text(20, 30)) is prefixes.longest(text(21)) is None


def test_so_many_and_no_more(model: ReformerForCausalLM) -> None:
    prefixes = Prefixes(1 << 40)
    cache = read(model, text(0, 64))
    for seed in range(MOST + 3):
        prefixes.add(text(seed, 64), cache)
    assert len(prefixes.kept) == MOST


def test_files(model: ReformerForCausalLM, tmp_path: Path) -> None:
    prefixes = Prefixes(1 << 30)
    for seed in range(3):
        prefixes.add(text(seed), read(model, text(seed)))
    prefixes.save(tmp_path, model)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "spoilt.cache").write_bytes(b"no cache")
    again = Prefixes(1 << 30)
    (said,) = again.load(tmp_path, model)
    assert "spoilt.cache" in said
    assert said.endswith("it is left out")
    cache, known = again.longest(np.concatenate((text(1), text(9)))) or (None, 0)
    assert known == 300
    end = torch.from_numpy(text(9, 5))[None]
    with torch.no_grad():
        got = model(end, past_key_values=cache).logits
        wanted = model(torch.cat((torch.from_numpy(text(1))[None], end), 1)).logits[:, -5:]
    assert torch.allclose(got, wanted, atol=1e-4)
    again.most_bytes = again.bytes
    again.add(text(5), read(model, text(5)))  # for which another one goes
    assert again.save(tmp_path, model) == []
    left = {path.name for path in tmp_path.iterdir()}
    assert {"notes.txt", "spoilt.cache"} < left
    assert len(left & set(names)) == 2
    assert len(left) == 5


def test_files_of_another_model_stay(model: ReformerForCausalLM, tmp_path: Path) -> None:
    prefixes, other = Prefixes(1 << 30), small_model(num_hashes=2).eval()
    prefixes.add(text(0), read(other, text(0)))
    prefixes.save(tmp_path, other)
    mine = Prefixes(1 << 30)
    (said,) = mine.load(tmp_path, model)
    assert "another model" in said
    assert not mine.kept
    mine.save(tmp_path, model)
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_others_wrote_stay(model: ReformerForCausalLM, tmp_path: Path) -> None:
    for name, seed in (("short", 30), ("long", 300)):
        save_cache(read(model, text(7, seed)), tmp_path / f"{name}.cache", model, torch.from_numpy(text(7, seed))[None])
    prefixes = Prefixes(1 << 30)
    assert prefixes.load(tmp_path, model) == []
    assert len(prefixes.kept) == 1  # the short one is not worth it
    prefixes.most_bytes = 0
    prefixes.kept = []
    prefixes.save(tmp_path, model)
    assert {path.name for path in tmp_path.iterdir()} == {"short.cache", "long.cache"}


def test_a_folder_that_cannot_be_written(model: ReformerForCausalLM, tmp_path: Path) -> None:
    prefixes = Prefixes(1 << 30)
    prefixes.add(text(0), read(model, text(0)))
    prefixes.add(text(1), read(model, text(1)))
    (tmp_path / f".{prefixes.kept[0].name}.partial").mkdir()  # in the way
    (said,) = prefixes.save(tmp_path, model)
    assert said.startswith("a prompt of 300 tokens is not kept: ")
    assert len(list(tmp_path.glob("[!.]*.cache"))) == 1


def test_a_cache_that_cannot_go_back_as_far(model: ReformerForCausalLM) -> None:
    """One that was cropped and then read on goes back to where it could go before."""
    prefixes, long = Prefixes(1 << 30), text(0, 355)
    cache = read(model, long)
    cache.crop(-55)
    prefixes.add(long[:300], cache)
    found = prefixes.longest(np.concatenate((long[:294], text(1, 20))))
    assert found is not None
    assert found[1] == 294
    assert prefixes.longest(np.concatenate((long[:280], text(1, 20)))) is None
    assert prefixes.longest(np.concatenate((long[:300], text(1, 20)))) is not None
