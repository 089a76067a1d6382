"""A collaboration with any number of datasets, on a governance stand-in that counts the requests it gets.

It has real signatures, documents, attestation evidence and secrets, and no storage, Kubernetes or Azure. That is enough for
``Prepare`` on datasets in S3.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime as dt
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from temporalio.client import Client

from activities.clean_room import CleanRoomGovernance
from activities.clean_room_context import CleanRoomContext, run_trust
from activities.clean_room_secrets import CleanRoomSecrets
from activities.spark_service import SparkServiceActivities
from cleanroom.attestation import AttestationEvidence, report_data_for
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.governance import CleanRoomClient, GovernanceUserClient, LedgerPosition
from cleanroom.governance.endpoint import proxy_headers
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    SPARK_SERVICE_QUEUE,
    approver_key_document_id,
    decision_document_id,
    document_digest,
    user_secret_name,
)
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data
from cleanroom.runs.reader import UserReader
from cleanroom.secret import Secret
from cleanroom.settings import GovernanceSettings, Settings
from cleanroom.spark.service import SparkService
from cleanroom.statements import Decision, RunRequest, SigningKey, load_or_create_signing_key, sign
from cleanroom.statements.keys import KEY_LABELS, KeyDocument
from cleanroom.temporal.workers import WorkerSpec, create_worker
from cleanroom.trust import Bootstrap, TrustDocument
from localcloud.standins.cgs.bootstrap import User, bootstrap
from localcloud.standins.cgs.nodes import Nodes
from localcloud.standins.cgs.server import create_app
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware
from tests.conformance.governance.standin import MEMBER_TOKEN, TENANT, StandIn
from tests.conformance.governance.target import Person, Target
from tests.unit.spark_support import make_trust_document
from workflows.prepare import Prepare

COLLABORATION, QUERY = "flights", "totals"
OWNERS = ("contosso", "litware")
PEOPLE = (*OWNERS, "fabrikam", "clean-room", "spark-service")
CLEAN_ROOM_HOST, SPARK_HOST = "c1" * 32, "5a" * 32


@dataclass(frozen=True)
class Guest:
    """A guest with chosen host data on the development hardware."""

    hardware: DevelopmentHardware
    host_data: str

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        """Return evidence that binds ``runtime_data``."""
        return self.hardware.evidence(bytes.fromhex(self.host_data), report_data_for(runtime_data))


class RequestCounter:
    """ASGI middleware that counts HTTP requests by method and path."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.requests: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.requests[f"{scope['method']} {scope['path']}"] += 1
        await self._app(scope, receive, send)

    def reset(self) -> None:
        """Forget what was counted so far."""
        self.requests.clear()

    @property
    def total(self) -> int:
        """Number of requests since the last reset."""
        return sum(self.requests.values())


