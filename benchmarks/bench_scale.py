"""Measures how costs grow with the datasets of a run, and with the open and closed queries of a collaboration.

Temporal, the workers, the payload codec and signatures are real. Governance is the stand-in, as a process, for runs and
lists, and in memory for thousands of queries. CPU of open queries is that of all processes: workers and Temporal's server.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import WorkflowEnvironment

from activities.query_watch import Watcher
from benchmarks.bench_governance import start
from benchmarks.bench_orchestration import governance, prepare
from benchmarks.framework import Benchmark, Growth, Value, at_most, reported
from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS
from cleanroom.governance import GovernanceUserClient
from cleanroom.governance.http import HttpChannel
from cleanroom.identifiers import FRONTEND_QUEUE, document_digest, query_workflow_id
from cleanroom.messages.known import CLOCKS_DIFFER, KnownState
from cleanroom.messages.query import GovernanceQueryState
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.settings import Settings
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.operations.query_list import list_queries, read_compared
from starters.operations.session import Session
from tests.conformance.governance.standin import TENANT, StandIn
from tests.conformance.governance.target import Person
from tests.load_world import COLLABORATION, Load, load
from tests.prepare_world import prepare_workers
from tests.temporal_env import TEST_KEYRING, client_with, server_options
from workers.watch_keeper import ensure_watcher
from workflows.publish_query import PublishQuery
from workflows.watch_queries import WatchQueries

DATASETS = (1, 2, 5, 10, 20, 50, 200)
FEW, MANY = 200, 1000
"""Open queries."""
EXTRAPOLATED = 10_000
LISTED_OPEN, LISTED_CLOSED = 500, 208
SIGNALS = 40
SETTLE_SECONDS = 30
WORKER_MIB = 600


class Requests:
    """Counts the requests of this process to governance."""

    def __init__(self) -> None:
        self.total = 0

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count from zero during the block."""
        send, self.total = HttpChannel._exchange, 0

        async def exchange(channel: HttpChannel, *arguments: Any, **options: Any) -> Any:
            self.total += 1
            return await send(channel, *arguments, **options)

        with mock.patch.object(HttpChannel, "_exchange", exchange):
            yield


async def measure_datasets(client: Client, sizes: Iterable[int]) -> dict[str, Value]:
    """Prepare a run of each number of datasets."""
    requests: dict[int, float] = {}
    events: dict[int, float] = {}
    size: dict[int, float] = {}
    cpu: dict[int, float] = {}
    counter = Requests()
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder, governance(Path(folder)) as world:
            await world.publish(n)
            async with prepare_workers(world, client):
                if n == min(DATASETS):
                    await prepare(world, client)  # Imports modules and creates keys.
                async with counter.counted():
                    cost = await prepare(world, client)
        requests[n], events[n], size[n], cpu[n] = counter.total, cost.events, cost.size, cost.cpu
    return {"Prepare: requests": requests, "Prepare: events": events, "Prepare: bytes of history": size, "Prepare: CPU": cpu}


