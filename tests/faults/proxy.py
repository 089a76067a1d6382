"""An HTTP proxy between the product's clients and the services of a local cloud. It records requests and injects faults.

Every service has a port of the proxy as its address, so settings and documents lead all clients here. A request names the activity
that made it in the header :data:`LABEL` (:mod:`tests.faults.labels`); the proxy removes it. Requests without it, such as those between
services, pass unchanged.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from localcloud.tls import ServerCertificate

LABEL = "x-fault-label"
"""``<workflow>|<activity>|<attempt>`` of the activity that sends a request."""
DELAY = 0.3
"""Seconds by which a request is late."""
LONGEST_WAIT = 60.0
"""Seconds that a client may wait for an answer that does not come."""


@dataclass(frozen=True)
class Request:
    """A request of an activity. ``path`` is a template, so that requests of different runs compare equal."""

    service: str
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.service} {self.method} {self.path}"


@dataclass(frozen=True)
class Call:
    """A request as it arrived."""

    workflow: str
    activity: str
    attempt: int
    request: Request


@dataclass
class Rule:
    """A fault for the first matching request of one workflow's activity. ``hits`` counts the requests that got it."""

    workflow: str
    activity: str
    request: Request
    fault: str
    hits: int = 0


@dataclass
class Message:
    """A request, or the head of a response."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def head(self, *left_out: str) -> bytes:
        lines = [self.start, *(f"{key}: {value}" for key, value in self.headers if key.lower() not in left_out)]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def template(target: str) -> str:
    """Return a request target with ``*`` in place of the names and numbers in it."""
    parts = urlsplit(target)
    kept = [_kept(unquote(part)) for part in parts.path.split("/")]
    flags = sorted(name for name in re.findall(r"(?:^|&)(watch|event_id|from_seqno|comp|list-type)=", parts.query))
    return "/".join(kept) + (f"?{'&'.join(flags)}" if flags else "")


def _kept(part: str) -> str:
    """Return what a template keeps of a segment: a word of the protocol, or the kind of document that an ID names."""
    if re.fullmatch(r"[A-Za-z.$_]*|v[0-9]\w*|api-version", part):
        return part
    kind = re.match(r"(approver-key|approver-deputy|decision)\.", part)
    return f"{kind[1]}.*" if kind else "*"


class FaultProxy:
    """The proxy, in a separate thread. All members may be used from other threads."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.rules: list[Rule] = []
        self.kill: Callable[[str], None] = lambda service: None
        """Kills a service and starts it again."""
        self.on_request: Callable[[str, Message], None] = lambda service, request: None
        """Called with the service and each request before it is passed on."""
        self._upstreams: dict[str, tuple[str, int]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="fault-proxy")
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[Any]] = set()
        self._client_tls = ssl.create_default_context()
        self._client_tls.check_hostname, self._client_tls.verify_mode = False, ssl.CERT_NONE

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Run the proxy for the duration of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def listen(self, service: str, port: int, certificate: ServerCertificate) -> None:
        """Accept connections for a service."""
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate.cert, certificate.key)

        async def start() -> None:
            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                # The loop itself holds its tasks weakly.
                self._connections.add(task)
                try:
                    await self._connection(service, reader, writer)
                except (OSError, EOFError, asyncio.CancelledError):
                    _reset(writer)
                finally:
                    self._connections.discard(task)
                    writer.close()

            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls, limit=1 << 20))

        asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)

    def forward(self, service: str, url: str) -> None:
        """Set the address of a service."""
        found = urlsplit(url)
        self._upstreams[service] = (found.hostname or "localhost", found.port or 443)

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self.rules.append(rule)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # ------------------------------------------------------------------ one connection

    async def _connection(self, service: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if upstream is None:
                    upstream = await self._connect(service)
                fault = self._fault(service, request)
                if fault is None:
                    relay = asyncio.create_task(_relay(request, upstream, writer))
                    if "watch=" in request.start:
                        # The client ends a stream with its connection.
                        gone = asyncio.create_task(reader.read(1))
                        await asyncio.wait([relay, gone], return_when=asyncio.FIRST_COMPLETED)
                        relay.cancel()
                        gone.cancel()
                        return
                    if not await relay:
                        return
                    continue
                await (FAULTS | KILLS)[fault](_Exchange(self, service, request, upstream, reader, writer))
                return
        finally:
            if upstream is not None:
                upstream[1].close()

    async def _connect(self, service: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._upstreams[service]
        return await asyncio.open_connection(host, port, ssl=self._client_tls, server_hostname="localhost", limit=1 << 20)

    def _fault(self, service: str, request: Message) -> str | None:
        self.on_request(service, request)
        label = unquote(request.get(LABEL))
        if not label:
            return None
        workflow, activity, attempt = label.split("|")
        method, target, _ = request.start.split(" ")
        call = Call(workflow, activity, int(attempt), Request(service, method, template(target)))
        self.calls.append(call)
        for rule in self.rules:
            if rule.hits == 0 and (rule.workflow, rule.activity, rule.request) == (workflow, activity, call.request):
                rule.hits += 1
                return rule.fault
        return None


@dataclass
class _Exchange:
    """One request that meets a fault."""

    proxy: FaultProxy
    service: str
    request: Message
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    reader: asyncio.StreamReader
    client: asyncio.StreamWriter

    async def answer(self) -> Message:
        """Let the service answer, and return the whole answer."""
        reader, writer = self.upstream
        writer.write(self.request.head(LABEL) + self.request.body)
        await writer.drain()
        head = await _read_head(reader)
        assert head is not None
        if "event-stream" in head.get("content-type") or "watch=" in self.request.start:
            # A stream ends with the connection. What comes first is enough.
            with suppress(asyncio.TimeoutError):
                head.body = await asyncio.wait_for(reader.read(1 << 16), 0.2)
            return head
        head.body = b"".join([part async for part in _body(reader, head, self.request)])
        return head

    async def send(self, data: bytes) -> None:
        self.client.write(data)
        with suppress(OSError):
            await self.client.drain()


async def _status(exchange: _Exchange, status: str, code: str, extra: str = "") -> None:
    # The shape of errors of Azure and CCF, and that of Kubernetes.
    body: dict[str, Any] = {"error": {"code": code, "message": "injected"}}
    if exchange.service == "kubernetes":
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": code, "message": "injected", "code": int(status[:3])}
    text = json.dumps(body).encode()
    if exchange.request.start.startswith("HEAD "):
        text = b""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n{extra}Connection: close\r\n\r\n"
    await exchange.send(head.encode() + text)


async def _throttled(exchange: _Exchange) -> None:
    await _status(exchange, "429 Too Many Requests", "TooManyRequests", "Retry-After: 1\r\n")


async def _failed(exchange: _Exchange) -> None:
    await _status(
        exchange, "500 Internal Server Error", "InternalError" if exchange.service in ("cgs", "kubernetes") else "InternalServerError"
    )


async def _unavailable(exchange: _Exchange) -> None:
    await _status(exchange, "503 Service Unavailable", "ServiceUnavailable")


async def _refused(exchange: _Exchange) -> None:
    _reset(exchange.client)


async def _slow(exchange: _Exchange) -> None:
    """Answer after the client has given up."""
    await exchange.answer()
    await asyncio.wait_for(exchange.reader.read(1), LONGEST_WAIT)


async def _late(exchange: _Exchange) -> None:
    """Break the connection at once. The request reaches the service later, as one that a router has delayed."""
    _reset(exchange.client)
    await asyncio.sleep(DELAY)
    await exchange.answer()


async def _lost(exchange: _Exchange) -> None:
    await exchange.answer()
    _reset(exchange.client)


async def _cut(exchange: _Exchange) -> None:
    answer = await exchange.answer()
    whole = answer.head() + answer.body
    # At least one byte is missing, of the body if there is one.
    await exchange.send(whole[: max(1, len(whole) - 1 - len(answer.body) // 2)])
    # Not with RST, which would discard what was sent.


async def _twice(exchange: _Exchange) -> None:
    first = await exchange.answer()
    again = await exchange.proxy._connect(exchange.service)
    try:
        await _Exchange(exchange.proxy, exchange.service, exchange.request, again, exchange.reader, exchange.client).answer()
    finally:
        again[1].close()
    await exchange.send(first.head() + first.body)


async def _killed(exchange: _Exchange, *, after: bool) -> None:
    if after:
        await exchange.answer()
    await asyncio.get_running_loop().run_in_executor(None, exchange.proxy.kill, exchange.service)
    _reset(exchange.client)


FAULTS: dict[str, Callable[[_Exchange], Any]] = {
    "429": _throttled,
    "500": _failed,
    "503": _unavailable,
    "reset": _refused,
    "slow": _slow,
    "lost": _lost,
    "cut": _cut,
    "twice": _twice,
    "late": _late,
}
"""Faults of a request, by name."""
KILLS: dict[str, Callable[[_Exchange], Any]] = {
    "service killed before": partial(_killed, after=False),
    "service killed after": partial(_killed, after=True),
}
"""The service is killed when a request arrives, or when it has had its effect, and starts again."""


# ---------------------------------------------------------------------- HTTP/1.1


async def _read_head(reader: asyncio.StreamReader) -> Message | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    start, *lines = text[:-4].split("\r\n")
    return Message(start, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    request = await _read_head(reader)
    if request is None:
        return None
    if "100-continue" in request.get("expect").lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.headers = [item for item in request.headers if item[0].lower() != "expect"]
    request.body = b"".join([part async for part in _body(reader, request, None)])
    return request


async def _body(reader: asyncio.StreamReader, head: Message, request: Message | None) -> Any:
    """Yield the body in the pieces in which it arrives, chunk headers included."""
    if request is not None:
        status = head.start.split(" ")[1]
        if request.start.startswith("HEAD ") or status in ("204", "304"):
            return
    if "chunked" in head.get("transfer-encoding").lower():
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if size == 0:
                return
    length = head.get("content-length")
    if length:
        if int(length):
            yield await reader.readexactly(int(length))
    elif request is not None:
        while piece := await reader.read(1 << 16):
            yield piece


async def _relay(request: Message, upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter], client: asyncio.StreamWriter) -> bool:
    """Pass a request and its answer on; return whether the connection can be used again."""
    reader, writer = upstream
    writer.write(request.head(LABEL) + request.body)
    await writer.drain()
    head = await _read_head(reader)
    if head is None:
        raise EOFError
    client.write(head.head())
    async for piece in _body(reader, head, request):
        client.write(piece)
        await client.drain()
    empty = request.start.startswith("HEAD ") or head.start.split(" ")[1] in ("204", "304")
    closes = "close" in head.get("connection").lower() or "close" in request.get("connection").lower()
    return not closes and (empty or bool(head.get("content-length")) or "chunked" in head.get("transfer-encoding").lower())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with RST."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
