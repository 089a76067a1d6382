"""``python -m sparkapp`` as in a pod: a separate process, attestation to governance, real S3, real Spark, events in the ledger."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from cleanroom.attestation import GuestAttestor
from cleanroom.clients.s3 import S3Store
from cleanroom.datasets.download import download_result
from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.documents.query import QuerySegment
from cleanroom.governance import CleanRoomClient, host_data_claims
from cleanroom.secret import Secret
from cleanroom.spark.consent_receipt import CLOCK_SECONDS, RECEIPT_SECONDS, ConsentReceipt
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobSegment, ResultReceipt, S3Access
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.run_events import event_id, parse_event
from cleanroom.spark.service import SparkService
from cleanroom.spark.status import JobStatus
from cleanroom.sql import Catalog, Column, View, analyse
from localcloud.standins.kubernetes.image import build_sparkapp_image
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware, SnpConfig
from localcloud.standins.snp.server import create_app as create_snp
from localcloud.tls import LocalAuthority
from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import DEBUG, HOST_DATA, Target, expect
from tests.servers import S3Server
from tests.unit.spark_support import cluster, make_profile

pytestmark = [pytest.mark.scenario, pytest.mark.spark]

DIGEST = "ab" * 32
CANARY = "CANARY-51d0"
NETWORK_SECRET = b"network-secret-of-this-run-only"
ADMIN = "hypervisor-token-00000000000000"
TYPES: dict[str, FieldType] = {"tailnum": "string", "maker": "string", "owner": "string"}
RESULT: dict[str, FieldType] = {"maker": "string", "planes": "long"}
SQL = "SELECT maker, COUNT(*) AS planes FROM planes WHERE CAST(tailnum AS INT) > 0 GROUP BY maker"


@dataclass
class World:
    """A contract with one clean room, and pods that have no access until the clean room grants it."""

    snp: str
    cgs: Target
    contract: str
    clean_room: CleanRoomClient
    s3: S3Server
    ca_pem: str
    ca_file: Path
    folder: Path

    def guest(self, policy: str) -> tuple[str, str]:
        """Launch a guest and return its attestation URL and host data."""
        with httpx.Client(verify=self.s3_context(), headers={"authorization": f"Bearer {ADMIN}"}) as http:
            body = {"name": policy, "security_policy_base64": base64.b64encode(policy.encode()).decode()}
            launched = http.post(f"{self.snp}/guests", json=body).raise_for_status().json()
        return launched["url"], launched["host_data"]

    def s3_context(self) -> Any:
        import ssl

        return ssl.create_default_context(cafile=str(self.ca_file))

    def store(self, dataset: str) -> S3Store:
        return self.s3.store(prefix=f"{self.contract}/{dataset}")

    def pod(self, job: JobConfig, attestation_url: str) -> subprocess.CompletedProcess[str]:
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

    def termination(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "termination").read_text()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority, seaweedfs: S3Server) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("payload")
    standin = StandIn(folder / "cgs", DevelopmentHardware(folder / "snp"))
    tls = local_authority.issue("snp")
    config = SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=folder / "snp", admin_token=SecretStr(ADMIN))
    with serving(create_snp(config), "snp", tls) as snp, standin.serve() as settings:
        ca_pem = local_authority.ca_file.read_text() + standin.authority.ca_file.read_text()
        ca_file = folder / "ca.pem"
        ca_file.write_text(ca_pem)
        cgs = Target(settings)
        cgs.enroll()
        made = World(snp, cgs, "", None, seaweedfs, ca_pem, ca_file, folder)  # type: ignore[arg-type]
        url, host_data = made.guest("the clean room's policy")
        made.contract = cgs.accepted_contract({DEBUG: False, HOST_DATA: host_data})
        made.clean_room = CleanRoomClient(settings.url, made.contract, GuestAttestor(url, ca_file=ca_file), ca_file=ca_file)
        yield made
        cgs.close()


async def prepare(world: World, run_id: str, *, heavy: bool = False) -> tuple[JobConfig, dict[str, Secret]]:
    """Do what the clean room does before a run: upload the dataset, stage the secrets, and build the job.

    ``heavy`` makes the dataset so large that the driver leaves it to executors.
    """
    connection = json.dumps(
        {"awsAccessKeyId": "LITWAREKEY", "awsSecretAccessKey": world.s3.litware.secret_access_key.reveal_text()}
    ).encode()
    secrets = {
        f"{run_id}.run.network": Secret(NETWORK_SECRET),
        f"{run_id}.planes.connection": Secret(connection),
        f"{run_id}.out.connection": Secret(connection),
    }
    keys = {}
    datasets = []
    for name, view, types in (("planes", "planes", TYPES), ("out", "out", RESULT)):
        keys[name] = generate_dataset_key()
        secrets[f"{run_id}.{name}.key"] = encode_dataset_key(keys[name])
        datasets.append(
            JobDataset(
                name=name,
                view_name=view,
                owner_id="litware",
                document_version="2.1",
                document_digest=DIGEST,
                format="parquet",
                schema_fields=types,
                allowed_fields=tuple(name for name in types if name != "owner"),
                access=S3Access(
                    endpoint_url=world.s3.url,
                    region="us-east-1",
                    bucket="litware",
                    prefix=f"{world.contract}/{name}",
                    connection_secret_id=f"cleanroom_{run_id}.{name}.connection",
                ),
                key_secret_id=f"cleanroom_{run_id}.{name}.key",
            )
        )
    source = world.folder / f"{run_id}-planes.parquet"
    rows = {"tailnum": [str(n) for n in range(1, 301)], "maker": ["BOEING", "AIRBUS", "EMBRAER"] * 100, "owner": [CANARY] * 300}
    if heavy:
        rows["owner"] = [os.urandom(30_000).hex() for _ in range(300)]
    pq.write_table(pa.table(rows), source)
    schema = DatasetSchema(format="parquet", fields=tuple(SchemaField(field_name=key, field_type=value) for key, value in TYPES.items()))
    await asyncio.to_thread(
        upload_dataset,
        world.store("planes"),
        keys["planes"],
        collaboration=world.contract,
        dataset="planes",
        schema=schema,
        sources=[source],
        replace=True,
    )
    view = View(name="planes", columns=tuple(Column(name=key, type=value) for key, value in TYPES.items()))
    verdict = analyse([QuerySegment(execution_sequence=1, data=SQL)], Catalog(views=(view,)))
    assert verdict.allowed, verdict.reasons
    job = JobConfig(
        contract_id=world.contract,
        run_id=run_id,
        query_id="q-makers",
        query_version="2.3",
        query_digest=DIGEST,
        segments=(JobSegment(execution_sequence=1, sql=verdict.rewritten[0].sql, source_digest=DIGEST),),
        datasets=(datasets[0],),
        datasink=datasets[1],
        consent_secret_id=f"cleanroom_{run_id}.run.consent",
        network_secret_id=f"cleanroom_{run_id}.run.network",
        event_scope=f"run-{run_id}",
        governance=JobGovernance(url=world.cgs.settings.url, ca_pem=world.ca_pem, storage_hosts=(world.s3.host,)),
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
    return job, keys


async def grant(world: World, run_id: str, host_data: str) -> None:
    for name in ("planes.connection", "planes.key", "out.connection", "out.key", "run.consent", "run.network"):
        await world.clean_room.set_delegate("secrets", f"cleanroom_{run_id}.{name}", "add", host_data_claims([host_data]))
    await world.clean_room.set_delegate("events", "writer", "add", host_data_claims([host_data]))


def assert_silent(world: World, ran: subprocess.CompletedProcess[str], keys: dict[str, Secret]) -> None:
    output = ran.stdout + ran.stderr + (world.folder / "termination").read_text()
    for secret in (
        CANARY,
        "AIRBUS",
        world.s3.litware.secret_access_key.reveal_text(),
        *(encode_dataset_key(k).reveal_text() for k in keys.values()),
    ):
        assert secret not in output


async def test_pod_with_grants_completes_and_pod_without_grants_reads_nothing(world: World) -> None:
    job, keys = await prepare(world, "r-1")
    url, host_data = world.guest("the policy of this run's driver")
    await grant(world, "r-1", host_data)

    ungranted, _ = world.guest("another pod's policy")
    refused = await asyncio.to_thread(world.pod, job, ungranted)
    assert (refused.returncode, world.termination()["code"]) == (12, "VERIFY_SNP_ATTESTATION_FAILED"), refused.stderr
    assert_silent(world, refused, keys)

    ran = await asyncio.to_thread(world.pod, job, url)
    assert ran.returncode == 0, ran.stdout + ran.stderr + str(world.termination())
    assert_silent(world, ran, keys)
    receipt = ResultReceipt.model_validate(world.termination())
    store = await asyncio.to_thread(world.store, "out")
    table = await asyncio.to_thread(
        lambda: download_result(store, receipt, keys["out"], collaboration=world.contract, result_format="parquet", types=RESULT).sort_by(
            "maker"
        )
    )
    assert table.to_pylist() == [{"maker": maker, "planes": 100} for maker in ("AIRBUS", "BOEING", "EMBRAER")]

    path = f"/contracts/{world.contract}/events?id={event_id('r-1', 'QUERY_COMPLETED')}&scope=run-r-1"
    (entry,) = expect(world.cgs.call("GET", path, world.cgs.ann), 200)["value"]
    assert parse_event(entry["data"]).receipt == receipt


async def test_value_that_makes_a_query_fail_is_in_no_log(world: World) -> None:
    job, keys = await prepare(world, "r-2")
    url, host_data = world.guest("the policy of the second run")
    await grant(world, "r-2", host_data)
    sink = io.BytesIO()
    pq.write_table(pa.table({"tailnum": ["AIRBUS-1"], "maker": ["AIRBUS"], "owner": [CANARY]}), sink)
    source = world.folder / "bad.parquet"
    source.write_bytes(sink.getvalue())
    schema = DatasetSchema(format="parquet", fields=tuple(SchemaField(field_name=key, field_type=value) for key, value in TYPES.items()))
    store = world.store("planes")
    await asyncio.to_thread(
        upload_dataset, store, keys["planes"], collaboration=world.contract, dataset="planes", schema=schema, sources=[source], replace=True
    )

    ran = await asyncio.to_thread(world.pod, job, url)
    assert (ran.returncode, world.termination()["code"]) == (10, "QUERY_FAILED")
    assert "CAST_INVALID_INPUT" in world.termination()["message"]
    assert_silent(world, ran, keys)


@pytest.mark.skipif(os.environ.get("CLEANROOM_EXECUTOR_PODS") != "1", reason="starts three JVMs; set CLEANROOM_EXECUTOR_PODS=1 to run it")
async def test_executors_run_in_attested_pods(world: World, tmp_path: Path) -> None:
    """Spark's own scheduler requests an executor pod from the API server. The pod runs under the executor's policy,
    reads its secrets by its own report, and authenticates to the driver with the network secret."""
    job, keys = await prepare(world, "r-3", heavy=True)
    token = tmp_path / "snp-token"
    token.write_text(ADMIN)
    changes = {"executor_pods": True, "snp_url": world.snp, "snp_token_file": token, "snp_ca_file": world.ca_file}
    with cluster(tmp_path, **changes) as running:
        image = build_sparkapp_image(running.images)
        profile = make_profile(image.reference, image.layers)
        policies = pod_policies(job, profile)
        assert len(set(policies.host_data())) == 2
        for host_data in policies.host_data():
            await grant(world, "r-3", host_data)
        service = SparkService(DevelopmentHardware(tmp_path / "unused"), running.client())  # type: ignore[arg-type]
        seen: list[JobStatus] = []
        submission = await service.submit(job, profile, policies.host_data())
        outcome = await service.watch(submission.tracking_id, seen.append, Deadlines(driver_start_seconds=60, run_seconds=900))
        assert outcome.succeeded, outcome
        receipt = ResultReceipt.model_validate_json(outcome.termination_message)
        (executor,) = [pod for pod in outcome.status.pods if pod.role == "executor"]
        assert (executor.phase, executor.policy_host_data) == ("Succeeded", policies.executor.host_data)
        assert max(status.executors.running for status in seen) == 1
        # Neither rows nor the network secret are in a place that the operator can read.
        assert await asyncio.to_thread(running.client().logs, executor.name, container=None) == ""
        operators = (running.config.state / "kubernetes.sqlite").read_bytes() + outcome.model_dump_json().encode()
        assert NETWORK_SECRET not in operators
        assert base64.b64encode(NETWORK_SECRET) not in operators  # the form in which Spark sets it as a variable
        await service.delete(submission.tracking_id)
        service.close()
    store = await asyncio.to_thread(world.store, "out")
    table = await asyncio.to_thread(
        download_result, store, receipt, keys["out"], collaboration=world.contract, result_format="parquet", types=RESULT
    )
    assert sorted(table["planes"].to_pylist()) == [100, 100, 100]
    assert receipt.rows_read == {"planes": 300}