class Cpu:
    """CPU seconds of this process, of the workflows' worker, and of Temporal's server."""

    def __init__(self, world: Load) -> None:
        own = psutil.Process()
        self._processes = {own, world.worker, *own.children(recursive=True)}

    def seconds(self) -> float:
        """Return the sum until now."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes if process.is_running())


async def visible(world: Load, count: int) -> list[float]:
    """Seconds from the signal with a decision until the workflow shows the vote, one query after the other."""
    found: list[float] = []
    for name in list(world.queries)[:count]:
        handle, decision = world.queries[name], world.decision(name, "contosso")
        began = time.perf_counter()
        await handle.signal(PublishQuery.approve, decision.model_dump())
        while (await handle.query(PublishQuery.state)).accepted != ("contosso",):
            await asyncio.sleep(0)
        found.append(time.perf_counter() - began)
    return found


async def measure_open(client: Client, folder: Path, window: float) -> dict[str, Value]:
    """Start queries up to :data:`MANY`, and let them wait."""
    found: dict[str, Value] = {}
    started: dict[int, float] = {}
    idle: dict[int, float] = {}
    memory: dict[int, float] = {}
    async with load(client, folder, TEST_KEYRING) as world:
        await ensure_watcher(client, COLLABORATION)
        cpu = Cpu(world)
        # Imports modules. The measured line begins at no query.
        await world.start(["first"])
        world.queries.clear()
        begin, count = cpu.seconds(), 0
        for n in (0, FEW, MANY):
            if n:
                began = cpu.seconds()
                await world.start(f"q-{number:04}" for number in range(count, n))
                started[n] = (started[FEW] if n > FEW else 0) + cpu.seconds() - began
                memory[n] = world.worker.memory_info().rss / 2**20
                times = await visible(world, SIGNALS)
                found[f"signal to visible vote, {n:,} open queries, median"] = statistics.median(times) * 1000
                found[f"signal to visible vote, {n:,} open queries, 95 %"] = sorted(times)[int(0.95 * len(times))] * 1000
                count = n
                world.queries = dict(reversed(world.queries.items()))
            # Until the watcher has compared what has changed, and the server has settled.
            await asyncio.sleep(SETTLE_SECONDS + n / 100)
            begin = cpu.seconds()
            await asyncio.sleep(window)
            idle[max(n, 1)] = (cpu.seconds() - begin) / window
    slope = (idle[MANY] - idle[FEW]) / (MANY - FEW)
    found["open queries: CPU until they wait"] = started
    found["open queries: memory of their worker"] = memory[MANY]
    found["open queries: cores while they wait"] = idle
    found[f"cores for {EXTRAPOLATED:,} waiting queries, extrapolated"] = idle[FEW] + max(slope, 0) * (EXTRAPOLATED - FEW)
    return found


async def measure_cache(client: Client, folder: Path) -> dict[str, Value]:
    """The memory of a worker that keeps :data:`FEW` workflows does not grow with further queries."""
    async with load(client, folder, TEST_KEYRING, cached=FEW) as world:
        await world.start(f"c-{number:04}" for number in range(FEW))
        few = world.worker.memory_info().rss
        await world.start(f"c-{number:04}" for number in range(FEW, MANY))
        return {f"memory with {MANY:,} queries, {FEW} of them cached, against {FEW}": world.worker.memory_info().rss / few}


@workflow.defn(sandboxed=False)
class Ended:
    """A query that has ended."""

    @workflow.run
    async def run(self) -> None:
        """End at once."""


async def measure_list(client: Client, folder: Path) -> dict[str, Value]:
    """List queries, of which more and more are closed."""
    standin = StandIn(folder)
    process, target = start(standin)
    found: dict[str, Value] = {}
    counter = Requests()
    try:
        contract, person = target.accepted_contract(target.policy()), Person("fabrikam", TENANT)
        target.govern("set_user_identity", {"id": person.oid, "accountType": "microsoft", "data": {"tenantId": TENANT}})

        class Here(Session):
            def governance(self) -> Any:
                ca = folder / "tls" / "ca.pem"
                return GovernanceUserClient(target.settings.url, token=lambda: target.token(person), ca_file=ca)

            async def temporal(self, **options: Any) -> Client:
                return client

        session = Here(Settings(profile="fabrikam", party="fabrikam", parties={"fabrikam": person.oid}, collaboration=contract))

        author = session.governance()

        async def start_query(number: int, kind: str) -> WorkflowHandle[Any, Any]:
            name = f"listed-{number:04}"
            version = await UserDocuments(author, contract).put_draft(name, "{}", QUERY_LABELS, [person.oid])
            known = KnownState.of(GovernanceQueryState(state="Draft", version=version, digest=document_digest("{}")))
            given = start_attributes(collaboration=contract, kind="query", query=name, stage="query.draft", proposer="fabrikam")
            shown = TypedSearchAttributes([*given.search_attributes, SearchAttributePair(attributes.KNOWN, str(known))])
            id = query_workflow_id(contract, name)
            return await client.start_workflow(kind, id=id, task_queue=kind, search_attributes=shown)

        async def open_query(number: int) -> None:
            await start_query(number, "Open")  # no worker serves it

        async def close_query(number: int) -> None:
            await (await start_query(number, "Ended")).result()

        async def timed(expected: int) -> None:
            async with counter.counted():
                began = time.perf_counter()
                rows = await list_queries(session)
                times.append(time.perf_counter() - began)
            requests.append(counter.total)
            assert len(rows) == expected

        times: list[float] = []
        requests: list[int] = []
        await gather_limited(open_query, range(LISTED_OPEN), 16)
        await timed(LISTED_OPEN)
        more = range(LISTED_OPEN, LISTED_OPEN + LISTED_CLOSED)
        async with create_worker(client, WorkerSpec("ended", "Ended", (Ended,))):
            await gather_limited(close_query, more, 16)
        await timed(LISTED_OPEN + LISTED_CLOSED)
        watcher = Watcher(UserDocuments(author, contract), contract)
        # Queries that were started later are compared one by one, until the watcher's next look at the list a minute later.
        await asyncio.sleep(CLOCKS_DIFFER.total_seconds())
        spec = WorkerSpec("frontend", FRONTEND_QUEUE, (WatchQueries,), (watcher.watch_queries,))
        async with create_worker(client, spec):
            await ensure_watcher(client, contract)
            while await read_compared(client, contract) is None:
                await asyncio.sleep(0.2)
            for _ in range(3):
                await timed(LISTED_OPEN + LISTED_CLOSED)
        await author.aclose()
        listed = f"`query list`, {LISTED_OPEN} open and {LISTED_CLOSED} closed queries"
        found |= {listed: min(times[2:]), f"{listed}, without the watcher": times[1]}
        found |= {"`query list`: requests": requests[-1], "`query list`: requests without the watcher": requests[1]}
        found["`query list`: requests per closed query"] = (requests[1] - requests[0]) / LISTED_CLOSED
    finally:
        target.close()
        process.terminate()
        process.wait(10)
    return found


async def measure(most: int = 200, window: float = 60, parts: str = "datasets,open,cache,list") -> dict[str, Value]:
    """Measure the ``parts``, up to ``most`` datasets; CPU of waiting queries over ``window`` seconds."""
    found: dict[str, Value] = {}

    async def datasets(client: Client, _: Path) -> dict[str, Value]:
        return await measure_datasets(client, [n for n in DATASETS if n <= most])

    async def waiting(client: Client, folder: Path) -> dict[str, Value]:
        return await measure_open(client, folder, window)

    for name, part in {"datasets": datasets, "cache": measure_cache, "list": measure_list, "open": waiting}.items():
        if name in parts:
            # A server each: the queries that one part leaves open would wake up on the workers of the next one.
            async with await WorkflowEnvironment.start_local(**server_options()) as env:
                client = env.client if name == "datasets" else await client_with(env, TEST_KEYRING, accept_unbound=True)
                with tempfile.TemporaryDirectory() as folder:
                    found |= await part(client, Path(folder))
    return found


BENCHMARK = Benchmark(
    f"1 to 200 datasets; {FEW} and {MANY:,} open queries; a list of {LISTED_OPEN + LISTED_CLOSED}",
    measure,
    [
        Growth("Prepare: requests", 12, fixed=40, exponent=1.1),
        Growth("Prepare: events", 14, fixed=120, exponent=1.1),
        Growth("Prepare: bytes of history", 8000, "bytes", fixed=120_000, exponent=1.1),
        Growth("Prepare: CPU", unit="s", exponent=1.2),
        Growth("open queries: CPU until they wait", unit="s", exponent=1.2),
        at_most("open queries: memory of their worker", WORKER_MIB, "MiB"),
        at_most(f"memory with {MANY:,} queries, {FEW} of them cached, against {FEW}", 1.5, "x"),
        *(at_most(f"signal to visible vote, {n:,} open queries, median", 100, "ms") for n in (FEW, MANY)),
        *(reported(f"signal to visible vote, {n:,} open queries, 95 %", "ms") for n in (FEW, MANY)),
        Growth("open queries: cores while they wait"),
        at_most(f"cores for {EXTRAPOLATED:,} waiting queries, extrapolated", 0.2),
        at_most(f"`query list`, {LISTED_OPEN} open and {LISTED_CLOSED} closed queries", 0.8, "s"),
        reported(f"`query list`, {LISTED_OPEN} open and {LISTED_CLOSED} closed queries, without the watcher", "s"),
        at_most("`query list`: requests", 10),
        reported("`query list`: requests without the watcher"),
        at_most("`query list`: requests per closed query", 0),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
