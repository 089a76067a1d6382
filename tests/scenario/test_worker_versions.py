"""Worker Versioning on a real server: promotion, ramp, deletion, and workers that do not fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.testing import WorkflowEnvironment
from typer.testing import CliRunner

from cleanroom.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from cleanroom.temporal.build import build_id
from cleanroom.temporal.versions import Version, current_build, delete_version, list_versions, promote
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.cli import app
from tests.lifecycle_workflows import AutoUpgradeStopping, PinnedStopping, until_cancelled
from tests.patience import PATIENCE
from tests.temporal_env import server_options
from workers.register import promote_first_version
from workflows.conclude_run import ConcludeRun

pytestmark = pytest.mark.scenario

EAGER = tuple(
    part
    for name in ("VisibilityGracePeriod", "RefreshInterval")
    for part in ("--dynamic-config-value", f'matching.wv.VersionDrainageStatus{name}="100ms"')
)
"""Options of a server that counts the open workflows of a version often. By default it does so every three minutes."""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def client() -> AsyncIterator[Client]:
    options = server_options()
    options["dev_server_extra_args"] += EAGER
    async with await WorkflowEnvironment.start_local(**options) as env:
        yield env.client


@pytest.fixture
def config(client: Client, tmp_path: Path) -> Path:
    address = client.service_client.config.target_host
    (tmp_path / "temporal.toml").write_text(f'[profile.default]\naddress = "{address}"\nnamespace = "default"\n')
    file = tmp_path / "cleanroom.toml"
    file.write_text(
        '[default]\ncollaboration = "flights"\n[default.temporal]\nconfig_file = "temporal.toml"\n'
        '[profile.operator]\n[profile.frontend]\nboundary = "frontend"\n[profile.frontend.governance]\nurl = "https://localhost:1"\n'
        '[profile.frontend.credential]\nkind = "cli"\n'
    )
    return file


def command(*words: str, config: Path) -> tuple[int, Any]:
    """Run a command, and return its exit code and its JSON."""
    result = CliRunner().invoke(app, [*words, "--config", str(config), "--output", "json"])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


async def reached(client: Client, build: str, state: str) -> Version:
    """Wait until a version of the frontend has a state, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for version in await list_versions(client, "frontend"):
                if version.build == build and version.state == state:
                    return version
            await asyncio.sleep(0.05)


async def test_a_version_without_workers_is_not_promoted(client: Client) -> None:
    with pytest.raises(PreconditionFailed, match="VersionIncomplete") as caught:
        await promote(client, "clean-room", "missing")
    assert "clean-room, spark-service" in caught.value.message
    # The clean room alone does not make a version complete: its runs need the Spark service.
    spec = WorkerSpec("half", "clean-room", (ConcludeRun,), version=WorkerDeploymentVersion("clean-room", "half"))
    async with create_worker(client, spec), asyncio.timeout(PATIENCE):
        while True:
            with pytest.raises(PreconditionFailed) as caught:
                await promote(client, "clean-room", "half")
            if "clean-room," not in caught.value.message:
                break
            await asyncio.sleep(0.05)
    assert "the task queues spark-service." in caught.value.message
    assert await current_build(client, "clean-room") is None


async def test_a_version_is_deleted_only_when_it_is_drained(client: Client) -> None:
    await promote(client, "frontend", "one", before_workers=True)
    await promote(client, "frontend", "two", percent=25, before_workers=True)
    assert {(item.build, item.state, item.percent) for item in await list_versions(client, "frontend")} == {
        ("one", "current", 75.0),
        ("two", "ramping", 25.0),
    }
    for build in ("one", "two"):
        with pytest.raises(Conflict, match="VersionInUse"):
            await delete_version(client, "frontend", build)
    with pytest.raises(Conflict, match="VersionIsCurrent"):
        await promote(client, "frontend", "one", percent=10, before_workers=True)
    await promote(client, "frontend", "two", percent=0)
    assert [(item.build, item.percent) for item in await list_versions(client, "frontend") if item.percent] == [("one", 100.0)]
    with pytest.raises(InvalidInput, match="PercentInvalid"):
        await promote(client, "frontend", "two", percent=101)
    await promote(client, "frontend", "two", before_workers=True)
    assert await current_build(client, "frontend") == "two"
    assert (await reached(client, "one", "drained")).open_workflows == 0
    await delete_version(client, "frontend", "one")
    assert [item.build for item in await list_versions(client, "frontend")] == ["two"]
    with pytest.raises(NotFound, match="VersionUnknown"):
        await delete_version(client, "frontend", "one")