class PrepareWorld:
    """Two owners, an analyst, and what they published. Make one with :func:`prepare_world`."""

    def __init__(self, folder: Path, standin: StandIn, counter: RequestCounter, url: str, token: Callable[[str], str]) -> None:
        self.folder, self.counter = folder, counter
        self.nodes: Nodes
        """The nodes of governance."""
        self.hardware = standin.hardware
        self._url, self._ca, self._token = url, standin.authority.ca_file, token
        self.keys: dict[str, SigningKey] = {name: load_or_create_signing_key(folder / name) for name in PEOPLE}
        self.settings = Settings(
            collaboration=COLLABORATION,
            boundary="clean-room",
            ca_file=self._ca,
            governance=GovernanceSettings(url=url),
        )
        self.bootstrap = Bootstrap(
            contract_id=COLLABORATION, governance_url=url, governance_roots=self._ca.read_text("ascii"), development=True
        )

    def trust_document(self, number: int) -> TrustDocument:
        """Return the collaboration's trust document with a number."""
        return make_trust_document(self.hardware, number=number, spark_service_host_data=(SPARK_HOST,))

    def user(self, name: str, mode: Literal["app", "cgs-client"] = "app") -> GovernanceUserClient:
        """Governance as a registered user sees it, directly or through the proxy."""
        url = self._url if mode == "app" else f"{self._url}/cgs-client"
        headers = proxy_headers(self._url, None) if mode == "cgs-client" else None
        return GovernanceUserClient(url, token=lambda: self._token(name), mode=mode, ca_file=self._ca, headers=headers)

    def clean_room(self, position: LedgerPosition | None = None) -> CleanRoomClient:
        """Governance as the attested clean room sees it. Its clients share their position, as in a worker."""
        attestor: Any = Guest(self.hardware, CLEAN_ROOM_HOST)
        return CleanRoomClient(self._url, COLLABORATION, attestor, ca_file=self._ca, position=position)

    def guest(self, host_data: str) -> CleanRoomClient:
        """Governance as a guest with this host data sees it."""
        attestor: Any = Guest(self.hardware, host_data)
        return CleanRoomClient(self._url, COLLABORATION, attestor, ca_file=self._ca)

    # ------------------------------------------------------------------ publish

    async def publish(self, inputs: int, *, query: str = QUERY) -> None:
        """Publish keys, ``inputs`` datasets of both owners in turn, an output dataset, and a query that both owners approve."""
        users = [User(oid=name, tenant_id=TENANT) for name in PEOPLE]
        await bootstrap(self._url, self._ca, MEMBER_TOKEN, COLLABORATION, users, [CLEAN_ROOM_HOST], trust=self.trust_document)
        names = [f"{OWNERS[index % 2]}-{index}" for index in range(inputs)]
        async with AsyncExitStack() as stack:
            clients = {name: await stack.enter_async_context(self.user(name)) for name in PEOPLE}
            documents = {name: UserDocuments(client, COLLABORATION) for name, client in clients.items()}
            for name in (*OWNERS, "fabrikam"):
                data = KeyDocument(user_id=name, keys=(self.keys[name].public,)).to_data()
                await documents[name].publish_own(approver_key_document_id(name), data, KEY_LABELS, name)
            for name in (*names, "litware-output"):
                owner = name.split("-")[0]
                for kind, value in (("key", encode_dataset_key(generate_dataset_key())), ("connection", Secret(b'{"awsAccessKeyId":"a"}'))):
                    await clients[owner].put_secret(COLLABORATION, user_secret_name(name, kind), value)
                descriptor = generate_descriptor(_descriptor_request(name, owner))
                await documents[owner].publish_own(name, descriptor.data, descriptor.labels, owner)
            spec = _query_spec(query, names)
            request = GenerateQueryRequest(collaboration=COLLABORATION, spec=spec, proposer_id="fabrikam")
            draft = await generate_query(UserReader(clients["fabrikam"], COLLABORATION), request)
            version = await documents["fabrikam"].put_draft(query, draft.data, draft.labels, list(draft.owners))
            proposal = await documents["fabrikam"].propose(query, version, "ab" * 16)
            for owner in draft.owners:
                decision = Decision(
                    collaboration=COLLABORATION,
                    signer=owner,
                    expires=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
                    query=query,
                    version=version,
                    proposal_id=proposal,
                    digest=document_digest(draft.data),
                    decision="approve",
                )
                body = decision_document_data(sign(decision, self.keys[owner]))
                await documents[owner].publish_own(decision_document_id(proposal, owner), body, DECISION_LABELS, owner)
                await documents[owner].vote(proposal, owner, accept=True)

    async def ticket(self, run_id: str, query: str = QUERY) -> RunTicket:
        """Return Fabrikam's signed request for a run of the query."""
        async with self.user("fabrikam") as client:
            document = await client.get_document(query)
        request = RunRequest(
            collaboration=COLLABORATION,
            signer="fabrikam",
            expires=dt.datetime.now(dt.UTC) + dt.timedelta(hours=12),
            query=query,
            digest=document_digest(str(document.data)),
            run_id=run_id,
        )
        return RunTicket(collaboration=COLLABORATION, query=query, run_id=run_id, request=sign(request, self.keys["fabrikam"]))


def _descriptor_request(name: str, owner: str) -> DescriptorRequest:
    spec = DatasetSpec.model_validate(
        {
            "name": name,
            "format": "csv",
            "access": "write" if name.endswith("output") else "read",
            "schema": {"region": "string", "total": "long"},
            "store": {"kind": "aws-s3", "bucket": owner, "subdirectory": name, "connectionSecret": "secret:s3"},
        }
    )
    secrets = [StoredSecret(kind=kind, secret_id=f"{owner}_{user_secret_name(name, kind)}") for kind in ("connection", "key")]
    return DescriptorRequest(
        collaboration=COLLABORATION,
        owner_id=owner,
        spec=spec,
        store_url="https://s3.us-east-1.amazonaws.com",
        region="us-east-1",
        secrets=tuple(secrets),
    )


