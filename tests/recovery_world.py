"""All workers of a collaboration on one Temporal namespace, with the governance of :mod:`tests.prepare_world` and a cluster in memory.

The activities are the real ones. A pod is played by the test: it reads nothing, and writes the run's result receipt with its own host
data. So a run takes a fraction of a second and needs no JVM.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from temporalio.client import Client

from activities.authorisations import AuthorisationVerifier
from activities.clean_room import CleanRoomGovernance
from activities.clean_room_cleanup import CleanRoomCleanup
from activities.clean_room_context import CleanRoomContext, run_trust
from activities.clean_room_secrets import CleanRoomSecrets
from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from activities.run_origin import run_origin
from activities.spark_service import SparkServiceActivities
from cleanroom.datasets.keystore import KeyStore
from cleanroom.governance import CleanRoomClient, GovernanceUserClient
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, collaborator_queue, job_name
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.ledger import event_scope
from cleanroom.runs.reader import UserReader
from cleanroom.settings import GovernanceSettings, Settings, TemporalSettings
from cleanroom.spark.job import JobConfig
from cleanroom.spark.kubernetes_objects import SubmittedJob
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.run_events import event_id
from cleanroom.spark.service import SparkService, Submission
from cleanroom.statements import SigningKey
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.freshness import GovernanceFreshness
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.operations.session import Session
from tests.completion import completed_event
from tests.prepare_world import CLEAN_ROOM_HOST, COLLABORATION, OWNERS, SPARK_HOST, Guest, PrepareWorld
from tests.temporal_env import TEST_KEYRING
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_query import PublishQuery
from workflows.run_query import RunQuery

PARTIES = (*OWNERS, "fabrikam")


class Cluster(SparkService):
    """Applications in memory, whose driver ends when :meth:`complete` is called."""

    def __init__(self, world: PrepareWorld) -> None:
        kubernetes: Any = None
        super().__init__(Guest(world.hardware, SPARK_HOST), kubernetes)
        self._world = world
        self.running: dict[str, tuple[JobConfig, PodProfile, asyncio.Event]] = {}

    async def submit(self, job: JobConfig, profile: PodProfile, granted: Collection[str]) -> Submission:
        name = job_name(job.contract_id, job.query_id, job.run_id)
        assert set(pod_policies(job, profile).host_data()) <= set(granted)
        created = name not in self.running
        self.running.setdefault(name, (job, profile, asyncio.Event()))
        return Submission(tracking_id=name, uid="uid", created=created, namespace="spark")

    async def jobs(self, contract_id: str) -> list[SubmittedJob]:
        now = dt.datetime.now(dt.UTC)
        return [
            SubmittedJob(
                name=name, uid="uid", contract_id=job.contract_id, query=job.query_id, run_id=job.run_id, created_at=now, ended=False
            )
            for name, (job, _, ended) in self.running.items()
            if not ended.is_set()
        ]

    async def watch(self, tracking_id: str, *arguments: Any, **options: Any) -> Any:
        await self.running[tracking_id][2].wait()
        outcome: Any = type("Completed", (), {"error": staticmethod(lambda: None)})
        return outcome

    async def delete(self, tracking_id: str, *, uid: str | None = None, seconds: float = 60) -> bool:
        return self.running.pop(tracking_id, None) is not None

    async def submitted(self, run_id: str) -> tuple[JobConfig, PodProfile, asyncio.Event]:
        """Wait until the application of a run is submitted."""
        while not (found := [each for each in self.running.values() if each[0].run_id == run_id]):
            await asyncio.sleep(0.01)
        return found[0]

    async def complete(self, run_id: str) -> None:
        """Let the driver of a run write its receipt, and end."""
        job, profile, ended = await self.submitted(run_id)
        event = completed_event(job, rows=42, digest="9" * 64, columns=("region", "total"))
        async with self._world.guest(pod_policies(job, profile).driver.host_data) as pod:
            await pod.put_event(event.wire(), event_id=event_id(run_id, "QUERY_COMPLETED"), scope=event_scope(run_id))
        ended.set()


class WorldSession(Session):
    """A collaborator's session with the clients of a world."""

    def __init__(self, world: PrepareWorld, name: str, temporal: Client) -> None:
        super().__init__(settings_of(world, name))
        self._world, self._client = world, temporal

    def governance(self) -> GovernanceUserClient:
        return self._world.user(self.party)

    def key(self) -> SigningKey:
        return self._world.keys[self.party]

    async def temporal(self, *, scope: Literal["workflow", "schedule"] = "workflow") -> Client:
        if scope == "workflow":
            return self._client
        return Client(**{**self._client.config(), "data_converter": data_converter(TEST_KEYRING, scope=scope)})


