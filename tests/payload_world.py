"""A contract, its clean room, sealed datasets in S3, and pods that have no access until the clean room grants it.

``python -m sparkapp`` and the pods of the Kubernetes stand-in run against it. The clean room's part is played by :func:`prepare` and
:func:`grant`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
from pydantic import SecretStr

from cleanroom.attestation import GuestAttestor
from cleanroom.clients.s3 import S3Store
from cleanroom.datasets.download import download_result
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.datasets.sources import is_data
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, Format, SchemaField
from cleanroom.documents.query import QuerySegment
from cleanroom.governance import CleanRoomClient, host_data_claims
from cleanroom.secret import Secret
from cleanroom.spark.consent_receipt import CLOCK_SECONDS, RECEIPT_SECONDS, ConsentReceipt
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, ResultReceipt, S3Access
from cleanroom.sql import Catalog, Column, View, analyse
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware, SnpConfig
from localcloud.standins.snp.server import create_app as create_snp
from localcloud.tls import LocalAuthority
from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import DEBUG, HOST_DATA, Target
from tests.servers import S3Server

DIGEST = "ab" * 32
NETWORK_SECRET = b"network-secret-of-this-run-only"
ADMIN = "hypervisor-token-00000000000000"


@dataclass(frozen=True)
class Rows:
    """A dataset: its name (and that of its view), columns, those that a query may name, and its files."""

    name: str
    types: dict[str, FieldType]
    visible: tuple[str, ...]
    sources: Sequence[Path]
    format: Format = "parquet"


@dataclass
class Prepared:
    """A run that is ready: its job, the keys of its datasets by name, and all of its secrets by their staged names."""

    job: JobConfig
    keys: dict[str, Secret] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)


@dataclass
class World:
    """A contract with one clean room, and pods that have no access until the clean room grants it."""

    snp: str
    cgs: Target
    governance_url: str
    """URL of governance for the pods."""
    s3_url: str
    """URL of S3 for the pods."""
    contract: str
    clean_room: CleanRoomClient
    s3: S3Server
    ca_pem: str
    ca_file: Path
    folder: Path

    def guest(self, policy: str) -> tuple[str, str]:
        """Launch a guest and return its attestation URL and host data."""
        tls = ssl.create_default_context(cafile=str(self.ca_file))
        with httpx.Client(verify=tls, headers={"authorization": f"Bearer {ADMIN}"}) as http:
            body = {"name": policy, "security_policy_base64": base64.b64encode(policy.encode()).decode()}
            launched = http.post(f"{self.snp}/guests", json=body).raise_for_status().json()
        return launched["url"], launched["host_data"]

    def store(self, dataset: str) -> S3Store:
        """The store of a dataset's objects."""
        return self.s3.store(prefix=f"{self.contract}/{dataset}")

    def stored_bytes(self, dataset: str) -> int:
        """The size of a dataset's objects, without its manifest."""
        return sum(item.size for item in self.store(dataset).list() if is_data(item.key))

    def pod(self, job: JobConfig, attestation_url: str) -> subprocess.CompletedProcess[str]:
        """Run the payload in a new process that is the guest of an attestation URL."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": os.getcwd(),
            "JOB_CONFIG": job.encode(),
            "CLEANROOM_ATTESTATION_URL": attestation_url,
            "CLEANROOM_TERMINATION_LOG": str(self.folder / "termination"),
            "CLEANROOM_LOCAL_CORES": "2",
        } | {name: os.environ[name] for name in ("JAVA_HOME", "JDK_JAVA_OPTIONS") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "sparkapp"], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=240, check=False
        )

    def termination(self) -> dict[str, object]:
        """The termination message of the last pod."""
        return dict(json.loads((self.folder / "termination").read_text()))

    def result(self, prepared: Prepared, receipt: ResultReceipt) -> pa.Table:
        """The rows of a result, opened by its receiver."""
        sink = prepared.job.datasink
        return download_result(
            self.store(sink.name),
            receipt,
            prepared.keys[sink.name],
            collaboration=self.contract,
            result_format=sink.format,
            types=sink.schema_fields,
        )


@contextmanager
def payload_world(folder: Path, authority: LocalAuthority, s3: S3Server) -> Iterator[World]:
    """Serve governance and the SNP hardware, and accept a contract."""
    standin = StandIn(folder / "cgs", DevelopmentHardware(folder / "snp"))
    tls = authority.issue("snp")
    config = SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=folder / "snp", admin_token=SecretStr(ADMIN))
    with serving(create_snp(config), "snp", tls) as snp, standin.serve() as settings:
        ca_pem = authority.ca_file.read_text() + standin.authority.ca_file.read_text()
        ca_file = folder / "ca.pem"
        ca_file.write_text(ca_pem)
        cgs = Target(settings)
        cgs.enroll()
        made = World(snp, cgs, settings.url, s3.url, "", None, s3, ca_pem, ca_file, folder)  # type: ignore[arg-type]
        url, host_data = made.guest("the clean room's policy")
        made.contract = cgs.accepted_contract({DEBUG: False, HOST_DATA: host_data})
        made.clean_room = CleanRoomClient(settings.url, made.contract, GuestAttestor(url, ca_file=ca_file), ca_file=ca_file)
        yield made
        cgs.close()


async def prepare(world: World, run_id: str, sql: str, inputs: Sequence[Rows], result: dict[str, FieldType]) -> Prepared:
    """Do what owners and the clean room do before a run: upload the datasets, stage the secrets, and build the job."""
    secret = world.s3.litware.secret_access_key.reveal_text()
    connection = json.dumps({"awsAccessKeyId": "LITWAREKEY", "awsSecretAccessKey": secret}).encode()
    out = Rows("out", result, tuple(result), ())
    keys = {rows.name: generate_dataset_key() for rows in (*inputs, out)}
    secrets = {f"{run_id}.run.network": Secret(NETWORK_SECRET)}
    for name, key in keys.items():
        secrets |= {f"{run_id}.{name}.connection": Secret(connection), f"{run_id}.{name}.key": encode_dataset_key(key)}
    for rows in inputs:
        await asyncio.to_thread(upload, world, rows, keys[rows.name])
    views = [View(name=rows.name, columns=tuple(Column(name=key, type=kind) for key, kind in rows.types.items())) for rows in inputs]
    verdict = analyse([QuerySegment(execution_sequence=1, data=sql)], Catalog(views=tuple(views)))
    assert verdict.allowed, verdict.reasons
    job = JobConfig(
        contract_id=world.contract,
        run_id=run_id,
        query_id="q-makers",
        query_version="2.3",
        query_digest=DIGEST,
        segments=(JobSegment(execution_sequence=1, sql=verdict.rewritten[0].sql, source_digest=DIGEST),),
        datasets=tuple(_job_dataset(world, run_id, rows) for rows in inputs),
        datasink=_job_dataset(world, run_id, out),
        consent_secret_id=f"cleanroom_{run_id}.run.consent",
        network_secret_id=f"cleanroom_{run_id}.run.network",
        event_scope=f"run-{run_id}",
        governance=JobGovernance(url=world.governance_url, ca_pem=world.ca_pem, storage_hosts=(world.s3_url.removeprefix("https://"),)),
    )
    secrets[f"{run_id}.run.consent"] = ConsentReceipt(
        run_id=run_id,
        query_digest=DIGEST,
        job_digest=job.digest(),
        consent="enabled",
        expires=datetime.now(UTC) + timedelta(seconds=RECEIPT_SECONDS + CLOCK_SECONDS - 10),
    ).to_secret()
    for name, value in secrets.items():
        await world.clean_room.put_secret(name, value)
    return Prepared(job, keys, secrets)


def upload(world: World, rows: Rows, key: Secret) -> None:
    """Upload a dataset in place of an earlier one."""
    fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in rows.types.items())
    schema = DatasetSchema(format=rows.format, fields=fields)
    upload_dataset(
        world.store(rows.name), key, collaboration=world.contract, dataset=rows.name, schema=schema, sources=rows.sources, replace=True
    )


def _job_dataset(world: World, run_id: str, rows: Rows) -> JobDataset:
    return JobDataset(
        name=rows.name,
        view_name=rows.name,
        owner_id="litware",
        document_version="2.1",
        document_digest=DIGEST,
        format=rows.format,
        schema_fields=rows.types,
        allowed_fields=rows.visible,
        access=S3Access(
            endpoint_url=world.s3_url,
            region="us-east-1",
            bucket="litware",
            prefix=f"{world.contract}/{rows.name}",
            connection_secret_id=f"cleanroom_{run_id}.{rows.name}.connection",
        ),
        key_secret_id=f"cleanroom_{run_id}.{rows.name}.key",
    )


async def grant(world: World, prepared: Prepared, host_data: str) -> None:
    """Grant the secrets of a run, and its events, to pods with one host data."""
    for name in prepared.secrets:
        await world.clean_room.set_delegate("secrets", f"cleanroom_{name}", "add", host_data_claims([host_data]))
    await world.clean_room.set_delegate("events", "writer", "add", host_data_claims([host_data]))
