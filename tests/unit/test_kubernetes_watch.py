"""Watches against an API server or a proxy that ends each of them at once: they reconnect with a growing pause."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kubernetes
import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.spark import kubernetes_stream
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import ReconnectPauses, StopSignal
from cleanroom.spark.watch import ApplicationWatch
from tests.patience import PATIENCE

APPLICATION: dict[str, Any] = {
    "metadata": {"name": "app", "uid": "u1", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"driver": {}},
    "status": {"applicationState": {"state": "RUNNING"}},
}
MODES = ["empty", "cut in a line", "cut connection", "html", "410 in the stream", "500 in the stream", "http 410", "http 504"]


class ApiServer:
    """A Kubernetes API with one running application, whose watches end as ``mode`` says."""

    def __init__(self) -> None:
        self.mode = "empty"
        self.requests: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def answer(self, code: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                subject = "pods" if "/pods" in self.path else "events" if "/events" in self.path else "application"
                if "watch=" in self.path:
                    server.requests[f"watch {subject}"] += 1
                    self.end_watch()
                elif "sparkapplications/app" in self.path:
                    self.answer(200, json.dumps(APPLICATION).encode())
                else:
                    server.requests[f"list {subject}"] += 1
                    items = [APPLICATION] if subject == "application" else []
                    self.answer(200, json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode())

            def end_watch(self) -> None:
                partial = b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"11"'
                match server.mode:
                    case "empty":
                        self.answer(200, b"")
                    case "cut in a line":
                        self.answer(200, partial)
                    case "cut connection":
                        self.close_connection = True
                        self.answer(200, b"")
                    case "html":
                        self.answer(200, b"<html>Bad gateway</html>", "text/html")
                    case "410 in the stream" | "500 in the stream":
                        code = int(server.mode.split()[0])
                        error = {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": "Expired", "message": "x"}}
                        self.answer(200, json.dumps(error).encode() + b"\n")
                    case "http 410" | "http 504":
                        code = int(server.mode.split()[1])
                        self.answer(code, json.dumps({"kind": "Status", "reason": "Expired", "message": "x", "code": code}).encode())

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        configuration = kubernetes.client.Configuration()
        configuration.host = f"http://127.0.0.1:{self.http.server_port}"
        configuration.retries = False
        self.client = KubernetesClient(kubernetes.client.ApiClient(configuration), "ns")

    def watches(self) -> int:
        return sum(count for name, count in self.requests.items() if name.startswith("watch"))


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.client.close()
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize("mode", MODES)
async def test_watch_of_an_application_does_not_flood_the_api(api: ApiServer, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two threads of a watch pause in virtual time. After two seconds of it, each stops until the watch ends."""
    api.mode = mode
    paused: Counter[int] = Counter()
    over, loop = asyncio.Semaphore(0), asyncio.get_running_loop()

    def wait(self: StopSignal, seconds: float) -> bool:
        thread = threading.get_ident()
        paused[thread] += round(1000 * seconds)
        if paused[thread] < 2000:
            return self._event.wait(0)
        loop.call_soon_threadsafe(over.release)
        return self._event.wait()

    monkeypatch.setattr(StopSignal, "wait", wait)
    monkeypatch.setattr(kubernetes_stream, "HEALTHY_SECONDS", PATIENCE)
    watch = ApplicationWatch(api.client, "app", lambda _: None, Deadlines(run_seconds=10**9), uid="u1", beat_seconds=5)
    running = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(PATIENCE):
        await over.acquire()
        await over.acquire()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # Pauses of 0.2, 0.4, 0.8 and 1.6 seconds.
    assert 2 <= api.watches() <= 14
    assert sum(api.requests.values()) <= 60


@pytest.mark.parametrize("mode", MODES)
def test_wait_for_a_pod_does_not_flood_the_api(api: ApiServer, mode: str) -> None:
    api.mode = mode
    version: str | None = None
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            version = api.client.await_pod_change("app", 2, version)
        except CleanRoomError:
            break
    assert 1 <= api.watches() <= 12


def test_pause_grows_to_its_limit_and_starts_again_after_a_healthy_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Stop(StopSignal):
        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            return False

    monkeypatch.setattr(kubernetes_stream.random, "uniform", lambda low, high: high)
    pauses, stop = ReconnectPauses(), Stop()
    for _ in range(8):
        pauses.wait(time.monotonic(), stop)
    assert waited == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    waited.clear()
    pauses.wait(time.monotonic() - kubernetes_stream.HEALTHY_SECONDS, stop)
    assert waited == []
    pauses.wait(time.monotonic(), stop)
    pauses.wait(time.monotonic(), stop, at_most=0.1)
    assert waited == [0.2, 0.1]


def test_pause_ends_when_the_watch_is_stopped() -> None:
    stop, pauses = StopSignal(), ReconnectPauses()
    stop.set()
    started = time.monotonic()
    for _ in range(10):
        pauses.wait(time.monotonic(), stop)
    assert time.monotonic() - started < 5  # without the signal, half a minute
