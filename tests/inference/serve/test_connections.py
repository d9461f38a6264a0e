"""Clients that send nonsense, cut the connection, or do not read."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given

from reformer.inference.serve import app
from reformer.models import ReformerForCausalLM
from tests.hostile.mutations import FUZZ, spoilt_bytes
from tests.inference.serve.serving import Running, generated, running, settle, small_model


@pytest.fixture(scope="module")
def model() -> ReformerForCausalLM:
    return small_model()


@pytest.fixture(scope="module")
def served(model: ReformerForCausalLM) -> Iterator[Running]:
    with running(model, max_tokens=100_000) as one:
        yield one


def post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def spoken(port: int, data: bytes, wait: float = 20) -> bytes:
    """What comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        got = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                got += part
        except OSError:
            pass
        return got


def works(served: Running, model: ReformerForCausalLM) -> None:
    settle(served.engine)
    with served.client() as client:
        got = client.completions.create(model="small", prompt="a", max_tokens=5, seed=1)
    assert got.choices[0].text == generated(model, "a", 5, seed=1)


GOOD = json.dumps({"model": "small", "prompt": "abc", "max_tokens": 3, "stop": ["x"], "logprobs": 1}).encode()


def test_spoilt_bodies(served: Running, model: ReformerForCausalLM) -> None:
    @FUZZ
    @given(spoilt_bytes(GOOD))
    def check(body: bytes) -> None:
        got = spoken(served.port, post(body))
        status = int(got.split()[1])
        assert status in (200, 400, 404)
        told = json.loads(got.partition(b"\r\n\r\n")[2])
        assert ("choices" in told) == (status == 200)
        assert status == 200 or (told["error"]["message"] and "Traceback" not in told["error"]["message"])

    check()
    works(served, model)


def test_spoilt_requests(served: Running, model: ReformerForCausalLM) -> None:
    @FUZZ
    @given(spoilt_bytes(post(GOOD)))
    def check(data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
            connection.sendall(data)

    check()
    works(served, model)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET " + b"/" * 100_000,
        post(b"[" * 10_000 + b"]" * 10_000),
        post(GOOD, 10)[:-5],
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"GET /v1/models/../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
    ids=range(8),
)
def test_nonsense(served: Running, model: ReformerForCausalLM, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        try:
            got = connection.recv(1000)
        except OSError:
            got = b""
    assert b"200" not in got[:15]
    assert b"root:" not in got
    works(served, model)


def test_a_connection_that_is_cut(served: Running, model: ReformerForCausalLM) -> None:
    before = served.server.requests[app.CLOSED]
    body = json.dumps({"prompt": "a", "max_tokens": 50_000, "stream": True, "logit_bias": {"1": -100}}).encode()
    for data in (post(body), post(body.replace(b"true", b"false")), post(body, 5000)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
            connection.sendall(data)
            time.sleep(0.2)
    works(served, model)
    assert served.server.requests[app.CLOSED] - before == 3


def test_a_client_that_does_not_read(model: ReformerForCausalLM) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 10**6, "stream": True, "logit_bias": {"1": -100}}).encode()
    with running(model, max_tokens=10**6, timeout=3, drain=1) as served:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(post(body))
            end = time.monotonic() + 20
            for wanted in (True, False):
                while bool(served.engine.answers) != wanted:
                    assert time.monotonic() < end
                    time.sleep(0.01)
        assert served.server.requests[504] == 1
        works(served, model)


def test_a_body_that_does_not_come(model: ReformerForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.3)
    with running(model) as served:
        got = spoken(served.port, post(GOOD, len(GOOD) + 1))
        assert got.startswith(b"HTTP/1.1 408")
        works(served, model)
