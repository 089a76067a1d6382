"""Many queries at once: the real workflows, workers and signatures, on a Temporal server, with governance in memory.

The workflows run in another process (``python -m tests.load_world``), so that its memory can be measured. The activities run here,
because they share governance.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from temporalio.client import Client, WorkflowHandle
from temporalio.service import GrpcCompression

from activities.frontend import Frontend
from activities.notifications import Notifications
from activities.query_watch import Watcher
from cleanroom.documents.specs import QuerySpec
from cleanroom.governance import OidcIssuerInfo
from cleanroom.governance.position import observe
from cleanroom.identifiers import FRONTEND_QUEUE, TransactionId, collaborator_queue, document_digest, query_workflow_id
from cleanroom.messages.query import Collaborator, DecisionMessage, PublishQueryInput, QueryState
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision, SigningKey, load_or_create_signing_key, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.fairness import fair_share
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.unit.activities.governance import COLLABORATION, Caller, Governance, OpenProposal
from tests.unit.activities.owners import NAMES, PARTIES, Owner
from tests.unit.activities.publishing import publish_dataset
from workers.freed_memory import FreedMemory
from workflows.publish_query import PublishQuery
from workflows.watch_queries import WatchQueries

YEARS = dt.timedelta(days=3650)
CONCURRENT = 40
"""Requests to Temporal at the same time."""
HARMLESS = {"UnhandledCommand", "ForceCloseCommand"}
"""Causes with which the server repeats a workflow task, because messages arrived."""


Sent = tuple[str, str, DecisionMessage]
"""Query, signal and message."""


class ByDocument(dict[str, OpenProposal]):
    """The proposals of governance, which finds those of one document without a search."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[tuple[str, OpenProposal]]] = {}

    def __setitem__(self, key: str, value: OpenProposal) -> None:
        super().__setitem__(key, value)
        self.of.setdefault(value.document_id, []).append((key, value))


class LoadGovernance(Governance):
    """Governance in memory for thousands of documents."""

    def __init__(self) -> None:
        self.found = ByDocument()
        super().__init__(proposals=self.found)

    def open_proposal(self, document_id: str) -> tuple[str, OpenProposal] | None:
        return next((item for item in self.found.of.get(document_id, ()) if item[1].state == "Open"), None)


class LoadCaller(Caller):
    """The frontend's client. Its answers tell the end of the ledger."""

    async def oidc_issuer_info(self) -> OidcIssuerInfo:
        observe(TransactionId(2, self.governance.transaction))
        return await super().oidc_issuer_info()


