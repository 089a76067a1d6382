"""Measures ``cleanroom query list``, with and without a watcher. Governance is the stand-in, as a process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.query_watch import Watcher
from benchmarks.bench_governance import start
from benchmarks.framework import Benchmark, Value, at_most, reported
from benchmarks.growth import Requests
from benchmarks.load_server import load_server
from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS
from cleanroom.governance import GovernanceUserClient
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
from workers.watch_keeper import ensure_watcher
from workflows.watch_queries import WatchQueries

LISTED_OPEN, LISTED_CLOSED = 500, 208


@workflow.defn(sandboxed=False)
class Ended:
    """A query that has ended."""

    @workflow.run
    async def run(self) -> None:
        """End at once."""


async def measure() -> dict[str, Value]:
    """List queries, of which more and more are closed."""
    async with load_server() as server:
        return await _measure(server.client, server.folder)


async def _measure(client: Client, folder: Path) -> dict[str, Value]:
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


BENCHMARK = Benchmark(
    f"a list of {LISTED_OPEN + LISTED_CLOSED} queries",
    measure,
    [
        at_most(f"`query list`, {LISTED_OPEN} open and {LISTED_CLOSED} closed queries", 0.8, "s"),
        reported(f"`query list`, {LISTED_OPEN} open and {LISTED_CLOSED} closed queries, without the watcher", "s"),
        at_most("`query list`: requests", 10),
        reported("`query list`: requests without the watcher"),
        at_most("`query list`: requests per closed query", 0),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
