"""Threads of services that hang, and those of the others."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from activities.s3 import S3
from cleanroom.bulkheads import THREADS, Bulkhead, bulkhead
from cleanroom.errors import Unavailable
from cleanroom.settings import Settings
from tests.patience import PATIENCE
from tests.refusals import refused


@contextmanager
def hanging_server() -> Iterator[int]:
    """A server that accepts connections and never answers; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in accepted:
            connection.close()


async def test_a_store_that_hangs_stops_neither_key_releases_nor_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls than the process has threads. Those beyond the store's own threads fail soon, so that their slots become free."""
    with hanging_server() as port:
        connected: list[socket.socket] = []

        def check() -> None:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connected.append(connection)
                connection.recv(1)

        class Store:
            def __init__(self, *_: object) -> None:
                self.check = check

        class Authorisations:
            async def verify_dataset(self, dataset: Any) -> None:
                pass

        monkeypatch.setattr("activities.s3.open_s3", Store)
        monkeypatch.setattr("activities.s3.require_s3", lambda spec: spec)
        authorisations: Any = Authorisations()
        store = S3(Settings(), authorisations)
        dataset: Any = type("Dataset", (), {"spec": None})
        own = Bulkhead("s3", patience=0.05)
        monkeypatch.setattr("activities.s3.bulkhead", lambda service: own if service == "s3" else None)
        calls = [asyncio.create_task(store.get_connection_secret(dataset)) for _ in range(THREADS + 40)]
        done, hanging = set[asyncio.Task[Any]](), set(calls)
        async with asyncio.timeout(PATIENCE):
            while len(done) < 40:
                ended, hanging = await asyncio.wait(hanging, return_when=asyncio.FIRST_COMPLETED)
                done |= ended
        assert (len(done), len(hanging)) == (40, THREADS)
        assert {getattr(call.exception(), "code", "") for call in done} == {"ServiceBusy"}
        for service in ("key-vault", "entra", "azure", "kubernetes"):
            assert await asyncio.wait_for(bulkhead(service).run(lambda: "released"), PATIENCE) == "released"  # type: ignore[arg-type]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "also here"), PATIENCE) == "also here"
    # The connections are closed, so the calls end, and the store can be called again.
    await asyncio.wait(hanging, timeout=PATIENCE)
    assert await own.run(lambda: "again") == "again"


async def test_a_cancelled_call_keeps_its_thread_until_it_returns_and_the_longest_waiting_call_is_next() -> None:
    small, gate = Bulkhead("small", threads=1, patience=5), threading.Event()
    first = asyncio.create_task(small.run(gate.wait))
    await asyncio.sleep(0)
    order: list[int] = []
    waiting = [asyncio.create_task(small.run(order.append, number)) for number in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    waiting[1].cancel()
    await asyncio.wait([first, waiting[1]])
    assert order == []
    gate.set()
    await asyncio.gather(waiting[0], waiting[2])
    assert order == [0, 2]
    assert await small.run(lambda: 1) == 1


async def test_errors_reach_the_caller_and_free_the_thread() -> None:
    small = Bulkhead("small", threads=1, patience=0)

    def fail() -> None:
        raise Unavailable("S3Unreachable", "on purpose")

    for _ in range(3):
        assert await refused(small.run(fail)) == "S3Unreachable"


def test_a_loop_that_has_ended_leaves_no_thread_occupied() -> None:
    small, gate = Bulkhead("small", threads=1, patience=60), threading.Event()

    async def leave_a_call_waiting() -> None:
        calls = [asyncio.create_task(small.run(gate.wait)), asyncio.create_task(small.run(gate.wait))]
        await asyncio.wait(calls, timeout=0.01)
        for call in calls:
            call.cancel()

    asyncio.run(leave_a_call_waiting())
    gate.set()
    assert asyncio.run(small.run(lambda: 1)) == 1
