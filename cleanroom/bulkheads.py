"""Threads for blocking calls, separate for each service, so that a service that hangs cannot stop calls to the others.

``asyncio.to_thread`` runs everything in one pool, which has six threads on a machine with two cores. A store that accepts
connections and does not answer would soon occupy all of them, and a cancelled activity does not free its thread. Then no token of
Entra ID and no key from Key Vault could be requested either. Here each service has its own threads. When all of them are occupied, a
call fails after :data:`PATIENCE` seconds with a retryable error, and so frees the slot of its activity for other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar, get_args

from cleanroom.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

Service = Literal["s3", "azure", "entra", "key-vault", "kubernetes"]
THREADS = 8
"""Threads per service."""
PATIENCE = 2.0
"""Seconds for which a call waits for a thread of its service."""


class Bulkhead:
    """The threads of one service.

    Args:
        name: The service, for errors and names of threads.
        threads: Calls that can run at the same time.
        patience: Seconds for which further calls wait.
    """

    def __init__(self, name: str, *, threads: int = THREADS, patience: float = PATIENCE) -> None:
        self.name, self._patience = name, patience
        self._free = threads
        self._lock = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-call")

    async def run(self, function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
        """Call a blocking function in one of the threads. A cancelled call keeps its thread until the function returns.

        Raises:
            Unavailable: ``ServiceBusy`` if no thread becomes free.
        """
        await self._enter()
        call = partial(contextvars.copy_context().run, partial(function, *arguments, **options))
        try:
            work = self._pool.submit(call)
        except BaseException:
            self._leave()
            raise
        work.add_done_callback(lambda _: self._leave())
        return await asyncio.wrap_future(work)

    async def _enter(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._patience)
        except BaseException as error:
            with self._lock:
                # A thread may have become free at the last moment. Another call gets it then.
                given = turn not in self._waiting
                if not given:
                    self._waiting.remove(turn)
            if given:
                self._leave()
            if not isinstance(error, TimeoutError):
                raise
            raise Unavailable(
                "ServiceBusy",
                f"{self.name}: earlier calls to this service have not ended, so this one was not made.",
                hint="Check whether the service answers. The step is retried.",
            ) from None

    def _leave(self) -> None:
        """Hand the thread to the call that waits longest, or free it. Called from any thread."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                with contextlib.suppress(RuntimeError):
                    # RuntimeError: the event loop of that call is closed.
                    turn.get_loop().call_soon_threadsafe(_give, turn)
                    return
            self._free += 1


def _give(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


_BULKHEADS: Final = {service: Bulkhead(service) for service in get_args(Service)}


def bulkhead(service: Service) -> Bulkhead:
    """Return this process's bulkhead of a service."""
    return _BULKHEADS[service]
