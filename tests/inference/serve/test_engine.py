"""What the engine does with jobs, without HTTP."""

import queue
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from reformer.data.tokenizer import ByteTokenizer
from reformer.errors import InputError
from reformer.inference.sampling import Sampling
from reformer.inference.serve.answer import Answer, Piece
from reformer.inference.serve.engine import Engine, Full
from reformer.inference.serve.exchange import tokens_of
from reformer.inference.serve.job import Begun, Failed, Job
from reformer.layers.caches.rows import RowsOf
from reformer.models import CacheRows, ReformerForCausalLM
from tests.inference.serve.serving import generated, settle, small_engine, small_model


@pytest.fixture(scope="module")
def model() -> ReformerForCausalLM:
    return small_model()


def make_job(prompt: str, longest: int, events: "queue.Queue[Any]", n: int = 1, **sampling: Any) -> Job:
    tokens = tokens_of(prompt.encode(), ByteTokenizer())
    return Job(tokens, 0, n, longest, Sampling(**{"seed": 0, **sampling}), (), events.put)


def texts_of(events: "queue.Queue[Any]", n: int = 1) -> list[str]:
    """The answers, once they are there."""
    parts, ended = ["" for _ in range(n)], 0
    while ended < n:
        event = events.get(timeout=60)
        assert not isinstance(event, Failed), event
        if isinstance(event, Piece):
            parts[event.index] += event.text
            ended += event.finish is not None
    return parts


@pytest.fixture
def engine(model: ReformerForCausalLM) -> Any:
    engine = small_engine(model)
    engine.start()
    yield engine
    engine.stop()


CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("def f(x):", 20, {"temperature": 0.0}),
    ("def f(x):" * 40, 25, {"temperature": 0.8, "seed": 3}),
    ("", 12, {"seed": 1}),
    ("to be or " * 9, 30, {"seed": 5, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.3}),
    ("a" * 700, 9, {"seed": 5, "min_p": 0.05, "temperature": 1.7}),
    ("abcabcabcabcabc" * 3, 30, {"seed": 2, "dry_multiplier": 1.0, "dry_allowed_length": 2}),
]


def test_each_answer_is_what_generate_gives(model: ReformerForCausalLM, engine: Engine) -> None:
    wanted = [generated(model, *case[:2], **case[2]) for case in CASES]
    order = list(range(len(CASES))) * 4
    random.Random(0).shuffle(order)
    waiting = []
    for i in order:
        waiting.append(queue.Queue())
        prompt, longest, sampling = CASES[i]
        engine.submit([make_job(prompt, longest, waiting[-1], **sampling)])
        if len(waiting) % 5 == 0:
            time.sleep(0.05)  # some begin in the middle of others
    assert [texts_of(events)[0] for events in waiting] == [wanted[i] for i in order]
    settle(engine)
    assert engine.counts.answered == len(order)
    assert engine.counts.steps < engine.counts.new_tokens  # they shared steps
    assert not engine.batch.is_initialized


def test_several_answers_to_a_prompt(model: ReformerForCausalLM, engine: Engine) -> None:
    events: queue.Queue[Any] = queue.Queue()
    engine.submit([make_job("def f", 15, events, n=4, seed=7)])
    assert texts_of(events, 4) == [generated(model, "def f", 15, seed=7 + i) for i in range(4)]


@pytest.mark.parametrize("settings", [{"attention_pattern": ("local", "full")}, {"num_buckets": 4, "window": 8}])
def test_other_models(settings: dict[str, Any]) -> None:
    model = small_model(**settings)
    engine, waiting = small_engine(model), [queue.Queue[Any]() for _ in range(3)]
    engine.start()
    prompts = ["x = 1\n" * 60, "y", "x = 1\n" * 60 + "y"]
    engine.submit([make_job(prompt, 20, events, seed=1) for prompt, events in zip(prompts, waiting, strict=True)])
    assert [texts_of(events)[0] for events in waiting] == [generated(model, prompt, 20, seed=1) for prompt in prompts]
    engine.stop()


