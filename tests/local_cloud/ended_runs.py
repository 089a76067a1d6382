"""Runs that the tests of several files examine after their end, because each run takes a JVM and fifteen seconds of processor time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from cleanroom.identifiers import job_name
from cleanroom.messages.run import RunResult
from starters.operations.consent import set_consent
from starters.operations.session import Session, run_async
from tests.local_cloud.cloud import Cloud
from tests.local_cloud.histories import until_heartbeat
from tests.local_cloud.world import World


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended, and its query."""

    query: str
    run_id: str
    result: RunResult


@dataclass(frozen=True)
class CompletedRun:
    """A run that completed, and its datasets with their owners."""

    run_id: str
    datasets: tuple[tuple[Session, str], ...]


def application(cloud: Cloud, query: str, run_id: str) -> dict[str, Any] | None:
    """Return the run's SparkApplication, or None."""
    name = job_name(cloud.collaboration, query, run_id)
    found = [item for item in cloud.leftovers.applications() if item["metadata"]["name"] == name]
    return found[0] if found else None


async def running(cloud: Cloud, query: str, run_id: str) -> str:
    """Wait until Spark runs; return the UID of the SparkApplication."""
    client = await cloud.fabrikam.temporal()
    await until_heartbeat(cloud.run_handle(client, run_id), "watch_job")
    while True:
        found = await asyncio.to_thread(application, cloud, query, run_id)
        if found and found.get("status", {}).get("applicationState", {}).get("state") == "RUNNING":
            return str(found["metadata"]["uid"])
        await asyncio.sleep(0.1)


@pytest.fixture(scope="session")
def completed_run(cloud: Cloud, world: World) -> CompletedRun:
    """The demo's run, if the demo started the cloud, and otherwise a run of its own."""
    if cloud.demo is not None:
        names = ("litware-planes", "litware-weather", "litware-delays")
        datasets = ((cloud.contosso, "contosso-flights"), *((cloud.litware, name) for name in names))
        return CompletedRun(cloud.printed_by_demo["run_id"], datasets)
    state = cloud.approved_query(world.query())
    run_id = cloud.start(state.query, state.digest)
    assert cloud.result(run_id).state == "COMPLETED"
    litwares = (world.planes.name, world.output.name)
    return CompletedRun(run_id, ((cloud.contosso, world.flights.name), *((cloud.litware, name) for name in litwares)))


@pytest.fixture(scope="session")
def withdrawn_run(cloud: Cloud, world: World) -> EndedRun:
    """A run whose query lost Contosso's consent while Spark ran."""
    state = cloud.approved_query(world.query())
    run_id = cloud.start(state.query, state.digest)
    run_async(running(cloud, state.query, run_id))
    run_async(set_consent(cloud.contosso, state.query, enabled=False))
    return EndedRun(state.query, run_id, cloud.result(run_id))
