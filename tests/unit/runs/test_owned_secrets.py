"""A run reads no secret of another owner, whatever a dataset's document names; and a job holds what its documents say."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from typing import Any

import pytest

from cleanroom.documents.dataset import CsvDialect
from cleanroom.documents.query import PostFilter, PreCondition, QuerySegments, encode_segments
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import clean_room_secret_id, federated_subject, run_secret_name, sha256_hex
from cleanroom.messages.run import StageRequest
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authorised import AuthorisedRun, Dataset
from cleanroom.runs.ledger import event_scope
from cleanroom.spark.job import BlobAccess, JobConfig, JobDataset, JobParameters, S3Access
from tests.audit_records import COLLABORATION, DATASETS, QUERY
from tests.run_world import RunWorld
from tests.unit.runs.asymmetric_world import OWNER_OF, SINK, AsymmetricWorld

PLANES, FLIGHTS = "litware-planes", "contosso-flights"
ENVIRONMENT = JobEnvironment("https://cgs.example", "https://login.example", "PEM\n", ("store.example",), "trust-flights-1", "ab" * 32)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> AsymmetricWorld:
    return AsymmetricWorld(tmp_path_factory.mktemp("secrets"))


@pytest.fixture
def world(genuine: AsymmetricWorld) -> AsymmetricWorld:
    return genuine.changed()


def assemble(world: AsymmetricWorld) -> JobConfig:
    run = asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    return assemble_job(run, ENVIRONMENT)


def configured(world: AsymmetricWorld, dataset: str, **changes: Any) -> None:
    """Change the configuration of a store; None removes a member. All owners approve the changed dataset."""

    def change(text: dict[str, Any]) -> None:
        provider = text["datasetAccessPoint"]["store"]["provider"]
        content = json.loads(base64.b64decode(provider["configuration"] or "e30=")) | changes
        content = {name: value for name, value in content.items() if value is not None}
        provider["configuration"] = base64.b64encode(json.dumps(content).encode()).decode()

    world.edit(dataset, change)
    world.approve_again()


def point_of(world: AsymmetricWorld, dataset: str, change: Any) -> None:
    world.edit(dataset, lambda text: change(text["datasetAccessPoint"]) and None)
    world.approve_again()


# ---------------------------------------------------------------------- connection secrets


@pytest.mark.parametrize("dataset", [PLANES, SINK])
@pytest.mark.parametrize(
    ("secret", "code"),
    [
        (lambda own, other: f"{own}_x", "accepted"),
        (lambda own, other: f"{other}_x", "SecretOwnerMismatch"),
        (lambda own, other: own, "SecretOwnerMismatch"),
        (lambda own, other: f"{own}x_x", "SecretOwnerMismatch"),
        (lambda own, other: f"x{own}_x", "SecretOwnerMismatch"),
        (lambda own, other: f"{own.upper()}_x", "SecretOwnerMismatch"),
        (lambda own, other: "cleanroom_x", "SecretOwnerMismatch"),
        (lambda own, other: "", "StoreConfigurationSecretIdMissing"),
        (lambda own, other: None, "StoreConfigurationSecretIdMissing"),
        (lambda own, other: 5, "StoreConfigurationSecretIdMissing"),
        (lambda own, other: [f"{own}_x"], "StoreConfigurationSecretIdMissing"),
    ],
)
def test_dataset_names_a_secret_of_its_owner(world: AsymmetricWorld, dataset: str, secret: Any, code: str) -> None:
    own, other = world.users[OWNER_OF[dataset]], world.users["contosso"]
    configured(world, dataset, secretId=secret(own, other))
    if code == "accepted":
        assert assemble(world)
        return
    with pytest.raises(CleanRoomError) as caught:
        assemble(world)
    assert caught.value.code == code
    assert dataset in caught.value.message


@pytest.mark.parametrize(
    ("kind", "code"),
    [("key", "SecretOwnerMismatch"), ("connection", "SecretOwnerMismatch"), ("type", "UnexpectedSecretBackingResourceType")],
)
async def test_clean_room_reads_no_secret_of_another_owner(genuine: AsymmetricWorld, kind: str, code: str) -> None:
    """The same check again, where the secret is read. The verification does not judge here, so that this check stands alone."""
    world = genuine.changed()
    other = f"{world.users['contosso']}_contosso-flights.key"

    def change(point: dict[str, Any]) -> None:
        resource = point["protection"]["encryptionSecrets"]["dek"]["secret"]["backingResource"]
        if kind == "connection":
            configuration = json.dumps({"region": "us-east-1", "secretId": other}).encode()
            point["store"]["provider"]["configuration"] = base64.b64encode(configuration).decode()
        elif kind == "key":
            resource["name"] = other
        else:
            resource["type"] = "Descriptor"

    point_of(world, PLANES, change)
    runs = RunWorld(world)
    ticket = world.asked_by("fabrikam")
    read: list[str] = []
    client: Any = runs.process.client
    genuine_read = client.get_secret

    async def get_secret(secret_id: str) -> Any:
        read.append(secret_id)
        return await genuine_read(secret_id)

    client.get_secret = get_secret

    unchanged = genuine.asked_by("fabrikam")
    job = assemble_job(await genuine.authority().authorise(unchanged), ENVIRONMENT)

    async def verified(*arguments: Any) -> Any:
        return type("Verified", (), {"run": await world.authority().authorise(ticket), "job": job})

    verifier: Any = runs.process.room.verifier
    verifier.resolve = lambda *messages: messages
    verifier.verify_release = verified
    request = StageRequest(ticket=ticket, proof=RunWorld(genuine).proof(unchanged), dataset=PLANES)
    with pytest.raises(CleanRoomError) as caught:
        await runs.call(runs.process.secrets.get_secret, request)
    assert caught.value.code == code
    assert read == []
    assert not [name for name in runs.governance.secrets if name.startswith("cleanroom_")]


# ---------------------------------------------------------------------- the job


def test_job_holds_what_the_documents_say(world: AsymmetricWorld) -> None:
    run = asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    job = assemble_job(run, ENVIRONMENT)
    document = run.document
    assert (job.contract_id, job.run_id, job.query_id) == (COLLABORATION, world.run_id, QUERY)
    assert (job.query_version, job.query_digest, job.event_scope) == (document.version, document.digest, event_scope(world.run_id))
    assert job.consent_secret_id == clean_room_secret_id(run_secret_name(world.run_id, QUERY, "consent"))
    assert job.network_secret_id == clean_room_secret_id(run_secret_name(world.run_id, QUERY, "network"))
    governance = job.governance
    assert (governance.url, governance.ca_pem, governance.storage_hosts) == ("https://cgs.example", "PEM\n", ("store.example",))
    assert (governance.trust_document, governance.trust_digest) == ("trust-flights-1", "ab" * 32)
    assert {segment.source_digest for segment in job.segments} == {sha256_hex(run.query.application.query.encode())}
    assert job.parameters == run.request.parameters
    assert job.source == run.query.application.segments().segments
    assert [item.name for item in (*job.datasets, job.datasink)] == list(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_of_the_job_is_its_document(world: AsymmetricWorld, name: str) -> None:
    run = asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    job = assemble_job(run, ENVIRONMENT)
    item = next(item for item in (*job.datasets, job.datasink) if item.name == name)
    found = run.dataset(name)
    schema, policy, point = found.dataset.dataset_schema, found.dataset.dataset_access_policy, found.dataset.dataset_access_point
    assert (item.view_name, item.owner_id) == (found.view, world.users[OWNER_OF[name]])
    assert (item.document_version, item.document_digest) == (found.document.version, found.document.digest)
    assert (item.format, item.schema_fields, item.csv_header) == (schema.format, schema.types(), schema.csv_header)
    assert (item.csv_dialect, item.partitioned_by) == (schema.csv_dialect, schema.partitioned_by)
    assert (item.allowed_fields, item.floors) == (policy.allowed_fields, policy.privacy_floors)
    assert (item.manifest, item.manifest_digest, item.encryption) == (point.manifest or "optional", point.manifest_digest, "CSE")
    assert item.key_secret_id == clean_room_secret_id(run_secret_name(world.run_id, name, "key"))
    if name == FLIGHTS:
        assert point.identity is not None
        assert item.access == BlobAccess(
            account_url="https://contosso.blob.core.windows.net",
            container=point.store.name,
            prefix=point.subdirectory,
            authority="https://login.example",
            tenant_id=point.identity.tenant_id,
            client_id=point.identity.client_id,
            subject=federated_subject(COLLABORATION, world.users["contosso"]),
            issuer_url="https://issuer.example",
        )
    else:
        assert item.access == S3Access(
            endpoint_url="https://s3.us-east-1.amazonaws.com",
            region="us-east-1",
            bucket=point.store.name,
            prefix=point.subdirectory,
            connection_secret_id=clean_room_secret_id(run_secret_name(world.run_id, name, "connection")),
        )


def test_store_without_region_or_address_has_the_usual_ones(world: AsymmetricWorld) -> None:
    configured(world, PLANES, region="eu-west-1")
    access = next(item for item in assemble(world).datasets if item.name == PLANES).access
    assert isinstance(access, S3Access)
    assert access.region == "eu-west-1"
    configured(world, PLANES, region=None)
    point_of(world, PLANES, lambda point: point["store"]["provider"].update(url=""))
    access = next(item for item in assemble(world).datasets if item.name == PLANES).access
    assert isinstance(access, S3Access)
    assert (access.region, access.endpoint_url) == ("us-east-1", None)


def test_job_under_another_environment_is_another_job(world: AsymmetricWorld) -> None:
    run = asyncio.run(world.authority().authorise(world.asked_by("fabrikam")))
    changed = [
        JobEnvironment(**{**vars(ENVIRONMENT), name: ("other",) if name == "storage_hosts" else "other"}) for name in vars(ENVIRONMENT)
    ]
    digests = [assemble_job(run, each).digest() for each in (ENVIRONMENT, *changed)]
    assert len(set(digests)) == len(digests)


# ---------------------------------------------------------------------- members that the demo's documents do not have


def altered(run: AuthorisedRun, name: str, *, schema: dict[str, Any] | None = None, point: dict[str, Any] | None = None) -> AuthorisedRun:
    """Return the run with another schema or access point of one dataset."""

    def change(item: Dataset) -> Dataset:
        if item.dataset.name != name:
            return item
        changes = {
            "dataset_schema": item.dataset.dataset_schema.model_copy(update=schema or {}),
            "dataset_access_point": item.dataset.dataset_access_point.model_copy(update=point or {}),
        }
        return dataclasses.replace(item, dataset=item.dataset.model_copy(update=changes))

    return dataclasses.replace(run, inputs=tuple(change(item) for item in run.inputs), sink=change(run.sink))


def job_dataset(job: JobConfig, name: str) -> JobDataset:
    return next(item for item in (*job.datasets, job.datasink) if item.name == name)


@pytest.fixture
def run(genuine: AsymmetricWorld) -> AuthorisedRun:
    return asyncio.run(genuine.authority().authorise(genuine.asked_by("fabrikam")))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("csv_header", True),
        ("csv_header", False),
        ("csv_dialect", CsvDialect(delimiter=";")),
        ("partitioned_by", "day"),
        ("unique_columns", ("tailnum",)),
    ],
)
def test_job_has_the_form_of_the_files(run: AuthorisedRun, member: str, value: Any) -> None:
    job = assemble_job(altered(run, FLIGHTS, schema={member: value}), ENVIRONMENT)
    assert getattr(job_dataset(job, FLIGHTS), member) == value


@pytest.mark.parametrize("mode", ["SSE", "CPK", "CSE"])
def test_only_dataset_without_a_key_of_its_owner_has_no_key(run: AuthorisedRun, mode: str) -> None:
    configuration = base64.b64encode(json.dumps({"EncryptionMode": mode}).encode()).decode()
    protection = run.dataset(FLIGHTS).dataset.dataset_access_point.protection.model_copy(update={"configuration": configuration})
    found = job_dataset(assemble_job(altered(run, FLIGHTS, point={"protection": protection}), ENVIRONMENT), FLIGHTS)
    key = clean_room_secret_id(run_secret_name(run.request.run_id, FLIGHTS, "key"))
    assert (found.encryption, found.key_secret_id) == (mode, None if mode == "SSE" else key)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "Azure_BlobStorage"),
        ({"type": "Azure_BlobStorage_DataLakeGen2"}, "Azure_BlobStorage_DataLakeGen2"),
        ({"type": "Azure_OneLake"}, "UnsupportedAccessPointStoreType"),
        ({"identity": None}, "AccessIdentityMissing"),
        ({"type": "Azure_BlobStorage_DataLakeGen2", "identity": None}, "AccessIdentityMissing"),
    ],
)
def test_azure_store_is_read_with_an_identity(run: AuthorisedRun, change: dict[str, Any], code: str) -> None:
    point = run.dataset(FLIGHTS).dataset.dataset_access_point
    store = point.store.model_copy(update={"type": change.get("type", point.store.type)})
    changed = altered(run, FLIGHTS, point={"store": store, "identity": change.get("identity", point.identity)})
    if code == store.type:
        assert isinstance(job_dataset(assemble_job(changed, ENVIRONMENT), FLIGHTS).access, BlobAccess)
        return
    with pytest.raises(CleanRoomError, match=FLIGHTS) as caught:
        assemble_job(changed, ENVIRONMENT)
    assert caught.value.code == code


def test_job_has_the_days_of_the_request(run: AuthorisedRun) -> None:
    days = JobParameters(start_date="2013-01-01", end_date="2013-01-02")
    job = assemble_job(dataclasses.replace(run, request=run.request.model_copy(update={"parameters": days})), ENVIRONMENT)
    assert job.parameters == days


def test_job_has_the_conditions_of_each_segment(run: AuthorisedRun) -> None:
    application = run.query.application
    conditions, filters = (PreCondition(view_name="flights", min_row_count=7),), (PostFilter(column_name="flights", value=9),)
    segments = tuple(
        segment.model_copy(update={"pre_conditions": conditions, "post_filters": filters}) for segment in application.segments().segments
    )
    text = encode_segments(QuerySegments(segments=segments))
    query = run.query.model_copy(update={"application": application.model_copy(update={"query": text})})
    job = assemble_job(dataclasses.replace(run, query=query), ENVIRONMENT)
    assert [(segment.pre_conditions, segment.post_filters) for segment in job.segments] == [(conditions, filters)] * len(segments)