def settings_of(world: PrepareWorld, name: str) -> Settings:
    """Return the settings of a collaborator."""
    return Settings(
        profile=name,
        collaboration=COLLABORATION,
        party=name,
        parties={party: party for party in PARTIES},
        keys_dir=world.folder / name,
        ca_file=world.settings.ca_file,
        governance=GovernanceSettings(url=world.settings.governance.url),
        # The clients of the world encrypt; this only says so.
        temporal=TemporalSettings(keyring_file=world.folder / "keyring"),
    )


@asynccontextmanager
async def deployment(world: PrepareWorld, temporal: Client, cluster: SparkService) -> AsyncIterator[dict[str, WorldSession]]:
    """Run the workers of all boundaries on the namespace of a client; yield the collaborators' sessions on it."""
    async with AsyncExitStack() as stack:

        async def user(name: str) -> GovernanceUserClient:
            return await stack.enter_async_context(world.user(name))

        async def serve(client: GovernanceUserClient, queue: str, workflows: tuple[type, ...], activities: list[Any]) -> None:
            freshness = GovernanceFreshness(client.catch_up, lambda: str(client.position))
            # Heartbeats deliver the cancellation of the consent watch.
            extra = {"max_heartbeat_throttle_interval": dt.timedelta(seconds=1)}
            spec = WorkerSpec(queue, queue, workflows, activities, (freshness,), graceful_shutdown=dt.timedelta(), extra=extra)
            await stack.enter_async_context(create_worker(temporal, spec))

        own = await user("clean-room")
        client: CleanRoomClient = await stack.enter_async_context(world.clean_room(own.position))
        room = CleanRoomContext(world.settings, world.bootstrap, client, own, origin=run_origin)
        guest: Any = Guest(world.hardware, CLEAN_ROOM_HOST)
        room.attestor = guest
        governance, secrets, cleanup = CleanRoomGovernance(room), CleanRoomSecrets(room), CleanRoomCleanup(room)
        steps: list[Any] = [
            *(governance.get_users, governance.fetch_query, governance.validate_access_and_approvals, governance.check_execution_consent),
            *(governance.build_job, governance.verify_spark, governance.verify_security_policy, governance.record_event),
            *(governance.collect_result, secrets.get_secret, secrets.set_secret, secrets.configure_idp, secrets.issue_consent_receipt),
            *(secrets.watch_consent, secrets.revoke_grants, cleanup.find_held, cleanup.describe_runs),
        ]
        await serve(own, CLEAN_ROOM_QUEUE, (RunQuery, Prepare, ConcludeRun, Cleanup), steps)
        service = await user("spark-service")
        trust = run_trust(world.settings, world.bootstrap, service.get_member_document)
        spark = SparkServiceActivities(world.settings, cluster, UserReader(service, COLLABORATION), trust)
        jobs: list[Any] = [spark.get_attestation_report, spark.get_security_policy, spark.submit_job, spark.watch_job]
        await serve(service, SPARK_SERVICE_QUEUE, (), [*jobs, spark.delete_job, spark.list_jobs])
        # Any registered user may read what the frontend reads.
        reader = await user("spark-service")
        front = Frontend(UserDocuments(reader, COLLABORATION), UserReader(reader, COLLABORATION), COLLABORATION)
        queries = [front.generate_query_document, front.determine_dataset_owners, front.verify_decision, front.find_query_change]
        await serve(reader, FRONTEND_QUEUE, (PublishQuery,), queries)
        for name in PARTIES:
            person, settings = await user(name), settings_of(world, name)
            verifier = AuthorisationVerifier(settings, UserReader(person, COLLABORATION))
            votes = CollaboratorGovernance(
                settings, verifier, UserDocuments(person, COLLABORATION), KeyStore(settings.keys_dir, COLLABORATION)
            )
            commands = [votes.create_document, votes.update_document, votes.propose_query, votes.accept_query, votes.reject_query]
            await serve(person, collaborator_queue(name), (), [*commands, votes.confirm_withdrawal, votes.withdraw_proposal])
        yield {name: WorldSession(world, name, temporal) for name in PARTIES}
