"""One request over HTTP: its jobs, what they tell, and the response, at once or as a stream."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from reformer.data.tokenizer import Tokenizer, as_text
from reformer.errors import InputError
from reformer.inference.serve.answer import Piece
from reformer.inference.serve.completions import Completions, choice, usage
from reformer.inference.serve.engine import Engine
from reformer.inference.serve.job import Begun, Event, Failed, Job
from reformer.inference.serve.prefixes import Tokens, as_tokens

Receive = Callable[[], Any]


class Gone(Exception):
    """The client is not there any more."""


class Broken(Exception):
    """The engine could not do it."""


@dataclass
class Exchange:
    """A request's jobs, and what came of them; made in the event loop."""

    request: Completions
    model: str
    jobs: list[Job]
    echoed: list[str]
    """What stands in front of each answer."""
    events: asyncio.Queue[Event | None]
    known: int = 0
    new: int = 0
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def happenings(self, receive: Receive) -> AsyncGenerator[Begun | Piece]:
        """What the jobs tell until all is told. Raises `Gone` once the client went, `Broken` if a job failed."""
        watching = asyncio.create_task(self._watch(receive))
        left = len(self.jobs) * (1 + self.request.n if self.request.longest else 1)
        try:
            while left:
                event = await self.events.get()
                if event is None:
                    raise Gone
                if isinstance(event, Failed):
                    raise Broken(event.message)
                if isinstance(event, Begun):
                    self.known += event.known
                    left -= 1
                elif event.finish is not None:
                    self.new += event.tokens
                    left -= 1
                yield event
        finally:
            watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.events.put_nowait(None)

    def shown(self, event: Begun | Piece) -> list[dict[str, Any]]:
        """The choices that an event adds to: of a prompt that was read, where it is echoed or nothing follows it."""
        wanted = self.request.logprobs is not None
        if isinstance(event, Piece):
            return [choice(event.index, event.text, event.logprobs, event.finish, logprobs=wanted)]
        if not self.request.echo:
            return []
        finish = None if self.request.longest else "length"
        indices = range(event.index, event.index + self.request.n)
        return [choice(index, self.echoed[index], event.logprobs, finish, logprobs=wanted) for index in indices]

    def body(self, choices: list[dict[str, Any]], *, whole: bool) -> dict[str, Any]:
        """A response, or one piece of it; usage where it is the whole, or the last piece."""
        made = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        counted = usage(sum(len(job.prompt) for job in self.jobs), self.known, self.new) if whole else None
        return {**made, "choices": choices, "usage": counted}

    async def at_once(self, receive: Receive) -> dict[str, Any]:
        """The whole response."""
        parts: list[list[dict[str, Any]]] = [[] for _ in self.echoed]
        async for event in self.happenings(receive):
            for one in self.shown(event):
                parts[one["index"]].append(one)
        return self.body([joined(of_one) for of_one in parts], whole=True)

    async def stream(self, receive: Receive) -> AsyncGenerator[bytes]:
        """The response as server-sent events."""
        async for event in self.happenings(receive):
            choices = [one for one in self.shown(event) if one["text"] or one["logprobs"] or one["finish_reason"]]
            if choices:
                yield sent(self.body(choices, whole=False))
        if self.request.include_usage:
            yield sent(self.body([], whole=True))
        yield b"data: [DONE]\n\n"


class Prompt(NamedTuple):
    """A prompt as tokens."""

    tokens: Tokens
    text: str
    """What is echoed of it, if anything is."""
    is_text: bool
    """Whether it was given as a text."""


def read_prompts(request: Completions, engine: Engine, tokenizer: Tokenizer, longest: int) -> list[Prompt]:
    """The prompts of a request. Raises InputError for one that is too long."""
    room, prompts = engine.model.config.settings.length_limit, []
    for prompt in request.prompts:
        if isinstance(prompt, list):
            tokens, text = as_tokens(prompt), tokenizer.as_bytes(prompt).decode("utf-8", "replace")
        else:
            tokens, text = tokens_of(as_text(prompt), tokenizer), prompt
        if len(tokens) > longest:
            raise InputError(f"the prompt's {len(tokens):,} tokens are over the limit of {longest:,}")
        if room is not None and len(tokens) + request.longest > room:
            raise InputError(
                f"the prompt's {len(tokens)} tokens and max_tokens={request.longest} are over {room}, the longest "
                "document of this model"
            )
        prompts.append(Prompt(tokens, text if request.echo else "", isinstance(prompt, str)))
    return prompts


def begin(request: Completions, prompts: Sequence[Prompt], model: str) -> Exchange:
    """An exchange whose jobs nobody has yet, in the event loop that it belongs to."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    jobs = [
        Job(
            prompt.tokens,
            i * request.n,
            request.n,
            request.longest,
            request.sampling,
            request.stop,
            tell,
            logprobs=request.logprobs,
            of_prompt=request.echo and request.logprobs is not None,
            offset=len(prompt.text),
            hidden_start=prompt.is_text,
        )
        for i, prompt in enumerate(prompts)
    ]
    return Exchange(request, model, jobs, [prompt.text for prompt in prompts for _ in range(request.n)], events)


def tokens_of(text: bytes, tokenizer: Tokenizer) -> Tokens:
    """Those of a text, behind the start of one."""
    return np.concatenate(([tokenizer.end], tokenizer.encode([text])[0].astype(np.int64)))


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """A choice from what came to it."""
    told = [one["logprobs"] for one in parts]
    logprobs = None
    if told and told[0] is not None:
        logprobs = {name: [x for each in told for x in each[name]] for name in told[0]}
    last = parts[-1]
    return {**last, "text": "".join(one["text"] for one in parts), "logprobs": logprobs}


def sent(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(value)}\n\n".encode()