@dataclass
class Load:
    """A collaboration of three owners, and the queries that were started."""

    client: Client
    folder: Path
    worker: psutil.Process
    """The process of the workflows."""
    governance: LoadGovernance = field(default_factory=LoadGovernance)
    queries: dict[str, WorkflowHandle[PublishQuery, QueryState]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owners = {name: Owner(self.governance, self.folder, name) for name in NAMES}
        self.keys = {name: owner.key for name, owner in self.owners.items()}
        for owner in self.owners.values():
            owner.now = dt.datetime.now(dt.UTC)
        self.thief = load_or_create_signing_key(self.folder / "thief")

    async def publish(self) -> None:
        """Publish keys, and one dataset per owner."""
        for owner in self.owners.values():
            await owner.publish_key()
        for name, user, access in (("orders", "u-contosso", "read"), ("parts", "u-litware", "read"), ("out", "u-fabrikam", "write")):
            await publish_dataset(self.governance, name, user, access)

    def workers(self) -> Iterable[WorkerSpec]:
        """The activities of the frontend and of the three collaborators."""
        client: Any = LoadCaller(self.governance, "u-frontend")
        documents = UserDocuments(client, COLLABORATION)
        frontend = Frontend(documents, UserReader(client, COLLABORATION), COLLABORATION)
        drafts = (frontend.generate_query_document, frontend.determine_dataset_owners)
        own = (*drafts, frontend.verify_decision, frontend.find_query_change, Watcher(documents, COLLABORATION).watch_queries)
        yield WorkerSpec("frontend", FRONTEND_QUEUE, (), own)
        for name, owner in self.owners.items():
            at = owner.worker
            notify = Notifications(owner.settings, owner.documents).notify
            acts = (at.create_document, at.propose_query, at.withdraw_proposal, at.accept_query, at.reject_query, notify)
            yield WorkerSpec(name, collaborator_queue(name), (), acts)

    def worker_mib(self) -> int:
        """Return the resident memory of the workflows' worker."""
        return round(self.worker.memory_info().rss / 2**20)

    async def draft(self, names: Iterable[str]) -> None:
        """Start queries of Fabrikam, which wait as drafts."""
        author, parties = self.owners["fabrikam"], tuple(Collaborator(name=name, user_id=user) for name, user in PARTIES.items())

        async def begin(name: str) -> None:
            sql = "SELECT o.region AS region, COUNT(*) AS total FROM o JOIN p ON o.region = p.region GROUP BY o.region"
            spec = QuerySpec(name=name, inputs={"o": "orders", "p": "parts"}, output="out", sql=sql)
            input = PublishQueryInput(
                collaboration=COLLABORATION,
                proposer=Collaborator(name="fabrikam", user_id="u-fabrikam"),
                parties=parties,
                spec=spec,
                authorisation=author.sign("create-query", name, spec.digest(), hours=YEARS.total_seconds() / 3600),
            )
            self.queries[name] = await self.client.start_workflow(
                PublishQuery.run,
                input,
                id=query_workflow_id(COLLABORATION, name),
                task_queue=FRONTEND_QUEUE,
                priority=fair_share(COLLABORATION, "fabrikam"),
                search_attributes=start_attributes(collaboration=COLLABORATION, kind="query", query=name, proposer="fabrikam"),
            )

        names = list(names)
        await limited(begin, names)
        await until(lambda: all(name in self.governance.drafts for name in names), seconds=1200)

    async def start(self, names: Iterable[str]) -> None:
        """Start queries of Fabrikam and propose them."""
        author, names = self.owners["fabrikam"], list(names)

        async def propose(name: str) -> None:
            held = self.governance.drafts[name]
            digest = document_digest(str(held.data))
            token = author.sign("propose-query", name, digest, version=str(held.version), hours=YEARS.total_seconds() / 3600)
            await self.queries[name].signal(PublishQuery.propose, {"party": "fabrikam", "authorisation": token})

        await self.draft(names)
        await limited(propose, names)
        await until(lambda: all(self.governance.open_proposal(name) for name in names), seconds=1200)

    def decision(
        self, query: str, name: str, decision: Any = "approve", *, key: SigningKey | None = None, **changes: Any
    ) -> DecisionMessage:
        """A signed decision of an owner on the open proposal; with ``key`` or ``changes``, a forged one."""
        found = self.governance.open_proposal(query)
        assert found is not None
        held = found[1].content.args["document"]
        content = {
            "collaboration": COLLABORATION, "signer": PARTIES[name], "expires": dt.datetime.now(dt.UTC) + dt.timedelta(days=30),
            "query": query, "version": held["version"], "proposal_id": found[0], "digest": document_digest(held["data"]),
            "decision": decision,
        }  # fmt: skip
        return DecisionMessage(decision=sign(Decision.model_validate(content | changes), key or self.keys[name]))

    def decisions(self, seed: int, *, duplicates: float = 0.1, forged: float = 0.05) -> tuple[list[Sent], set[str]]:
        """Return query, signal and message of a decision per owner and query in random order, and the queries that an owner rejects."""
        order = random.Random(seed)
        sent: list[Sent] = []
        rejected = set(order.sample(sorted(self.queries), len(self.queries) // 10))
        for query in self.queries:
            against = order.choice(NAMES) if query in rejected else ""
            for name in NAMES:
                verdict = "reject" if name == against else "approve"
                sent.append((query, verdict, self.decision(query, name, verdict)))
        genuine = len(sent)
        sent += order.sample(sent, round(genuine * duplicates))
        for query in order.choices(sorted(set(self.queries) - rejected), k=round(genuine * forged)):
            name = order.choice(NAMES)
            kinds = ({"key": self.thief}, {"digest": "0" * 64}, {"proposal_id": "another"}, {"signer": "u-mallory"})
            sent.append((query, "approve", self.decision(query, name, **order.choice(kinds))))  # type: ignore[arg-type]
        order.shuffle(sent)
        return sent, rejected

    async def send(self, messages: list[Sent]) -> None:
        """Send decisions as signals."""
        await limited(lambda item: self.queries[item[0]].signal(item[1], item[2].model_dump()), messages)

    async def states(self) -> dict[str, QueryState]:
        """The state of every query, as its workflow shows it."""
        found: dict[str, QueryState] = {}

        async def ask(name: str) -> None:
            found[name] = await self.queries[name].query(PublishQuery.state)

        await limited(ask, list(self.queries))
        return found


async def limited(work: Callable[[Any], Awaitable[Any]], items: list[Any]) -> None:
    """Do ``work`` for every item, for some at the same time."""
    slots = asyncio.Semaphore(CONCURRENT)

    async def one(item: Any) -> None:
        async with slots:
            await work(item)

    await asyncio.gather(*map(one, items))


async def until(done: Callable[[], bool], *, seconds: float = 600) -> None:
    """Wait until ``done()``, which changes in this process."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the load was not handled in time"
        await asyncio.sleep(0.01)


def failed_workflow_tasks(url: str) -> Counter[str]:
    """Return the failed workflow tasks by cause, from the server's Prometheus metrics."""
    found: Counter[str] = Counter()
    for line in httpx.get(f"{url}/metrics", timeout=30).text.splitlines():
        if line.startswith("failed_workflow_tasks"):
            cause = re.search(r'failure="([^"]*)"|cause="([^"]*)"', line)
            found[next(filter(None, cause.groups()), "") if cause else line] += int(float(line.rsplit(" ", 1)[1]))
    return found


@asynccontextmanager
async def load(client: Client, folder: Path, keyring: Keyring, *, cached: int = 1000) -> AsyncIterator[Load]:
    """A collaboration with its workers; ``cached`` is how many workflows their worker keeps in memory."""
    file = folder / "keyring.json"
    keyring.save(file)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load_world", client.service_client.config.target_host, client.namespace, str(file), str(cached)
    )
    try:
        world = Load(client, folder, psutil.Process(process.pid))
        await world.publish()
        async with AsyncExitStack() as stack:
            for spec in world.workers():
                await stack.enter_async_context(create_worker(client, spec))
            yield world
    finally:
        process.terminate()
        await process.wait()


async def serve(address: str, namespace: str, keyring: Path, cached: int) -> None:
    """Run the frontend's workflows until the process is stopped."""
    converter = data_converter(Keyring.load(keyring), accept_unbound=True)
    client = await Client.connect(address, namespace=namespace, data_converter=converter, grpc_compression=GrpcCompression.NONE)
    spec = WorkerSpec("frontend", FRONTEND_QUEUE, (PublishQuery, WatchQueries), (), max_cached_workflows=cached)
    async with FreedMemory(), create_worker(client, spec):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
