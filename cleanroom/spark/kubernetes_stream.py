"""Reads the stream of a Kubernetes watch so that another thread can end it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
HEALTHY_SECONDS = 5.0
"""A watch that lasts this long was healthy, so the next reconnection does not pause."""


class ReconnectPauses:
    """Pauses before a watch reconnects: none after a healthy watch, and otherwise twice the previous pause."""

    def __init__(self) -> None:
        self._pause = 0.0

    def wait(self, started: float, stop: StopSignal | None, *, at_most: float = LONGEST_PAUSE_SECONDS) -> None:
        """Pause after a watch has ended.

        Args:
            started: When the watch started, by ``time.monotonic``.
            stop: Ends the pause from another thread.
            at_most: The longest pause.
        """
        if time.monotonic() - started >= HEALTHY_SECONDS:
            self._pause = 0.0
            return
        self._pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * self._pause))
        # The jitter spreads the requests of many runs.
        seconds = max(0.0, min(at_most, self._pause * random.uniform(0.75, 1.0)))  # noqa: S311 - not a secret
        if stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)


class StopSignal:
    """Ends the watches of other threads immediately by shutting down their connections."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._responses: list[Any] = []

    def is_set(self) -> bool:
        """Return whether :meth:`set` was called."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep for at most ``seconds``; return True as soon as the signal is set."""
        return self._event.wait(seconds)

    def set(self) -> None:
        """Stop all present and future readers."""
        with self._lock:
            self._event.set()
            for response in self._responses:
                _shut_down(response)

    @contextmanager
    def reading(self, response: Any) -> Iterator[None]:
        """Register ``response`` while it is being read."""
        with self._lock:
            if self._event.is_set():
                _shut_down(response)
            self._responses.append(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.remove(response)


def _shut_down(response: Any) -> None:
    sock = getattr(getattr(response, "connection", None), "sock", None)
    if sock is not None:
        # The peer may have closed the connection already.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def read_lines(response: Any, stop: StopSignal | None) -> Iterator[str]:
    """Yield the lines of a watch until it ends or ``stop`` is set."""
    import kubernetes

    # The package does not annotate this function.
    lines: Any = kubernetes.watch.watch.iter_resp_lines
    with (stop or StopSignal()).reading(response):
        for line in lines(response):
            if stop and stop.is_set():
                return
            yield line
