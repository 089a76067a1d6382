"""The environment of the governance state machine: stand-in, workers and collaborators. No cloud, no Spark."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.authorisations import AuthorisationVerifier
from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from activities.query_watch import Watcher
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import DatasetSpec
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import (
    FRONTEND_QUEUE,
    approver_key_document_id,
    collaborator_queue,
    user_secret_name,
    watch_workflow_id,
)
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.settings import Settings
from cleanroom.statements import KeyDocument
from cleanroom.statements.keys import KEY_LABELS
from cleanroom.temporal.freshness import GovernanceFreshness
from cleanroom.temporal.workers import WorkerSpec, create_worker
from localcloud.standins.cgs.nodes import Nodes
from starters.operations.session import Session
from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import Person, Target
from tests.patience import PATIENCE
from tests.servers import fixed_id
from tests.temporal_env import TEST_KEYRING, client_with
from workers.watch_keeper import ensure_watcher
from workflows.publish_query import PublishQuery
from workflows.watch_queries import WatchQueries

T = TypeVar("T")

AUTHOR, OWNERS = "fabrikam", ("contosso", "litware")
PEOPLE = (AUTHOR, *OWNERS)
INTERVAL = 0.2
"""Seconds between two looks of the watcher."""


@contextmanager
def open_world(folder: Path, env: WorkflowEnvironment) -> Iterator[World]:
    """Start the governance stand-in and the workers, and stop them after the block."""
    standin = StandIn(folder)
    with standin.serve(slow_history=False, lag_ms=1) as found:
        target = Target(found)
        world = World(target, folder, env, standin.nodes)
        try:
            yield world
        finally:
            world.close()
            target.close()


class World:
    """The governance stand-in, the workers and the collaborators. Asynchronous work runs on an event loop in another thread."""

    def __init__(self, target: Target, folder: Path, env: WorkflowEnvironment, nodes: Nodes) -> None:
        self.nodes = nodes
        self.target, self.collaboration = target, target.accepted_contract(target.policy())
        self.users = {name: fixed_id("machine", name) for name in (*PEOPLE, "frontend")}
        for user in self.users.values():
            target.govern("set_user_identity", {"id": user, "accountType": "microsoft", "data": {"tenantId": target.settings.tenant}})
        self._folder, self._env = folder, env
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="governance-machine", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.clients: dict[str, GovernanceUserClient] = {}
        self.sessions: dict[str, Session] = {}
        self.temporal: Client
        self._worker: Worker | None = None
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Run ``work`` on the event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        """Stop the workers and the event loop."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _client(self, name: str) -> GovernanceUserClient:
        person, verify = Person(self.users[name], self.target.settings.tenant), self._folder / "tls"
        ca = verify / "ca.pem"
        return GovernanceUserClient(self.target.settings.url, token=lambda: self.target.token(person), ca_file=ca)

    async def observe(self, read: Callable[[GovernanceUserClient], Coroutine[Any, Any, T]]) -> T:
        """Read governance as it is after everything that the workers and collaborators have done.

        The reader is not a worker's client, because it has seen more than the workers have.
        """
        for client in self.clients.values():
            await self.observer.catch_up(str(client.position))
        return await read(self.observer)

    def documents(self, name: str) -> UserDocuments:
        """Return the documents of the contract as this user reads and writes them."""
        return UserDocuments(self.clients[name], self.collaboration)

    async def _start(self) -> None:
        for name in self.users:
            self.clients[name] = await self._stack.enter_async_context(self._client(name))
        self.observer = await self._stack.enter_async_context(self._client("frontend"))
        own = {name: user for name, user in self.users.items() if name in PEOPLE}
        for name in PEOPLE:
            values = Settings(
                profile=name, collaboration=self.collaboration, party=name, parties=own, keys_dir=self._folder / "keys" / name
            )
            self.sessions[name] = Session(values)
            key = KeyDocument(user_id=own[name], keys=(self.sessions[name].key().public,))
            await self.documents(name).publish_own(approver_key_document_id(own[name]), key.to_data(), KEY_LABELS, own[name])
        await self._publish("contosso", "machine-flights", "read")
        await self._publish("litware", "machine-output", "write")
        self.temporal = await client_with(self._env, TEST_KEYRING, accept_unbound=True)
        for name in PEOPLE:
            await self._stack.enter_async_context(create_worker(self.temporal, self._collaborator(name)))
        self._stack.push_async_callback(self.stop_frontend)
        await self.start_frontend()
        await ensure_watcher(self.temporal, self.collaboration)
        self._stack.push_async_callback(self.watcher.terminate)

    @property
    def watcher(self) -> WorkflowHandle[Any, Any]:
        """The watcher of the queries."""
        return self.temporal.get_workflow_handle(watch_workflow_id(self.collaboration))

    async def _publish(self, owner: str, name: str, access: Literal["read", "write"]) -> None:
        spec = DatasetSpec.model_validate(
            {
                "name": name,
                "format": "parquet",
                "access": access,
                "schema": {"origin": "string", "flights": "long"},
                "store": {"kind": "aws-s3", "bucket": owner, "connectionSecret": "secret:s3"},
            }
        )
        user = self.users[owner]
        secrets = [StoredSecret(kind=kind, secret_id=f"{user}_{user_secret_name(name, kind)}") for kind in ("connection", "key")]
        request = DescriptorRequest(
            collaboration=self.collaboration,
            owner_id=user,
            spec=spec,
            store_url="https://s3.us-east-1.amazonaws.com",
            region="us-east-1",
            secrets=tuple(secrets),
        )
        made = generate_descriptor(request)
        await self.documents(owner).publish_own(name, made.data, made.labels, user)

    def reader(self) -> UserReader:
        """Return the frontend's reader."""
        return UserReader(self.clients["frontend"], self.collaboration)

    async def start_frontend(self, **activities: Callable[..., Any]) -> None:
        """Start the frontend's worker, with other ``activities`` in place of its own."""
        spec = self._frontend()
        own = [activities.get(item.__name__, item) for item in spec.activities]
        self._worker = create_worker(self.temporal, replace(spec, activities=own))
        await self._worker.__aenter__()

    async def stop_frontend(self) -> None:
        """Stop the frontend's worker, if it runs."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.__aexit__(None, None, None)

    def _frontend(self) -> WorkerSpec:
        frontend = Frontend(self.documents("frontend"), self.reader(), self.collaboration)
        activities = (
            frontend.generate_query_document,
            frontend.determine_dataset_owners,
            frontend.verify_decision,
            frontend.find_query_change,
            Watcher(self.documents("frontend"), self.collaboration, interval=INTERVAL).watch_queries,
        )
        return WorkerSpec(
            name="frontend",
            task_queue=FRONTEND_QUEUE,
            workflows=(PublishQuery, WatchQueries),
            activities=activities,
            interceptors=(self._freshness("frontend"),),
            # Longer than a test waits: an activity that does not return at once when the worker stops fails the test.
            graceful_shutdown=timedelta(seconds=2 * PATIENCE),
        )

    def _freshness(self, name: str) -> GovernanceFreshness:
        client = self.clients[name]
        return GovernanceFreshness(client.catch_up, lambda: str(client.position))

    def _collaborator(self, name: str) -> WorkerSpec:
        own = self.sessions[name].settings
        authorisations = AuthorisationVerifier(own, UserReader(self.clients[name], self.collaboration))
        governance = CollaboratorGovernance(own, authorisations, self.documents(name), KeyStore(own.keys_dir, own.collaboration))
        activities = (
            governance.create_document,
            governance.update_document,
            governance.confirm_withdrawal,
            governance.propose_query,
            governance.withdraw_proposal,
            governance.accept_query,
            governance.reject_query,
        )
        return WorkerSpec(
            name=f"collaborator.{name}",
            task_queue=collaborator_queue(name),
            activities=activities,
            interceptors=(self._freshness(name),),
        )