def known_of(events: "queue.Queue[Any]") -> int:
    event = events.get(timeout=60)
    assert isinstance(event, Begun)
    return event.known


def test_what_prompts_have_in_common_is_read_once(model: ReformerForCausalLM, engine: Engine) -> None:
    text = "".join(random.Random(0).choices("abcdef ", k=3000))
    known = []
    for end in ("one", "another", "a third", "one"):
        events: queue.Queue[Any] = queue.Queue()
        engine.submit([make_job(text + end, 10, events, seed=1)])
        known.append(known_of(events))
        assert texts_of(events) == [generated(model, text + end, 10, seed=1)]
    # the ends are in reach of the first prompt's cache: it is taken back by a few tokens
    assert known == [0, len(text) + 1, len(text) + 1, len(text) + 3]
    known = []
    for end in ("x" * 200, "y" * 200, "z" * 200):
        events = queue.Queue()
        engine.submit([make_job(text[:2000] + end, 10, events, seed=1)])
        known.append(known_of(events))
        assert texts_of(events) == [generated(model, text[:2000] + end, 10, seed=1)]
    assert known == [0, 2001, 2001]  # the first of these leaves a cache where it left the text


def test_a_preloaded_prompt(model: ReformerForCausalLM) -> None:
    engine, text = small_engine(model, gib=0.05), "import os\n" * 150
    engine.preload(tokens_of(text.encode(), ByteTokenizer()))
    engine.start()
    for i in range(12):  # that fill the memory
        events: queue.Queue[Any] = queue.Queue()
        engine.submit([make_job(f"{i}" * 3000, 1, events)])
        texts_of(events)
    assert engine.prefixes.bytes <= 0.05 * 2**30
    events = queue.Queue()
    engine.submit([make_job(text + "x", 5, events, seed=1)])
    assert known_of(events) == len(text) + 1
    assert texts_of(events) == [generated(model, text + "x", 5, seed=1)]
    engine.stop()
    with pytest.raises(InputError, match="raise it"):
        small_engine(model, gib=0.0001).preload(tokens_of(text.encode(), ByteTokenizer()))


def test_cancelled_jobs_stop(engine: Engine) -> None:
    for _ in range(3):
        waiting = [queue.Queue[Any]() for _ in range(12)]
        jobs = [make_job("x" * 900 * (i % 2), 4000, events, seed=i) for i, events in enumerate(waiting)]
        engine.submit(jobs)
        waiting[0].get(timeout=60)
        engine.cancel(jobs)
        settle(engine)
        assert not engine.batch.is_initialized
        assert all(job.cache is None for job in jobs)


def test_the_queue_has_an_end(model: ReformerForCausalLM) -> None:
    engine, events = small_engine(model, rows=2, queue=3), queue.Queue[Any]()
    for _ in range(2 + 3):  # it does not run yet
        engine.submit([make_job("x", 5, events)])
    with pytest.raises(Full):
        engine.submit([make_job("x", 5, events)])
    engine.start()
    texts_of(events)
    engine.stop()
    with pytest.raises(Full):
        engine.submit([make_job("x", 5, events)])


