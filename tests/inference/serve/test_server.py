"""The server as the client of OpenAI's interface sees it."""

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch

from reformer.data.tokenizer import train_bpe
from reformer.models import ReformerForCausalLM
from tests.inference.serve.serving import Running, generated, running, settle, small_model

LETTERS = "abcdefgh "


@pytest.fixture(scope="module")
def model() -> ReformerForCausalLM:
    return small_model()


@pytest.fixture(scope="module")
def served(model: ReformerForCausalLM) -> Iterator[Running]:
    with running(model, max_tokens=3000, queue=100) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def fetched(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_completion(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    got = client.completions.create(model="small", prompt="def f", max_tokens=20, seed=1, temperature=0.9)
    assert got.choices[0].text == generated(model, "def f", 20, seed=1, temperature=0.9)
    assert got.choices[0].finish_reason == "length"
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (6, 20, 26)
    assert got.id.startswith("cmpl-")
    assert (got.model, got.object) == ("small", "text_completion")
    assert abs(got.created - time.time()) < 60


def test_a_stream(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    pieces = list(client.completions.create(model="small", prompt="é", max_tokens=30, seed=2, **options))
    assert len(pieces) > 10
    *written, last = pieces
    assert "".join(one.choices[0].text for one in written) == generated(model, "é", 30, seed=2)
    assert [one.choices[0].finish_reason for one in written][-1] == "length"
    assert not last.choices
    assert last.usage is not None
    assert last.usage.completion_tokens == 30
    assert len({one.id for one in pieces}) == 1


def test_several_prompts_and_answers(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    prompts = ["one", "two " * 50, "three"]
    got = client.completions.create(model="small", prompt=prompts, max_tokens=9, seed=5, n=3)
    wanted = [generated(model, prompt, 9, seed=5 + 3 * i + j) for i, prompt in enumerate(prompts) for j in range(3)]
    assert [one.text for one in got.choices] == wanted
    assert [one.index for one in got.choices] == list(range(9))
    seen = ["" for _ in range(9)]
    for piece in client.completions.create(model="small", prompt=prompts, max_tokens=9, seed=5, n=3, stream=True):
        seen[piece.choices[0].index] += piece.choices[0].text
    assert seen == wanted


def test_prompts_of_tokens(client: openai.OpenAI) -> None:
    text = client.completions.create(model="small", prompt="ab", max_tokens=9, temperature=0).choices[0].text
    tokens = [1, 3 + ord("a"), 3 + ord("b")]
    got = client.completions.create(model="small", prompt=tokens, max_tokens=9, temperature=0, echo=True)
    assert got.choices[0].text == "ab" + text


def test_echo_with_log_probabilities(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    """What lm-eval and others ask of a server to score a text."""
    for prompt in ("a text", [3 + ord(c) for c in "a text"]):
        got = client.completions.create(model="small", prompt=prompt, max_tokens=0, echo=True, logprobs=2)  # type: ignore[arg-type]
        (choice,) = got.choices
        assert (choice.text, choice.finish_reason) == ("a text", "length")
        told = choice.logprobs
        assert told is not None
        assert told.tokens == list("a text")
        assert told.text_offset == list(range(6))
        tokens = torch.tensor([[*([1] if isinstance(prompt, str) else []), *(3 + ord(c) for c in "a text")]])
        with torch.no_grad():
            wanted = model(tokens).logits[0].log_softmax(-1)[:-1].gather(1, tokens[0, 1:, None])[:, 0].tolist()
        assert told.token_logprobs is not None
        assert told.token_logprobs[-len(wanted) :] == pytest.approx(wanted, abs=1e-4)
        assert len(told.token_logprobs) == 6
        assert isinstance(prompt, str) or told.token_logprobs[0] is None
    got = client.completions.create(model="small", prompt="ab", max_tokens=3, echo=True, logprobs=0, seed=1)
    told = got.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.top_logprobs is not None
    assert got.choices[0].text == "ab" + generated(model, "ab", 3, seed=1)
    assert all(len(one) == 1 for one in told.top_logprobs)
    assert len(told.tokens) == 5


def test_biases_and_penalties(client: openai.OpenAI) -> None:
    x = str(3 + ord("x"))
    got = client.completions.create(model="small", prompt="a", max_tokens=9, temperature=0, logit_bias={x: 100})
    assert got.choices[0].text == "x" * 9
    options: dict[str, Any] = {"logit_bias": {x: 30}, "presence_penalty": 50, "temperature": 0}
    got = client.completions.create(model="small", prompt="xxx", max_tokens=9, **options)
    assert got.choices[0].text.count("x") == 1  # only what was written counts
    options = {"logit_bias": {x: 95}, "frequency_penalty": 20, "temperature": 0}
    got = client.completions.create(model="small", prompt="a", max_tokens=40, **options)
    assert 2 < got.choices[0].text.count("x") < 7


def test_a_stop(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    text = generated(model, "q", 40, seed=4)
    stop = text[17:19]
    got = client.completions.create(model="small", prompt="q", max_tokens=40, seed=4, stop=[stop, "never"])
    assert got.choices[0].text == text[: text.index(stop)]
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert got.usage.completion_tokens <= 40


def test_a_known_beginning_is_not_read_again(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    text = "".join(random.Random(1).choices(LETTERS, k=1500))
    known = []
    for end in ("x", "yes", "x"):
        got = client.completions.create(model="small", prompt=text + end, max_tokens=12, seed=3)
        assert got.choices[0].text == generated(model, text + end, 12, seed=3)
        assert got.usage is not None
        assert got.usage.prompt_tokens_details is not None
        known.append(got.usage.prompt_tokens_details.cached_tokens)
    assert known == [0, 1501, 1501]


def test_models_health_and_metrics(client: openai.OpenAI, served: Running) -> None:
    assert [one.id for one in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("large")
    assert fetched(f"{served.url}/health") == (200, '{"status":"ok"}')
    status, text = fetched(f"{served.url}/metrics")
    assert status == 200
    assert 'reformer_requests_total{status="200"}' in text
    assert "# HELP reformer_prefix_bytes Memory" in text
    assert fetched(f"{served.url}/v1/completions")[0] == 405
    assert fetched(f"{served.url}/v1/nothing")[0] == 404


def test_what_is_refused(client: openai.OpenAI, model: ReformerForCausalLM) -> None:
    with pytest.raises(openai.BadRequestError, match="from 0 to 3000"):
        client.completions.create(model="small", prompt="a", max_tokens=10**6)
    with pytest.raises(openai.NotFoundError, match="'small' alone"):
        client.completions.create(model="large", prompt="a")
    with running(model, max_prompt=50, max_body=2000, timeout=2, max_tokens=10**6) as narrow, narrow.client() as one:
        with pytest.raises(openai.BadRequestError, match="51 tokens are over the limit of 50"):
            one.completions.create(model="small", prompt="a" * 50)
        with pytest.raises(openai.APIStatusError, match="over 2,000 bytes") as caught:
            one.completions.create(model="small", prompt="a" * 3000)
        assert caught.value.status_code == 413
        with pytest.raises(openai.APIStatusError, match=r"no end within 2 s") as caught:
            one.completions.create(model="small", prompt="a", max_tokens=10**6, logit_bias={"1": -100})
        assert caught.value.status_code == 504
        settle(narrow.engine)
        assert one.completions.create(model="small", prompt="a", max_tokens=1).choices
    learned = small_model(position_embedding="learned", max_position_embeddings=20)
    with running(learned) as short, short.client() as one, pytest.raises(openai.BadRequestError, match="are over 20"):
        one.completions.create(model="small", prompt="a" * 15)


def test_a_token_for_access(model: ReformerForCausalLM) -> None:
    with running(model, token="secret-ü".encode().hex()) as closed:
        for key in ("wrong", "secret", "ü"):
            assert fetched(f"{closed.url}/v1/models", Authorization=f"Bearer {key}")[0] == 401
        with closed.client("wrong") as stranger, pytest.raises(openai.AuthenticationError):
            stranger.completions.create(model="small", prompt="a")
        assert fetched(f"{closed.url}/v1/models")[0] == 401
        assert fetched(f"{closed.url}/metrics")[0] == 401
        assert fetched(f"{closed.url}/health")[0] == 200
        with closed.client("secret-ü".encode().hex()) as friend:
            assert friend.completions.create(model="small", prompt="a", max_tokens=1).choices


def test_a_full_queue(model: ReformerForCausalLM) -> None:
    with running(model, rows=1, queue=1, max_tokens=5000) as busy, busy.client() as client:
        options: dict[str, Any] = {"max_tokens": 5000, "stream": True, "logit_bias": {"1": -100}}
        first = client.completions.create(model="small", prompt="a", **options)
        next(iter(first))
        with ThreadPoolExecutor() as pool:
            second = pool.submit(client.completions.create, model="small", prompt="b", max_tokens=3)
            while not busy.engine.waiting:
                time.sleep(0.01)
            with pytest.raises(openai.RateLimitError, match="come again later") as caught:
                client.completions.create(model="small", prompt="c")
            assert caught.value.response.headers["retry-after"] == "1"
            first.close()  # which makes room
            assert second.result(timeout=60).choices
        assert busy.server.requests[429] == 1
        settle(busy.engine)
        assert busy.server.requests[499] == 1


def test_cancelled_requests_leave_nothing_behind(model: ReformerForCausalLM) -> None:
    with running(model, max_tokens=5000, queue=1000) as served, served.client() as client:
        options: dict[str, Any] = {"max_tokens": 5000, "stream": True, "logit_bias": {"1": -100}}
        for i in range(30):
            stream = client.completions.create(model="small", prompt="word " * (i % 7), **options)
            for _ in range(i % 3):
                next(iter(stream))
            stream.close()
        hurried = served.client().with_options(timeout=0.2)
        for _ in range(5):
            with pytest.raises(openai.APITimeoutError):
                hurried.completions.create(model="small", prompt="a", max_tokens=5000, logit_bias={"1": -100})
        hurried.close()
        settle(served.engine)
        assert not served.engine.batch.is_initialized
        assert served.server.requests[499] == 35
        text = client.completions.create(model="small", prompt="a", max_tokens=9, seed=1).choices[0].text
        assert text == generated(model, "a", 9, seed=1)


def ask(client: openai.OpenAI, i: int) -> tuple[int, str, int, str]:
    """A request of many kinds, and its answer."""
    chance = random.Random(i)
    shared = "".join(random.Random(i % 5).choices(LETTERS, k=400 * (i % 5)))
    prompt, tokens = shared + "".join(chance.choices(LETTERS, k=chance.randrange(30))), chance.randrange(1, 25)
    options: dict[str, Any] = {"model": "small", "prompt": prompt, "max_tokens": tokens, "seed": i}
    if i % 2:
        return i, prompt, tokens, "".join(p.choices[0].text for p in client.completions.create(**options, stream=True))
    return i, prompt, tokens, client.completions.create(**options).choices[0].text


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_answer_is_lost_or_mixed_up(
    client: openai.OpenAI, served: Running, model: ReformerForCausalLM, count: int
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: ask(client, i), range(count)))
    assert [i for i, *_ in answers] == list(range(count))
    for i, prompt, tokens, text in answers:
        assert text == generated(model, prompt, tokens, seed=i), i
    settle(served.engine)
    assert served.engine.prefixes.bytes <= served.engine.prefixes.most_bytes


def test_another_tokenizer() -> None:
    """The end of a prompt may be cut otherwise once more follows it; the cache is then taken back by a few tokens."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away", "again"]
    text = " ".join(random.Random(0).choices(words, k=400))
    tokenizer = train_bpe([text.encode()], 300)
    with running(small_model(vocab_size=300), tokenizer) as served, served.client() as client:
        known = []
        for prompt in (text, text + "s and more"):
            got = client.completions.create(model="small", prompt=prompt, max_tokens=5, temperature=0, logprobs=1)
            assert got.usage is not None
            assert got.usage.prompt_tokens_details is not None
            known.append(got.usage.prompt_tokens_details.cached_tokens)
            assert got.choices[0].logprobs is not None
        assert known[0] == 0
        assert known[1] is not None
        assert known[1] > 0.9 * got.usage.prompt_tokens


def test_prompts_are_not_logged(model: ReformerForCausalLM, caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        for log in (False, True):
            with running(model, log_prompts=log) as served, served.client() as client:
                client.completions.create(model="small", prompt="a secret", max_tokens=2)
            assert ("a secret" in caplog.text) == log
    finally:
        logging.disable_propagation()


def test_bodies_are_ascii_json(served: Running) -> None:
    body = json.dumps({"prompt": "\ud800é", "echo": True, "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{served.url}/v1/completions", body, {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.loads(answer.read())["choices"][0]["text"].startswith("\ud800é")
