"""The ASGI interface of the governance stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from localcloud.standins.cgs.http import Fault, Incoming, Outgoing, failure
from localcloud.standins.cgs.nodes import Connections
from localcloud.standins.serving import Receive, Scope, Send

MAX_BODY = 4 << 20
"""Maximum size of a body in bytes; a larger one is 413."""


def encode(body: Any) -> bytes:
    """Encode a body as compact UTF-8 JSON; lone surrogates are escaped."""
    try:
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY:
            chunks.append(chunk)
        if message["type"] == "http.disconnect":
            # An incomplete request must have no effect.
            raise Fault(400, "InvalidInput", "The client disconnected before the end of the body; send the request again.")
        if not message.get("more_body"):
            break
    if size > MAX_BODY:
        raise Fault(413, "RequestBodyTooLarge", f"The body must be at most {MAX_BODY} bytes.")
    return b"".join(chunks)


class Transport:
    """ASGI application that passes paths on undecoded, like CCF, and sends empty bodies without a content type.

    Args:
        handle: Answers a request.
        hide: Pattern and replacement that redact a credential in the path for the request log.
    """

    def __init__(self, handle: Callable[[Incoming], Awaitable[Outgoing]], *, hide: tuple[str, str] | None = None) -> None:
        self._handle = handle
        self._hide = hide
        self._connections = Connections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].split(b"?")[0].decode("latin-1")
        try:
            body = await _read_body(receive)
            lagging = self._connections.lags(scope.get("client"))
            answer = await self._handle(Incoming(scope["method"], path, scope["query_string"], headers, body, lagging=lagging))
        except Fault as fault:
            answer = failure(fault)
        if self._hide is not None:
            scope["path"] = re.sub(*self._hide, scope["path"])
        content = b"" if answer.body is None else encode(answer.body)
        rows = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        if content:
            rows.append((b"content-type", b"application/json"))
        if answer.status not in (204, 304):
            rows.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": rows})
        await send({"type": "http.response.body", "body": content})
