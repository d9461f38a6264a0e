"""A small model, and a server of it in this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import torch

from reformer.data.tokenizer import ByteTokenizer, Tokenizer
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.inference.serve.app import Server
from reformer.inference.serve.engine import Engine
from reformer.inference.serve.prefixes import Prefixes
from reformer.inference.serve.run import http, listen
from reformer.models import ReformerConfig, ReformerForCausalLM
from reformer.settings.serving import ServerSettings
from tests.over import over


def small_model(**settings: Any) -> ReformerForCausalLM:
    torch.manual_seed(0)
    small: dict[str, Any] = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = ReformerForCausalLM(ReformerConfig(**over(small, settings)))
    torch.nn.init.normal_(lm.lm_head.weight, std=0.3)  # else all tokens are alike
    return lm


def small_engine(model: ReformerForCausalLM, rows: int = 4, queue: int = 64, gib: float = 1.0) -> Engine:
    return Engine(model, ByteTokenizer(), Prefixes(int(gib * 2**30)), rows=rows, queue=queue)


def settle(engine: Engine) -> None:
    """Wait until nothing is left to do."""
    end = time.monotonic() + 30
    while engine.answers or engine.reading or engine.waiting:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.05)


class Running:
    """A server that runs, and how to ask it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.engine, self.port = server, server.engine, port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120, **options)


@contextmanager
def running(
    model: ReformerForCausalLM, tokenizer: Tokenizer | None = None, token: str | None = None, **limits: Any
) -> Iterator[Running]:
    settings = ServerSettings(port=0, **{"rows": 4, **limits})
    tokenizer = tokenizer or ByteTokenizer()
    engine = Engine(model, tokenizer, Prefixes(settings.prefix_bytes), rows=settings.rows, queue=settings.queue)
    server = Server(engine, tokenizer, "small", settings, token)
    with listen(settings) as listener:
        engine.start()
        speaking = http(server)
        thread = threading.Thread(target=speaking.run, args=([listener],))
        thread.start()
        try:
            yield Running(server, listener.getsockname()[1])
        finally:
            speaking.should_exit = True
            thread.join()
            engine.stop()


def generated(model: ReformerForCausalLM, prompt: str, tokens: int, **sampling: Any) -> str:
    """What `generate` gives."""
    written: list[str] = []
    generate_text(model, prompt.encode(), tokens, written.append, Sampling(**sampling))
    return "".join(written)
