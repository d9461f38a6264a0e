"""`generate` gives what the model by hand gives, over a cache or without."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer, TextStreamer

from reformer.models import ReformerCache, ReformerForCausalLM
from tests.models.conftest import Make

ALL: dict[str, Any] = {"attention_pattern": ("local", "lsh", "full"), "eos_token_id": None}


def prompt(rows: int = 2, length: int = 7) -> Tensor:
    return torch.randint(3, 40, (rows, length))


def greedy_by_hand(lm: ReformerForCausalLM, x: Tensor, new: int) -> Tensor:
    for _ in range(new):
        x = torch.cat((x, lm(x).logits[:, -1:].argmax(-1)), 1)
    return x


@pytest.mark.parametrize(
    "settings", [ALL, {"rule": "chunk", "chunk_length": 8, "num_buckets": 4}, {"local_rule": "chunk"}], ids=str
)
def test_greedy_equals_greedy_by_hand(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**({"eos_token_id": None} | settings)).eval()
    x = prompt()
    assert torch.equal(lm.generate(x, max_new_tokens=30, do_sample=False), greedy_by_hand(lm, x, 30))


def test_left_padded_prompts_give_what_they_give_alone(make: Make) -> None:
    lm = make(**ALL).eval()
    short, long = prompt(1, 4), prompt(1, 9)
    batch = torch.cat((torch.cat((torch.zeros(1, 5, dtype=torch.long), short), 1), long))
    out = lm.generate(batch, attention_mask=(batch != 0).long(), max_new_tokens=20, do_sample=False)
    assert torch.equal(out[0, 9:], lm.generate(short, max_new_tokens=20, do_sample=False)[0, 4:])
    assert torch.equal(out[1, 9:], lm.generate(long, max_new_tokens=20, do_sample=False)[0, 9:])


SAMPLING: list[dict[str, Any]] = [
    {"do_sample": True, "top_k": 10, "top_p": 0.9, "temperature": 1.5},
    {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.3},
    {"do_sample": True, "num_return_sequences": 3},
    {"num_beams": 3, "do_sample": False, "num_return_sequences": 2},
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_the_same_tokens_with_and_without_a_cache(make: Make, sampling: dict[str, Any]) -> None:
    lm, x, drawn = make(**ALL).eval(), prompt(), []
    for use_cache in (True, False):
        torch.manual_seed(3)
        drawn.append(lm.generate(x, max_new_tokens=30, use_cache=use_cache, **sampling))
    assert torch.equal(*drawn)


def test_assisted_and_prompt_lookup_give_greedys_tokens(make: Make) -> None:
    lm, x = make(**ALL).eval(), prompt(1).repeat(1, 4)
    greedy = lm.generate(x, max_new_tokens=60, do_sample=False)
    assert torch.equal(lm.generate(x, max_new_tokens=60, do_sample=False, prompt_lookup_num_tokens=5), greedy)
    draft = make(num_hidden_layers=1, **ALL).eval()
    assert torch.equal(lm.generate(x, max_new_tokens=60, do_sample=False, assistant_model=draft), greedy)
    chunk = make(rule="chunk", chunk_length=8, num_buckets=4, eos_token_id=None).eval()
    with pytest.raises(ValueError, match="need a cache, which this model has not"):
        chunk.generate(x, max_new_tokens=5, do_sample=False, prompt_lookup_num_tokens=5)


def test_a_prompt_in_pieces_and_a_cache_that_goes_on(make: Make) -> None:
    lm, x = make(**ALL).eval(), prompt(2, 50)
    whole = lm.generate(x, max_new_tokens=20, do_sample=False)
    assert torch.equal(lm.generate(x, max_new_tokens=20, do_sample=False, prefill_chunk_size=8), whole)
    cache = ReformerCache(lm.config)
    half = lm.generate(x, max_new_tokens=10, do_sample=False, past_key_values=cache)
    assert cache.get_seq_length() == 59
    assert torch.equal(lm.generate(half, max_new_tokens=10, do_sample=False, past_key_values=cache), whole)


def test_a_cache_goes_by_either_name(make: Make) -> None:
    lm, x = make().eval(), torch.randint(3, 40, (1, 30))
    texts = []
    for name in ("past_key_values", "cache"):
        cache = ReformerCache(lm.config)
        lm(x[:, :20], past_key_values=cache)
        texts.append(lm.generate(x, max_new_tokens=5, do_sample=False, **{name: cache}))
        assert cache.seen == 34
    assert torch.equal(*texts)


def test_a_cache_of_the_prompt_serves_many_texts(make: Make) -> None:
    lm, x = make(**ALL).eval(), prompt(1, 5).repeat(1, 6)
    greedy = lm.generate(x, max_new_tokens=12, do_sample=False)
    for cached in (30, 20, 1):
        for assisted in ({}, {"prompt_lookup_num_tokens": 3}):
            cache = ReformerCache(lm.config)
            lm(x[:, :cached], past_key_values=cache)
            out = lm.generate(x, max_new_tokens=12, do_sample=False, past_key_values=cache, **assisted)
            assert torch.equal(out, greedy)
            assert cache.get_seq_length() == 41
    with pytest.raises(ValueError, match="holds 41 tokens and the text has 30"):
        lm.generate(x, max_new_tokens=12, past_key_values=cache)
    new = lm.generate(
        x[:, 20:], attention_mask=torch.ones_like(x), max_new_tokens=12, do_sample=False, past_key_values=half(lm, x)
    )
    assert torch.equal(new[:, 10:], greedy[:, 30:])


def half(lm: ReformerForCausalLM, x: Tensor) -> ReformerCache:
    cache = ReformerCache(lm.config)
    lm(x[:, :20], past_key_values=cache)
    return cache


@pytest.mark.slow
def test_long_drafts(make: Make) -> None:
    lm, x = make(**ALL).eval(), prompt(1, 5).repeat(1, 50)
    greedy = lm.generate(x, max_new_tokens=150, do_sample=False)
    assert torch.equal(lm.generate(x, max_new_tokens=150, do_sample=False, prompt_lookup_num_tokens=100), greedy)
    draft = make(num_hidden_layers=1, **ALL).eval()
    draft.generation_config.num_assistant_tokens = 100
    assert torch.equal(lm.generate(x, max_new_tokens=150, do_sample=False, assistant_model=draft), greedy)


def test_streamers_embeddings_and_stops(make: Make) -> None:
    lm, x = make(**ALL).eval(), prompt(1)
    pieces: list[str] = []

    class Numbers:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return " ".join(map(str, tokens)) + " "

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)

    out = lm.generate(x, max_new_tokens=9, do_sample=False, streamer=Streamer(Numbers()))
    assert "".join(pieces).split() == [str(token) for token in out[0].tolist()]
    embedded = lm.generate(
        inputs_embeds=lm.get_input_embeddings()(x), max_new_tokens=9, do_sample=False, pad_token_id=0
    )
    assert torch.equal(embedded, out[:, 7:])
    stop = int(out[0, 10])
    stopped = lm.generate(x, max_new_tokens=9, do_sample=False, eos_token_id=stop)
    assert stopped[0, -1] == stop
    assert stopped.shape[1] == 7 + out[0, 7:].tolist().index(stop) + 1


def test_several_stop_strings(make: Make) -> None:
    tokenizer = ByT5Tokenizer()
    lm = make(vocab_size=len(tokenizer), **ALL).eval()
    x = tokenizer("to be", add_special_tokens=False, return_tensors="pt").input_ids
    letters = range(ord("a") + 3, ord("z") + 4)
    options = {"do_sample": True, "suppress_tokens": [i for i in range(len(tokenizer)) if i not in letters]}
    texts = []
    for strings in (None, ["never!"], ["y", "z", "x"]):
        stop = {"stop_strings": strings, "tokenizer": tokenizer} if strings else {}
        torch.manual_seed(1)
        out = lm.generate(x, max_new_tokens=80, **stop, **options)
        texts.append(tokenizer.decode(out[0, 5:]))
    free, never, stopped = texts
    assert free == never
    assert stopped == free[: min(free.find(letter) for letter in "xyz" if letter in free) + 1]


def test_a_model_in_training_generates_without_a_cache(make: Make) -> None:
    lm = make(**ALL)
    assert lm.training
    assert lm.generate(prompt(), max_new_tokens=3).shape == (2, 10)


def test_what_generate_refuses(make: Make) -> None:
    lm = make(**ALL).eval()
    with pytest.raises(ValueError, match="a cache of its own"):
        lm.generate(prompt(), max_new_tokens=3, cache_implementation="static")
    with pytest.raises(ValueError, match="is a tuple"):
        lm.generate(prompt(), max_new_tokens=3, past_key_values=())
    with pytest.raises(ValueError, match="at least one token"):
        lm.generate(prompt(1, 0), max_new_tokens=3)
    learned = make(position_embedding="learned", max_position_embeddings=10, **ALL).eval()
    with pytest.raises(ValueError, match="longest document"):
        learned.generate(prompt(), max_new_tokens=10)
