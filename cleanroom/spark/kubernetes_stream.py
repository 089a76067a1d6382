"""Reading a watch's stream so that another thread can end it, and the API's refusals as errors of ours."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException

from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, Refused, Unavailable

_lines: Any = kubernetes.watch.watch.iter_resp_lines


class StopSignal:
    """Ends watches of other threads at once: cuts the connections on which they wait."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._responses: list[Any] = []

    def is_set(self) -> bool:
        """Whether :meth:`set` was called."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep until set, at most ``seconds``."""
        return self._event.wait(seconds)

    def set(self) -> None:
        """Stop every reader, now and later."""
        with self._lock:
            self._event.set()
            for response in self._responses:
                _cut(response)

    @contextmanager
    def reading(self, response: Any) -> Iterator[None]:
        """Register a response for as long as it is being read."""
        with self._lock:
            if self._event.is_set():
                _cut(response)
            self._responses.append(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.remove(response)


def _cut(response: Any) -> None:
    sock = getattr(getattr(response, "connection", None), "sock", None)
    if sock is not None:
        # Already closed by the peer is as good as cut.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def read_lines(response: Any, stop: StopSignal | None) -> Iterator[str]:
    """The lines of a watch, until it ends or ``stop`` is set."""
    with (stop or StopSignal()).reading(response):
        for line in _lines(response):
            if stop and stop.is_set():
                return
            yield line


def api_error(what: str, error: ApiException) -> CleanRoomError:
    """The API's answer as an error whose code is the Status object's ``reason``."""
    try:
        status = json.loads(error.body or "{}")
    except (ValueError, TypeError):
        status = {}
    status = status if isinstance(status, dict) else {}
    reason = str(status.get("reason") or (error.reason or "Unknown").replace(" ", ""))
    text = str(status.get("message") or error.reason or "no message")
    details = {"status": error.status}
    match error.status:
        case 400 | 422:
            return InvalidInput(reason, f"{what}: {text}", details=details)
        case 401:
            return Refused(reason, f"{what}: the Kubernetes API does not know us.", cause=text, party="operator", details=details)
        case 403:
            return Refused(
                reason, f"{what}: {text}", party="operator", hint="Grant the service account this right, or ask why not.", details=details
            )
        case 404:
            return NotFound(reason, f"{what}: {text}", details=details)
        case 409:
            return Conflict(reason, f"{what}: {text}", details=details)
        case 429 | 500 | 502 | 503 | 504 | 0 | None:
            return Unavailable(reason, f"{what}: {text}", details=details)
    return Internal(reason, f"{what}: HTTP {error.status}: {text}", details=details)
