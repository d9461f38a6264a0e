"""A server from its start to its end."""

import socket
from collections.abc import Callable

import uvicorn

from reformer.errors import RunError
from reformer.inference.serve.app import Server
from reformer.settings.serving import ServerSettings

CONNECTIONS = 1024
"""Connections at a time; more are told to come again (503)."""
KEEP_ALIVE = 30
"""Seconds that a connection stays open between requests."""


def serve(server: Server, say: Callable[[str], None]) -> None:
    """Serve until the process is told to stop (SIGTERM, Ctrl-C), and then, within `drain` seconds, end what runs.

    Raises RunError for an address that cannot be had.
    """
    _raise_limit_of_files()
    with listen(server.limits) as listener:
        host, port = listener.getsockname()[:2]
        say(f"{server.name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 (Ctrl-C ends it)")
        server.engine.start()
        try:
            http(server).run(sockets=[listener])
        finally:
            server.engine.stop()


def _raise_limit_of_files() -> None:
    """Caches of prompts and connections need more open files than some systems allow at first."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(limits: ServerSettings) -> socket.socket:
    """The socket that requests come to. Raises RunError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in limits.host else socket.AF_INET
    try:
        return socket.create_server((limits.host, limits.port), family=family, backlog=2048)
    except OSError as error:
        raise RunError(
            f"{limits.host}:{limits.port} cannot be listened at ({error.strerror or error}); give another --port"
        ) from None


def http(server: Server) -> uvicorn.Server:
    """What speaks HTTP for a server."""
    return uvicorn.Server(
        uvicorn.Config(
            server.app(),
            access_log=False,
            log_level="warning",
            lifespan="off",
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(server.limits.drain)),
        )
    )
