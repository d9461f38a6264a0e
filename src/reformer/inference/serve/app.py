"""The HTTP application: OpenAI's completions and models, health and metrics."""

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from transformers.utils import logging

from reformer.data.tokenizer import Tokenizer
from reformer.errors import InputError
from reformer.inference.serve.completions import Completions, UnknownModel, error_body, parse
from reformer.inference.serve.engine import Engine, Full
from reformer.inference.serve.exchange import Broken, Exchange, Gone, Prompt, begin, read_prompts
from reformer.inference.serve.metrics import exposition
from reformer.settings.serving import ServerSettings

logger = logging.get_logger(__name__)

CLOSED = 499
"""What the metrics call a request whose client went."""

BODY_SECONDS = 30
"""What a client has to send its request."""


class TooLarge(Exception):
    """A body over the limit."""


class Server:
    """Answers requests through an engine; `token`: what a client has to show, if anything."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, name: str, limits: ServerSettings, token: str | None = None
    ) -> None:
        self.engine, self.tokenizer, self.name, self.limits, self.token = engine, tokenizer, name, limits, token
        self.requests = Counter[int]()
        self.model = {"id": name, "object": "model", "created": 0, "owned_by": "reformer"}

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/v1/completions", _Endpoint(self._complete), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._one_model),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        """For one who may not ask."""
        if self.token is None:
            return None
        shown = request.headers.get("authorization", "").encode("latin-1", "replace")
        if hmac.compare_digest(shown, b"Bearer " + self.token.encode()):
            return None
        return _error(401, "the token is missing or wrong (Authorization: Bearer)", "authentication_error")

    async def _models(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse({"object": "list", "data": [self.model]})

    async def _one_model(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if request.path_params["model"] == self.name:
            return JSONResponse(self.model)
        return _error(404, f"this server has {self.name!r} alone", "invalid_request_error", "model_not_found")

    async def _health(self, request: Request) -> Response:
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        return self._refusal(request) or PlainTextResponse(exposition(self.engine, self.requests))

    async def _complete(self, request: Request, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer a request; whatever becomes of it, its jobs end with it."""
        status, started = CLOSED, False

        async def noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.limits.timeout):
                status = await self._answer(request, noting)
        except TimeoutError:
            status = 504
            if not started:  # else the connection is closed, for who does not read would not read this either
                await _send(request, send, _error(504, f"no end within {self.limits.timeout:g} s", "timeout"))
        except ClientDisconnect:
            pass
        except Exception as error:
            logger.exception("a request failed")
            status = 500
            if not started:
                await _send(request, send, _error(500, type(error).__name__, "server_error"))
        finally:
            self.requests[status] += 1

    async def _answer(self, request: Request, send: Callable[[Any], Awaitable[None]]) -> int:
        response = self._refusal(request)
        if response is None:
            exchange = await self._accepted(request)
            if isinstance(exchange, Exchange):
                return await self._exchange(exchange, request, send)
            response = exchange
        await _send(request, send, response)
        return response.status_code

    async def _accepted(self, request: Request) -> Exchange | Response:
        """The exchange whose jobs the engine has, or why not."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(request)
            parsed, prompts = await asyncio.to_thread(self._read, body)
            exchange = begin(parsed, prompts, self.name)
            self.engine.submit(exchange.jobs)
        except UnknownModel as error:
            return _error(404, str(error), "invalid_request_error", "model_not_found")
        except InputError as error:
            return _error(400, str(error), "invalid_request_error")
        except TimeoutError:
            return _error(408, f"the body did not come within {BODY_SECONDS} s", "timeout")
        except TooLarge:
            return _error(413, f"the body is over {self.limits.max_body:,} bytes", "invalid_request_error")
        except Full:
            busy = _error(429, "too many requests wait already; come again later", "rate_limit_error")
            busy.headers["retry-after"] = "1"
            return busy
        if self.limits.log_prompts:
            logger.warning("%s: %s", exchange.id, parsed.prompts)
        return exchange

    def _read(self, body: bytes) -> tuple[Completions, list[Prompt]]:
        """The request, and its prompts as tokens: beside the event loop, for a long one takes its time."""
        parsed = parse(body, self.name, self.engine.model.config.vocabulary, self.limits)
        return parsed, read_prompts(parsed, self.engine, self.tokenizer, self.limits.max_prompt)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.limits.max_body:
                raise TooLarge
            parts.append(part)
        return b"".join(parts)

    async def _exchange(self, exchange: Exchange, request: Request, send: Callable[[Any], Awaitable[None]]) -> int:
        try:
            if exchange.request.stream:
                return await self._stream(exchange, request, send)
            made = await exchange.at_once(request.receive)
            if self.limits.log_prompts:
                logger.warning("%s: %s", exchange.id, [one["text"] for one in made["choices"]])
            body = await asyncio.to_thread(json.dumps, made)
            await _send(request, send, Response(body, media_type="application/json"))
            return 200
        except Gone:
            return CLOSED
        except Broken as error:
            await _send(request, send, _error(500, str(error), "server_error"))
            return 500
        finally:
            self.engine.cancel(exchange.jobs)

    async def _stream(self, exchange: Exchange, request: Request, send: Callable[[Any], Awaitable[None]]) -> int:
        """What fails behind the first piece is told in the stream: the status is out by then."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        status = 200
        async with aclosing(exchange.stream(request.receive)) as pieces:
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except Broken as error:
                status = 500
                told = b"data: " + error_body(str(error), "server_error") + b"\n\n"
                await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return status


class _Endpoint:
    """An endpoint that sends its response itself."""

    def __init__(self, answer: Callable[[Request, Callable[[Any], Awaitable[None]]], Awaitable[None]]) -> None:
        self.answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(Request(scope, receive), send)


async def _send(request: Request, send: Callable[[Any], Awaitable[None]], response: Response) -> None:
    await response(request.scope, request.receive, send)


def _error(status: int, message: str, kind: str, code: str | None = None) -> Response:
    return Response(error_body(message, kind, code), status, media_type="application/json")
