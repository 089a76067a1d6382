"""The Spark service over real protocols: its attestation and signed policies, and runs from submit to their end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cleanroom.attestation import AttestationEvidence, Expectations, GuestAttestor, TrustStore, report_data_for, verify_evidence
from cleanroom.errors import Refused, Unavailable
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service import SparkService
from cleanroom.spark.signed import (
    PolicySigner,
    ServiceReport,
    SignedPolicies,
    verify_service_report,
    verify_signed_policies,
)
from localcloud.standins.kubernetes.image import LocalImage
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware, SnpConfig
from localcloud.standins.snp.server import create_app as create_snp
from localcloud.tls import LocalAuthority
from tests.patience import PATIENCE
from tests.unit.spark_support import Cluster, cluster, make_job, make_profile, script_image

pytestmark = pytest.mark.scenario

HOST_DATA = "ab" * 32
TOKEN = "hypervisor-token"
ATTESTING = """
import base64, json, os, pathlib, ssl, urllib.request
job = json.loads(base64.b64decode(os.environ["JOB_CONFIG"]))
body = json.dumps({"runtime_data": base64.b64encode(b"pod key").decode()}).encode()
request = urllib.request.Request(os.environ["CLEANROOM_ATTESTATION_URL"] + "/attest/combined", body)
answer = urllib.request.urlopen(request, context=ssl.create_default_context(cadata=job["governance"]["caPem"])).read()
print(answer.decode())
"""
DEADLINES = Deadlines(driver_start_seconds=PATIENCE, run_seconds=PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spark-service")


@pytest.fixture(scope="module")
def hardware(folder: Path) -> DevelopmentHardware:
    return DevelopmentHardware(folder / "snp")


@pytest.fixture(scope="module")
def trust(hardware: DevelopmentHardware) -> TrustStore:
    return TrustStore.load(amd=True, root_files=[hardware.trust_file])


@pytest.fixture(scope="module")
def ca_pem(folder: Path) -> str:
    return LocalAuthority(folder / "tls").ca_file.read_text()


@pytest.fixture(scope="module")
def running(folder: Path, hardware: DevelopmentHardware) -> Iterator[Cluster]:
    tls = LocalAuthority(folder / "tls").issue("snp")
    config = SnpConfig.model_validate({"tls_cert": tls.cert, "tls_key": tls.key, "state": folder / "snp", "admin_token": TOKEN})
    (folder / "token").write_text(TOKEN)
    with (
        serving(create_snp(config), "snp", tls) as url,
        cluster(folder, snp_url=url, snp_token_file=folder / "token", snp_ca_file=folder / "tls" / "ca.pem", cpus=2) as found,
    ):
        yield found


def new_nonce() -> str:
    return secrets.token_urlsafe(32)


class Hardware:
    """A guest with fixed host data on development hardware."""

    def __init__(self, hardware: DevelopmentHardware, host_data: str = HOST_DATA) -> None:
        self._hardware, self._host_data = hardware, host_data

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        return self._hardware.evidence(bytes.fromhex(self._host_data), report_data_for(runtime_data))


class DeployedService(SparkService):
    """A service with the profile of its pods."""

    profile: PodProfile


def service_for(
    running: Cluster,
    hardware: DevelopmentHardware,
    image: LocalImage | None = None,
    signer: PolicySigner | None = None,
    **changes: Any,
) -> DeployedService:
    service = DeployedService(Hardware(hardware), running.client(), beat_seconds=0.5, signer=signer)
    service.profile = make_profile(image.reference, image.layers, **changes) if image else make_profile()
    return service


def granted(service: DeployedService, job: JobConfig) -> tuple[str, ...]:
    return pod_policies(job, service.profile).host_data()


# --- trust


async def test_genuine_report_and_policies_verify(running: Cluster, hardware: DevelopmentHardware, trust: TrustStore) -> None:
    service, job, nonce = service_for(running, hardware), make_job(), new_nonce()
    report = ServiceReport.model_validate_json((await service.attestation_report(nonce)).model_dump_json())
    verified, verdict = verify_service_report(report, nonce, trust, [HOST_DATA.upper()], datetime.now(UTC))
    assert verdict.ok
    assert verified.development
    assert verified.host_data == HOST_DATA
    second = new_nonce()
    signed = SignedPolicies.model_validate_json((await service.security_policy(job, service.profile, second)).model_dump_json())
    assert verify_signed_policies(signed, verified, job, make_profile(), second) == pod_policies(job, make_profile())


async def test_policies_of_a_service_that_restarted_are_rejected(
    running: Cluster, hardware: DevelopmentHardware, trust: TrustStore
) -> None:
    """Every other refusal is a unit test: tests/unit/spark/test_signed_statements.py."""
    job, nonce = make_job(), new_nonce()
    verified, _ = verify_service_report(
        await service_for(running, hardware).attestation_report(nonce), nonce, trust, [HOST_DATA], datetime.now(UTC)
    )
    restarted = service_for(running, hardware)
    with pytest.raises(Refused, match="PolicySignatureInvalid"):
        verify_signed_policies(await restarted.security_policy(job, restarted.profile, nonce), verified, job, make_profile(), nonce)


# --- runs


async def test_pod_report_has_the_host_data_of_its_policy(
    running: Cluster, hardware: DevelopmentHardware, trust: TrustStore, ca_pem: str
) -> None:
    service = service_for(running, hardware, script_image(running.images, ATTESTING))
    job = make_job("attests", governance={"url": "https://cgs.example", "caPem": ca_pem})
    submission = await service.submit(job, service.profile, granted(service, job))
    outcome = await service.watch(submission.tracking_id, lambda status: None, DEADLINES, uid=submission.uid)
    text = await service.logs(submission.tracking_id)
    assert outcome.succeeded, text
    evidence = AttestationEvidence.model_validate_json(text)
    wanted = pod_policies(job, service.profile).driver.host_data
    expectations = Expectations(host_data=frozenset({wanted}), report_data=report_data_for(b"pod key"), require_uvm=True)
    assert verify_evidence(evidence, trust=trust, expectations=expectations, at=datetime.now(UTC)).ok
    process = next((running.config.state / "pods").glob("*/process.json"))
    url = json.loads(process.read_text())["guest"]
    # The guest ended with its pod, so its URL returns no further reports.
    with pytest.raises(Refused):
        await GuestAttestor(f"{running.config.snp_url}/guests/{url}", ca_file=running.config.snp_ca_file).attest(b"late")
    assert await service.delete(submission.tracking_id, uid=submission.uid)


async def test_unreachable_cluster_is_unavailable(folder: Path, hardware: DevelopmentHardware) -> None:
    with cluster(folder / "absent") as short:
        service = service_for(short, hardware)
    with pytest.raises(Unavailable):
        await service.watch("cr-x", lambda status: None, Deadlines(unreachable_seconds=0.5))
    service.close()


async def test_control_characters_are_removed_from_logs(running: Cluster, hardware: DevelopmentHardware) -> None:
    source = "print('a\\x1b]0;title\\x07b\\u202ec', flush=True)\n"
    service, job = service_for(running, hardware, script_image(running.images, source)), make_job("logs")
    submission = await service.submit(job, service.profile, granted(service, job))
    await service.watch(submission.tracking_id, lambda status: None, DEADLINES)
    assert await service.logs(submission.tracking_id) == "a]0;titlebc\n"
    assert await service.delete(submission.tracking_id)


SPARK = """
import json, os
from sparkapp.session import open_session
spark = open_session("test")
rows = spark.createDataFrame([("a", 1), ("a", 2), ("b", 3)], "k string, v int")
rows.createOrReplaceTempView("rows")
result = [list(row) for row in spark.sql("SELECT k, sum(v) FROM rows GROUP BY k ORDER BY k").collect()]
conf = dict(spark.sparkContext.getConf().getAll())
names = ["spark.master", "spark.driver.memory", "spark.authenticate", "spark.app.name"]
answer = {"result": result, "conf": {name: conf.get(name) for name in names}, "ansi": spark.conf.get("spark.sql.runSQLOnFiles")}
open(os.environ["CLEANROOM_TERMINATION_LOG"], "w").write(json.dumps(answer))
spark.stop()
"""


@pytest.mark.spark
async def test_spark_runs_in_a_pod(running: Cluster, hardware: DevelopmentHardware) -> None:
    image = script_image(running.images, SPARK)
    resources = {"driver_cores": 1, "driver_memory": "512m", "executor_cores": 1, "executor_memory": "512m", "executor_instances": 2}
    service = service_for(running, hardware, image, resources=resources)
    job = make_job("spark")
    submission = await service.submit(job, service.profile, granted(service, job))
    deadlines = Deadlines(driver_start_seconds=PATIENCE, run_seconds=2 * PATIENCE)
    outcome = await service.watch(submission.tracking_id, lambda status: None, deadlines)
    assert outcome.succeeded, await service.logs(submission.tracking_id)
    answer = json.loads(outcome.termination_message)
    assert answer["result"] == [["a", 3], ["b", 3]]
    assert answer["conf"]["spark.master"] == "local[2]"
    assert answer["conf"]["spark.driver.memory"] == "1536m"
    assert answer["conf"]["spark.authenticate"] == "true"
    assert await service.delete(submission.tracking_id)