async def test_only_the_first_version_of_a_namespace_is_promoted_at_its_preparation(client: Client) -> None:
    """The order of the tests matters to the frontend only: it may have a version already."""
    had = await current_build(client, "frontend")
    assert await promote_first_version(client) == (() if had else ("frontend",)) + ("clean-room",)
    assert await current_build(client, "clean-room") == build_id()
    assert await current_build(client, "frontend") == (had or build_id())
    assert await promote_first_version(client) == ()


async def test_commands_show_and_refuse_versions(client: Client, config: Path) -> None:
    await promote(client, "frontend", "two", before_workers=True)
    await promote(client, "frontend", build_id(), before_workers=True)

    def run(*words: str) -> tuple[int, Any]:
        return command("versions", *words, config=config)

    code, rows = await asyncio.to_thread(run, "list", "--profile", "operator")
    shown = {row["build"]: (row["state"] in ("current", "drained", "draining"), row["this_code"]) for row in rows}
    assert (code, shown[build_id()], shown["two"]) == (0, (True, True), (True, False))
    refused = [
        ("promote", "missing", "VersionIncomplete", 6),
        ("delete", build_id(), "VersionInUse", 5),
        ("delete", "missing", "VersionUnknown", 3),
    ]
    for verb, build, expected, exit_code in refused:
        code, error = await asyncio.to_thread(run, verb, build, "--deployment", "frontend", "--profile", "operator")
        assert (code, error["code"]) == (exit_code, expected)
    code, error = await asyncio.to_thread(run, "promote", "--deployment", "backend", "--profile", "operator")
    assert (code, error["code"]) == (2, "DeploymentUnknown")


async def test_an_unversioned_worker_of_a_versioned_deployment_does_not_start(client: Client, config: Path) -> None:
    await promote(client, "frontend", build_id(), before_workers=True)
    code, error = await asyncio.to_thread(command, "worker", "frontend", "--unversioned", config=config)
    assert (code, error["code"]) == (6, "DeploymentVersioned")
    assert build_id() in error["message"]


async def test_a_worker_of_another_build_than_the_chart_names_does_not_start(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanroom.temporal.build.stated_build_id", lambda: "1" * 16)
    code, error = await asyncio.to_thread(command, "worker", "frontend", "--build-id", "0" * 16, config=config)
    assert (code, error["code"]) == (5, "BuildDiffers")
    assert "1" * 16 in error["message"]


@pytest.mark.parametrize(
    ("kind", "behavior"), [(AutoUpgradeStopping, VersioningBehavior.AUTO_UPGRADE), (PinnedStopping, VersioningBehavior.PINNED)]
)
async def test_a_workflow_keeps_its_behavior_when_a_cancelled_activity_ends(
    client: Client, kind: type[AutoUpgradeStopping | PinnedStopping], behavior: VersioningBehavior
) -> None:
    name = kind.__name__
    spec = WorkerSpec(
        name,
        name,
        (kind,),
        (until_cancelled,),
        version=WorkerDeploymentVersion(name, "1"),
        extra={"max_heartbeat_throttle_interval": timedelta(seconds=0.05)},
    )
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=name, build_id="1", ignore_missing_task_queues=True, allow_no_pollers=True
    )
    await client.workflow_service.set_worker_deployment_current_version(request)
    async with create_worker(client, spec), asyncio.timeout(PATIENCE):
        handle = await client.start_workflow(kind.run, id=name, task_queue=name)
        done = list[VersioningBehavior]()
        while not done:
            await asyncio.sleep(0.05)
            events = (await handle.fetch_history()).events
            ended = next((at for at, event in enumerate(events) if event.HasField("activity_task_canceled_event_attributes")), len(events))
            completed = [event for event in events[ended:] if event.HasField("workflow_task_completed_event_attributes")]
            done = [VersioningBehavior(event.workflow_task_completed_event_attributes.versioning_behavior) for event in completed]
        assert set(done) == {behavior}
        await handle.signal(kind.end)
        await handle.result()
