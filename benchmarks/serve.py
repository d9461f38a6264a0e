"""A server under load: tokens a second by clients, requests behind a long prompt, lost answers, cancelled requests.

    python serve.py
    python serve.py --context 4096 --requests 50 --tokens 40

The server is a process of its own (`reformer serve`), its model 6 layers of width 256 with 4 heads and random weights;
clients are threads with OpenAI's client. Every answer is compared with what `generate` gives with the same seed.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import openai
import torch
from machine import save

import reformer
from reformer.data.tokenizer import ByteTokenizer
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling

LETTERS = "abcdefghijklmnop \n"
NO_END = {"1": -100}  # answers as long as they may be
ONE_BYTE = dict.fromkeys(map(str, (1, *range(131, 259))), -100)  # characters that a token completes


def text(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS, k=length))


def model_in(folder: Path) -> Any:
    torch.manual_seed(0)
    config = reformer.ReformerConfig(vocab_size=259, hidden_size=256, num_hidden_layers=6, num_attention_heads=4)
    model = reformer.ReformerForCausalLM(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    model.save_pretrained(folder)
    ByteTokenizer().save(folder)
    return model


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[openai.OpenAI, int]]:
    """A client of a server, and the server's process."""
    command = [sys.executable, "-m", "reformer", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = next(found for line in process.stderr if (found := re.search(r"http://\S+/v1", line)))
            with openai.OpenAI(base_url=found[0], api_key="none", max_retries=0, timeout=600) as client:
                yield client, process.pid
        finally:
            process.terminate()


def resident(pid: int) -> float:
    """Memory of its own of a process, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def throughput(client: openai.OpenAI, clients: int, tokens: int) -> dict[str, Any]:
    """Tokens a second of all clients together, each with two answers one after the other."""

    def ask(i: int) -> int:
        options = {"max_tokens": tokens, "seed": i, "logit_bias": NO_END}
        got = client.completions.create(model="model", prompt=text(i, 900 + 50 * i), **options)
        return int(got.usage.completion_tokens)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))  # their prompts are known from now on
        begun = time.perf_counter()
        written = sum(pool.map(ask, [*range(clients)] * 2))
        seconds = time.perf_counter() - begun
    return {"clients": clients, "tokens": written, "tokens a second": round(written / seconds, 1)}


def first_token(client: openai.OpenAI, prompt: str) -> tuple[float, int]:
    """Seconds to the first text, and how much of the prompt was known."""
    begun, first = time.perf_counter(), 0.0
    options: dict[str, Any] = {"max_tokens": 3, "seed": 1, "logit_bias": ONE_BYTE}
    usage = None
    for piece in client.completions.create(
        model="model", prompt=prompt, stream=True, stream_options={"include_usage": True}, **options
    ):
        first = first or time.perf_counter() - begun
        usage = piece.usage
    assert usage is not None
    return first, usage.prompt_tokens_details.cached_tokens


def behind(client: openai.OpenAI, context: int) -> dict[str, Any]:
    """Requests with few tokens of their own, alone and behind a long prompt: the first of these reads it."""
    prompt, own = text(7, context - 1), [text(100 + i, 32) for i in range(12)]
    alone = [first_token(client, each)[0] for each in own]
    first, _ = first_token(client, prompt + own[0])
    later = [first_token(client, prompt + each) for each in own[1:]]
    assert all(known >= context for _, known in later)
    return {
        "context": context,
        "own tokens": 32,
        "alone, first token s": round(median(alone), 4),
        "first request s": round(first, 2),
        "later requests, first token s": round(median(seconds for seconds, _ in later), 4),
        "the second one s": round(later[0][0], 4),
        "slowest s": round(max(seconds for seconds, _ in later), 4),
    }


def lost(client: openai.OpenAI, model: Any, requests: int, tokens: int) -> dict[str, Any]:
    """Answers that differ from what `generate` gives, of 8 clients' requests."""

    def ask(i: int) -> tuple[str, str, int]:
        chance = random.Random(i)
        prompt = text(i % 7, 300 * (i % 7)) + text(1000 + i, chance.randrange(40))
        count = chance.randrange(1, tokens)
        options: dict[str, Any] = {"model": "model", "prompt": prompt, "max_tokens": count, "seed": i}
        if i % 2:
            return (
                prompt,
                "".join(one.choices[0].text for one in client.completions.create(**options, stream=True)),
                count,
            )
        return prompt, client.completions.create(**options).choices[0].text, count

    begun = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(requests)))
    seconds, wrong = time.perf_counter() - begun, 0
    for i, (prompt, got, count) in enumerate(answers):
        wanted: list[str] = []
        generate_text(model, prompt.encode(), count, wanted.append, Sampling(seed=i))
        wrong += got != "".join(wanted)
    return {"requests": requests, "answers": len(answers), "different": wrong, "seconds": round(seconds, 1)}


def cancelled(client: openai.OpenAI, pid: int, requests: int) -> dict[str, Any]:
    """What requests leave behind that are cancelled in the middle."""

    def ask(i: int) -> None:
        options: dict[str, Any] = {"max_tokens": 4000, "seed": i, "logit_bias": NO_END, "stream": True}
        stream = client.completions.create(model="model", prompt=text(i % 5, 400 * (i % 5)) + f"{i}", **options)
        for _ in range(i % 4):
            next(iter(stream), None)
        stream.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(requests // 10)))
        before = resident(pid)
        list(pool.map(ask, range(requests // 10, requests + requests // 10)))
    time.sleep(2)
    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics"), timeout=30) as answer:
        metrics = answer.read().decode()
    left = dict(re.findall(r"^reformer_(answers|reading|waiting) (\S+)", metrics, re.MULTILINE))
    return {"cancelled": requests, "left": left, "MiB before": round(before), "MiB after": round(resident(pid))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        model = model_in(folder)
        with serving(folder) as (client, pid):
            found = {
                "by clients": [throughput(client, clients, arguments.tokens) for clients in (1, 2, 4, 8)],
                "behind a long prompt": behind(client, arguments.context),
                "8 clients": lost(client, model, arguments.requests, 30),
                "cancelled": cancelled(client, pid, arguments.requests),
            }
    for name, part in found.items():
        print(name)
        for row in part if isinstance(part, list) else [part]:
            print("  ", row)
    save("serve", [found])


if __name__ == "__main__":
    main()
