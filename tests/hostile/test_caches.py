"""What the library keeps for itself, damaged or made to do harm: decoding caches, prepared text, the index of files."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from reformer.data.prepare import Corpus, prepare
from reformer.errors import InputError
from reformer.models import ReformerCache, ReformerConfig, ReformerForCausalLM, load_cache, save_cache
from reformer.models.cache_file import _hash
from reformer.settings.data import DataSettings
from tests.hostile.mutations import FUZZ, harmless, spoilt_bytes, spoilt_safetensors


def lm() -> ReformerForCausalLM:
    torch.manual_seed(0)
    config = ReformerConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, window=8, local_window=8)
    config.attention_pattern = ("local", "lsh", "full")
    return ReformerForCausalLM(config).eval()


def saved(model: ReformerForCausalLM, path: Path) -> None:
    x = torch.randint(3, 259, (2, 70))
    mask = torch.ones_like(x)
    mask[1, :9] = 0
    cache = ReformerCache(model.config, crop_limit=4)
    with torch.no_grad():
        model(x, attention_mask=mask, past_key_values=cache)
    save_cache(cache, path, model, x)


def go_on(model: ReformerForCausalLM, path: Path) -> None:
    """Load a cache and take a step with it."""
    cache, ids = load_cache(path, model)
    with torch.no_grad():
        mask = torch.ones(len(cache.lengths), cache.seen + 1) if cache.padding is None else None
        if mask is None:
            mask = torch.cat((~cache.padding, torch.ones(len(cache.lengths), 1, dtype=torch.bool)), 1)
        model(torch.full((len(cache.lengths), 1), 7), attention_mask=mask, past_key_values=cache)
        if ids is not None:
            model(ids, past_key_values=ReformerCache(model.config))


def test_a_cache_that_is_spoilt(tmp_path: Path) -> None:
    model, path = lm(), tmp_path / "cache"
    saved(model, path)
    go_on(model, path)
    whole = path.read_bytes()

    @FUZZ
    @given(st.one_of(spoilt_bytes(whole), spoilt_safetensors(whole)))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        harmless(lambda: go_on(model, path))

    check()


def test_a_flipped_bit_in_a_cache_is_seen(tmp_path: Path) -> None:
    model, path = lm(), tmp_path / "cache"
    saved(model, path)
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match="cache is damaged: it does not hold what was written; compute"):
        load_cache(path, model)


def test_a_forged_cache_reaches_no_kernel(tmp_path: Path) -> None:
    """One with a right hash, whose tensors have other shapes, types or numbers."""
    model, path = lm(), tmp_path / "cache"
    saved(model, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    whole = {name: x.clone() for name, x in tensors.items()}

    @FUZZ
    @given(st.data())
    def check(data: st.DataObject) -> None:
        forged, said = dict(whole), dict(metadata)
        name = data.draw(st.sampled_from(sorted(forged)))
        x = forged[name]
        kind = data.draw(st.sampled_from(["numbers", "type", "axis", "gone", "more", "said"]))
        if kind == "numbers" and not x.is_floating_point():
            forged[name] = torch.full_like(x, data.draw(st.sampled_from([-1, 0, 1, 69, 71, 2**40, -(2**60)])))
        elif kind == "type":
            forged[name] = x.to(data.draw(st.sampled_from([torch.float64, torch.int32, torch.bool, torch.float16])))
        elif kind == "axis":
            axis = data.draw(st.integers(0, x.dim() - 1))
            size = data.draw(st.sampled_from([0, 1, x.shape[axis] + 1, 2 * x.shape[axis]]))
            forged[name] = x.index_select(axis, torch.arange(size) % x.shape[axis])
        elif kind == "gone":
            del forged[name]
        elif kind == "more":
            forged["layers.9.rows"] = x.clone()
        else:
            key = data.draw(st.sampled_from(sorted(said)))
            said[key] = data.draw(st.sampled_from(["", "x", "-1", "0", "5", "70", "9" * 30, "[]", "{}", str(2**60)]))
        save_file({key: x.contiguous() for key, x in forged.items()}, path, {**said, "tensors": _hash(forged)})
        harmless(lambda: go_on(model, path))

    check()


def prepared(tmp_path: Path) -> Corpus:
    text = tmp_path / "a.jsonl"
    if not text.exists():
        text.write_text("".join(f'{{"text": "row {i} of some text"}}\n' for i in range(40)))
    return prepare(DataSettings(files=(str(text),), tokenizer="bpe:280"), cache=tmp_path / "cache")


def test_prepared_text_that_is_spoilt_is_prepared_again_or_refused(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    whole = before.train.part(0, len(before.train)).tolist()
    places = ("places.npz", "tokens.bin", "contents.sqlite", "tokenizer.json", "tokenizer_config.json")
    files = [path for name in places for path in (tmp_path / "cache").rglob(name)]
    assert len(files) == 5
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "cache", kept)

    @FUZZ
    @given(st.data())
    def check(data: st.DataObject) -> None:
        shutil.rmtree(tmp_path / "cache")
        shutil.copytree(kept, tmp_path / "cache")
        path = data.draw(st.sampled_from(files))
        path.write_bytes(data.draw(spoilt_bytes(path.read_bytes())))
        try:
            corpus = prepared(tmp_path)
            tokens = corpus.train.part(0, len(corpus.train))
        except InputError:
            return
        assert tokens.max() < corpus.tokenizer.vocabulary
        if path.name in ("places.npz", "contents.sqlite"):
            assert sorted(tokens.tolist()) == sorted(whole) or path.name == "places.npz"

    check()