def _query_spec(query: str, names: list[str]) -> QuerySpec:
    views = {f"v{index}": name for index, name in enumerate(names)}
    joins = "".join(f" JOIN {view} ON v0.region = {view}.region" for view in list(views)[1:])
    sql = f"SELECT v0.region AS region, COUNT(*) AS total FROM v0{joins} GROUP BY v0.region"
    return QuerySpec(name=query, inputs=views, output="litware-output", sql=sql)


@contextmanager
def prepare_world(folder: Path, **changes: Any) -> Iterator[PrepareWorld]:
    """Serve governance from this process, with ``changes`` of its configuration; nothing is published yet."""
    standin = StandIn(folder)
    app = create_app(standin.config(slow_history=False, **changes))
    counter = RequestCounter(app)
    with serving(counter, "cgs", standin.tls) as url:
        target = Target(standin.settings(url))
        try:
            world = PrepareWorld(folder, standin, counter, url, lambda name: target.token(Person(name, TENANT)))
            world.nodes = app.state.nodes
            yield world
        finally:
            target.close()


@contextmanager
def published_world(folder: Path, inputs: int) -> Iterator[PrepareWorld]:
    """Serve governance with what :meth:`PrepareWorld.publish` publishes, which happens once per process and is copied."""
    shutil.copytree(_published(inputs), folder, dirs_exist_ok=True)
    with prepare_world(folder) as world:
        yield world


@cache
def _published(inputs: int) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="cleanroom-published-")
    atexit.register(folder.cleanup)
    with prepare_world(Path(folder.name)) as world, ThreadPoolExecutor(1) as own_loop:
        own_loop.submit(lambda: asyncio.run(world.publish(inputs))).result()
    return Path(folder.name)


@asynccontextmanager
async def prepare_workers(world: PrepareWorld, temporal: Client, *others: Client, unhurried: bool = False) -> AsyncIterator[None]:
    """Run workers of the clean room and the Spark service of a world; the latter has no Kubernetes. Each client has a clean room.

    ``unhurried``: what the activities of a run share does not get old, and they wait long for each other. The requests do then
    not depend on the speed of the machine.
    """
    pace: dict[str, Any] = {"timer": lambda: 0.0, "pause": lambda seconds: asyncio.sleep(20 * seconds)} if unhurried else {}
    async with AsyncExitStack() as stack:
        for connection in (temporal, *others):
            client = await stack.enter_async_context(world.clean_room())
            user = await stack.enter_async_context(world.user("clean-room"))
            room = CleanRoomContext(world.settings, world.bootstrap, client, user, **pace)
            guest: Any = Guest(world.hardware, CLEAN_ROOM_HOST)
            room.attestor = guest
            governance, secrets = CleanRoomGovernance(room), CleanRoomSecrets(room)
            here: list[Callable[..., Any]] = [
                *(governance.get_users, governance.fetch_query, governance.validate_access_and_approvals),
                *(governance.check_execution_consent, governance.build_job, governance.verify_spark, governance.verify_security_policy),
                *(governance.record_event, secrets.get_key_with_skr, secrets.get_secret, secrets.set_secret, secrets.configure_idp),
            ]
            await stack.enter_async_context(create_worker(connection, WorkerSpec("clean-room", CLEAN_ROOM_QUEUE, (Prepare,), here)))
        service_user = await stack.enter_async_context(world.user("spark-service"))
        kubernetes: Any = None
        service = SparkService(Guest(world.hardware, SPARK_HOST), kubernetes)
        reader = UserReader(service_user, world.settings.collaboration)
        spark = SparkServiceActivities(
            world.settings, service, reader, run_trust(world.settings, world.bootstrap, service_user.get_member_document)
        )
        there: list[Callable[..., Any]] = [spark.get_attestation_report, spark.get_security_policy]
        await stack.enter_async_context(create_worker(temporal, WorkerSpec("spark-service", SPARK_SERVICE_QUEUE, (), there)))
        yield