def test_a_failure_ends_what_it_concerns(model: ReformerForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, real, wanted = small_engine(model), model.forward, generated(model, "fine", 20, seed=1)
    failing = threading.Event()

    def forward(tokens: torch.Tensor, **options: Any) -> Any:
        if failing.is_set() and tokens.shape[1] == 1:
            options["past_key_values"].within = True
            raise RuntimeError("no luck")
        if (tokens == 3 + ord("!")).any():
            raise MemoryError("too much")
        return real(tokens, **options)

    monkeypatch.setattr(model, "forward", forward)
    engine.start()
    good, bad = queue.Queue[Any](), queue.Queue[Any]()
    engine.submit([make_job("fine", 20, good, seed=1), make_job("not fine!", 20, bad)])
    assert bad.get(timeout=60) == Failed("MemoryError: too much")
    assert texts_of(good) == [wanted]
    failing.set()
    engine.submit([make_job("fine", 20, good)])
    with pytest.raises(AssertionError, match="no luck"):
        texts_of(good)
    failing.clear()
    engine.submit([make_job("fine", 20, good, seed=1)])
    assert texts_of(good) == [wanted]
    assert engine.counts.failures == 2
    engine.stop()


def test_a_row_that_cannot_leave_takes_nobody_later_with_it(
    model: ReformerForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, wanted = small_engine(model), generated(model, "fine", 20, seed=1)
    engine.start()
    for name, layer in (("join", RowsOf), ("leave", CacheRows)):
        real = getattr(layer, name)

        def fail(*_: Any) -> None:
            monkeypatch.undo()
            raise RuntimeError("no memory")

        monkeypatch.setattr(layer, name, fail)
        events: queue.Queue[Any] = queue.Queue()
        engine.submit([make_job("unlucky", 4, events)])
        while not isinstance(event := events.get(timeout=30), Failed | Piece) or getattr(event, "finish", "") is None:
            pass
        settle(engine)
        assert getattr(layer, name) is real
        good: queue.Queue[Any] = queue.Queue()
        engine.submit([make_job("fine", 20, good, seed=1)])
        assert texts_of(good) == [wanted]
    engine.stop()


def test_a_bad_answer_ends_alone(model: ReformerForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, real, wanted = small_engine(model), Answer.take, generated(model, "fine", 20, seed=1)

    def take(self: Answer, logits: torch.Tensor) -> Piece:
        if self.written == 5 and self.stop == ["bad"]:
            raise RuntimeError("bad")
        return real(self, logits)

    monkeypatch.setattr(Answer, "take", take)
    engine.start()
    good, bad = queue.Queue[Any](), queue.Queue[Any]()
    jobs = [make_job("fine", 20, good, seed=1), make_job("fine", 20, bad, seed=1)]
    jobs[1].stop = ("bad",)
    engine.submit(jobs)
    assert texts_of(good) == [wanted]
    with pytest.raises(AssertionError, match="bad"):
        texts_of(bad)
    engine.stop()


def test_a_stop_ends_all(model: ReformerForCausalLM) -> None:
    engine, waiting = small_engine(model, rows=1), [queue.Queue[Any]() for _ in range(3)]
    engine.start()
    endless = {ByteTokenizer().end: -100.0}
    engine.submit([make_job("x", 4000, events, logit_bias=endless) for events in waiting])
    waiting[0].get(timeout=60)
    engine.stop()
    for events in waiting:
        while not isinstance(event := events.get(timeout=10), Failed):
            pass
        assert event == Failed("the server stops")


def test_a_model_without_a_cache() -> None:
    with pytest.raises(InputError, match="no cache"):
        small_engine(small_model(rule="chunk"))


def test_log_probabilities_of_a_prompt(model: ReformerForCausalLM, engine: Engine) -> None:
    events: queue.Queue[Any] = queue.Queue()
    job = make_job("def f(é):" * 80, 3, events, seed=1)
    job.logprobs, job.of_prompt = 3, True
    engine.submit([job])
    told = events.get(timeout=60).logprobs
    with torch.no_grad():
        wanted = model(torch.from_numpy(job.prompt)[None]).logits[0].log_softmax(-1)
    assert np.allclose(
        [one.logprob for one in told], wanted[:-1].gather(1, torch.from_numpy(job.prompt[1:, None]))[:, 0], atol=1e-4
    )
    assert all(len(one.top) in (3, 4) and max(one.top.values()) >= one.logprob for one in told)
    assert told[6].offset == told[7].offset == 6  # é is two tokens
    assert told[8].offset == 7
