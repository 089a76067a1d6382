"""Shared by all stand-ins: TLS, the health route, one log line per request, and the banner.

A stand-in is a Starlette application that a factory creates from a frozen pydantic config. It runs in two ways:

* ``python -m localcloud.standins.<name> --config FILE`` (for the supervisor): :func:`main`;
* in a thread of a test: :func:`serving`, a context manager that yields the base URL.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from localcloud.tls import ServerCertificate

BANNER = "NOT CONFIDENTIAL: a local stand-in for development; it protects nothing"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
C = TypeVar("C", bound="StandInConfig")


class StandInConfig(BaseModel):
    """Fields of every stand-in's config file; each stand-in adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path
    tls_key: Path
    state: Path
    """Folder of the stand-in's durable state, such as its SQLite file and its keys."""


class RequestLog:
    """ASGI middleware that logs one line per request: method, path without query, status, milliseconds."""

    def __init__(self, app: Any, name: str) -> None:
        self._app = app
        self._log = logging.getLogger(f"localcloud.{name}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            elapsed = (time.perf_counter() - started) * 1000
            self._log.info("%s %s %d %.1f ms", scope["method"], scope["path"], status, elapsed)


def health_route(name: str) -> Route:
    """Return the route ``GET /healthz``: ``{"status": "ok", "service": name, "confidential": false}``."""

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "service": name, "confidential": False})

    return Route("/healthz", health, methods=["GET"])


def announce(name: str) -> None:
    """Print the banner to standard error, as every stand-in does at start."""
    print(f"{name}: {BANNER}", file=sys.stderr, flush=True)


def _server(app: Any, name: str, tls: ServerCertificate | None) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            RequestLog(app, name),
            lifespan="auto",
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_certfile=str(tls.cert) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            # Clients with connection pools, such as Spark's, expect idle connections to stay open longer than uvicorn's default of 5 s.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    # asyncio disables Nagle's algorithm only if the protocol is given explicitly. With Nagle every response is 40 ms late.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(256)
    return listener


def main(name: str, config_type: type[C], factory: Callable[[C], Starlette], argv: list[str] | None = None) -> None:
    """Run a stand-in with ``--config FILE`` (JSON of ``config_type``) until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog=f"python -m localcloud.standins.{name}")
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    config = config_type.model_validate(json.loads(arguments.config.read_text()))
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    announce(name)
    app = factory(config)
    tls = ServerCertificate(config.tls_cert, config.tls_key)
    _server(app, name, tls).run(sockets=[_listen(config.host, config.port)])


@contextmanager
def serving(app: Any, name: str, tls: ServerCertificate | None = None, *, port: int = 0) -> Iterator[str]:
    """Serve ``app`` on loopback from a thread of this process; yields its base URL (``https://localhost:<port>``)."""
    listener = _listen("127.0.0.1", port)
    server = _server(app, name, tls)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name=f"{name}-server")
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start within 20 seconds; see its log.")
        time.sleep(0.005)
    try:
        yield f"{'https' if tls else 'http'}://localhost:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
