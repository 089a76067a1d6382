"""``python -m sparkapp`` as in a pod: a separate process, attestation to governance, real S3, real Spark, events in the ledger."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom.datasets.encryption import encode_dataset_key
from cleanroom.documents.dataset import FieldType
from cleanroom.spark.job import ResultReceipt
from cleanroom.spark.run_events import event_id, parse_event
from localcloud.tls import LocalAuthority
from tests.conformance.governance.target import expect
from tests.payload_world import Prepared, Rows, World, grant, payload_world, prepare, upload
from tests.servers import S3Server

pytestmark = [pytest.mark.scenario, pytest.mark.spark]

CANARY = "CANARY-51d0"
TYPES: dict[str, FieldType] = {"tailnum": "string", "maker": "string", "owner": "string"}
VISIBLE = ("tailnum", "maker")
RESULT: dict[str, FieldType] = {"maker": "string", "planes": "long"}
SQL = "SELECT maker, COUNT(*) AS planes FROM planes WHERE CAST(tailnum AS INT) > 0 GROUP BY maker"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, local_authority: LocalAuthority, seaweedfs: S3Server) -> Iterator[World]:
    with payload_world(tmp_path_factory.mktemp("payload"), local_authority, seaweedfs) as made:
        yield made


async def prepare_planes(world: World, run_id: str) -> Prepared:
    source = world.folder / f"{run_id}-planes.parquet"
    rows = {"tailnum": [str(n) for n in range(1, 301)], "maker": ["BOEING", "AIRBUS", "EMBRAER"] * 100, "owner": [CANARY] * 300}
    pq.write_table(pa.table(rows), source)
    return await prepare(world, run_id, SQL, [Rows("planes", TYPES, VISIBLE, [source])], RESULT)


def assert_silent(world: World, ran: subprocess.CompletedProcess[str], prepared: Prepared) -> None:
    output = ran.stdout + ran.stderr + (world.folder / "termination").read_text()
    keys = [encode_dataset_key(key).reveal_text() for key in prepared.keys.values()]
    for secret in (CANARY, "AIRBUS", world.s3.litware.secret_access_key.reveal_text(), *keys):
        assert secret not in output


async def test_pod_with_grants_completes_and_pod_without_grants_reads_nothing(world: World) -> None:
    run = await prepare_planes(world, "r-1")
    url, host_data = world.guest("the policy of this run's driver")
    await grant(world, run, host_data)

    ungranted, _ = world.guest("another pod's policy")
    refused = await asyncio.to_thread(world.pod, run.job, ungranted)
    assert (refused.returncode, world.termination()["code"]) == (12, "VERIFY_SNP_ATTESTATION_FAILED"), refused.stderr
    assert_silent(world, refused, run)

    ran = await asyncio.to_thread(world.pod, run.job, url)
    assert ran.returncode == 0, ran.stdout + ran.stderr + str(world.termination())
    assert_silent(world, ran, run)
    receipt = ResultReceipt.model_validate(world.termination())
    table = (await asyncio.to_thread(world.result, run, receipt)).sort_by("maker")
    assert table.to_pylist() == [{"maker": maker, "planes": 100} for maker in ("AIRBUS", "BOEING", "EMBRAER")]

    path = f"/contracts/{world.contract}/events?id={event_id('r-1', 'QUERY_COMPLETED')}&scope=run-r-1"
    (entry,) = expect(world.cgs.call("GET", path, world.cgs.ann), 200)["value"]
    assert parse_event(entry["data"]).receipt == receipt


async def test_value_that_makes_a_query_fail_is_in_no_log(world: World) -> None:
    run = await prepare_planes(world, "r-2")
    url, host_data = world.guest("the policy of the second run")
    await grant(world, run, host_data)
    source = world.folder / "bad.parquet"
    pq.write_table(pa.table({"tailnum": ["AIRBUS-1"], "maker": ["AIRBUS"], "owner": [CANARY]}), source)
    await asyncio.to_thread(upload, world, Rows("planes", TYPES, VISIBLE, [source]), run.keys["planes"])

    ran = await asyncio.to_thread(world.pod, run.job, url)
    assert (ran.returncode, world.termination()["code"]) == (10, "QUERY_FAILED")
    assert "CAST_INVALID_INPUT" in str(world.termination()["message"])
    assert_silent(world, ran, run)
