"""Searches every place that others can read for every secret of the system.

One run succeeds, one fails in the pod, one is cancelled, and some commands fail on wrong secrets. Then the tests search
histories, Kubernetes objects, governance, terminal output, processes and files. Each search is shown to find what is there.
"""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from cleanroom.identifiers import query_workflow_id, run_trace
from cleanroom.tracing import ATTRIBUTES
from starters.operations.session import run_async
from tests.canary.places import governance, histories, kubernetes, scrapes, spans
from tests.canary.planting import Played, play
from tests.canary.scanner import Finding, Place, Scanner, files
from tests.local_cloud import Cloud, World
from tests.patience import PATIENCE
from workflows.publish_query import PublishQuery

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]

OWN = ("secrets/", "parties/", "config/", "tls/", "guests.json", "cleanroom.toml", "images/", "data/", "tests/")
"""Parts of the state folder that belong to one user or one process. A file with a secret there must have mode 0600."""


@pytest.fixture(scope="module")
def played(cloud: Cloud, world: World, tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(cloud, world, tmp_path_factory.mktemp("canary"))


def clean(findings: list[Finding]) -> None:
    assert findings == [], "\n".join(f"{item.what} ({item.writing}) in {item.where}" for item in findings)


def test_scanner_knows_every_kind_of_secret(played: Played) -> None:
    """Control: the list of secrets that the other tests search for is complete."""
    kinds = {what.split()[0] + " " + what.split()[1] for what, _, _ in played.scanner.needles}
    for kind in ("dataset key", "connection secret", "private key", "codec key", "guest capability", "key encryption", "issuer's signing"):
        assert kind in kinds, kinds
    names = {what for what, _, _ in played.scanner.needles}
    assert any("signing-key.pem" in name for name in names)
    assert any(name.startswith("token contosso") for name in names)
    for run_id in (played.runs["success"], played.runs["cancel"]):
        assert any(name.startswith("network secret") and run_id in name for name in names), run_id
    assert len(names) > 40


@pytest.fixture(scope="module")
def history(played: Played) -> tuple[list[Place], list[Place]]:
    async def read() -> tuple[list[Place], list[Place]]:
        return await histories(await played.cloud.fabrikam.temporal(), played.keyring)

    return run_async(read())


@pytest.mark.parametrize("decoded", [False, True], ids=["raw", "decoded"])
def test_histories_contain_no_secret(played: Played, history: tuple[list[Place], list[Place]], decoded: bool) -> None:
    places = history[decoded]
    everything = b"\n".join(data for _, data in places)
    # Control: run IDs are not encrypted, SQL is.
    assert played.runs["success"].encode() in everything
    assert (b"COUNT(DISTINCT f.tailnum)" in everything) is decoded
    clean(played.scanner.look(places))


def test_planted_secret_is_found_only_in_decoded_histories(played: Played) -> None:
    """Control: the search finds a secret that is sent as a decision, but only in decoded payloads."""
    canary = f"canary-{os.urandom(16).hex()}"
    scanner = Scanner()
    scanner.know("planted", canary.encode())
    cloud = played.cloud

    async def plant() -> tuple[list[Place], list[Place]]:
        client = await cloud.fabrikam.temporal()
        handle = client.get_workflow_handle(query_workflow_id(cloud.collaboration, played.queries[0]))
        await handle.signal(PublishQuery.approve, {"decision": canary})
        return await histories(client, played.keyring)

    raw, decoded = run_async(plant())
    clean(scanner.look(raw, forms=False))
    found = scanner.look(decoded, forms=False)
    assert {item.what for item in found} == {"planted"}


def test_kubernetes_objects_contain_no_secret(played: Played) -> None:
    places = [(where, data) for data, where in played.watcher.objects.items()] + kubernetes(played.cloud)
    everything = b"\n".join(data for _, data in places)
    assert b"sparkapplications" in b"\n".join(where.encode() for where, _ in places)
    for run in played.runs.values():
        assert run.encode() in everything
    clean(played.scanner.look(places))


def test_governance_shows_no_secret(played: Played) -> None:
    places = run_async(governance(played.cloud, played.queries, list(played.runs.values())))
    everything = b"\n".join(data for _, data in places)
    assert b"QUERY_COMPLETED" in everything
    assert b"PREPARED" in everything
    clean(played.scanner.look(places))


def test_metrics_contain_no_secret_and_no_name_of_a_query_or_run(played: Played) -> None:
    places = scrapes(played.cloud)
    everything = b"\n".join(data for _, data in places)
    assert len(places) == 6
    for metric in (
        b"cleanroom_step_seconds_bucket",
        b"cleanroom_grants_total",
        b"cleanroom_approvals_pending",
        b"temporal_workflow_completed",
    ):
        assert metric in everything
    clean(played.scanner.look(places))
    for name in (*played.queries, *played.runs.values(), played.cloud.collaboration):
        assert name.encode() not in everything, name


def test_traces_contain_no_secret_and_lead_from_the_command_to_the_pod(played: Played) -> None:
    trace_id = f"{run_trace(played.cloud.collaboration, played.runs['success']).trace_id:032x}"
    deadline = time.monotonic() + PATIENCE
    while True:
        found = spans(played.cloud)
        own = [span for span in found if span["trace"] == trace_id]
        names = {span["name"] for span in own}
        if {"pod", "RunWorkflow:RunQuery"} <= names:
            break
        # Workers export every five seconds.
        assert time.monotonic() < deadline, names
        time.sleep(0.5)
    assert {"cleanroom run start", "RunActivity:set_secret", "compute result", "GET", "POST"} <= names
    assert {span["service"] for span in own} >= {"cleanroom-cli", "cleanroom-clean-room", "cleanroom-spark-service"}
    clean(played.scanner.look([(f"span {span['name']}", json.dumps(span).encode()) for span in found]))
    assert {key for span in found for key in span["attributes"]} <= ATTRIBUTES


def test_terminal_output_contains_no_secret(played: Played) -> None:
    """The output of successful and failing commands, as tables and as JSON."""
    everything = b"\n".join(data for _, data in played.terminal)
    for word in (played.runs["success"].encode(), b"SignatureDoesNotMatch", b"ConnectionSecretMalformed"):
        assert word in everything
    clean(played.scanner.look(played.terminal))


def test_command_lines_and_environments_contain_no_secret(played: Played) -> None:
    """Every user of the machine can read command lines. An environment may contain only the pod's own guest capability."""
    commands, environments = list(played.watcher.commands.items()), list(played.watcher.environments.items())
    assert any(b"starters.worker" in data for _, data in commands)
    assert any(b"sparkapp" in data for _, data in commands), "no pod was seen"
    clean(played.scanner.look(commands))
    own = Scanner([item for item in played.scanner.needles if not item[0].startswith("guest capability")])
    # Azurite accepts the keys of its accounts only in its environment. It is the storage service itself.
    ours = [(where, data) for where, data in environments if b"azurite" not in played.watcher.commands[where]]
    assert any(b"sparkapp" in played.watcher.commands[where] for where, _ in ours)
    clean(own.look(ours, guests=False))


def test_readable_files_contain_no_secret(played: Played) -> None:
    """Logs, databases and pods' folders contain no plain secret. Files with a secret are readable by one user only."""
    state = played.cloud.state
    logs = [*files(state / "logs"), ("supervisor.log", (state / "supervisor.log").read_bytes())]
    assert any(b"attest/combined" in data for _, data in logs)
    clean(played.scanner.look(logs))
    kept = list(files(state, skip=OWN))
    assert any(where.endswith("cgs.sqlite") for where, _ in kept)
    assert any(where.endswith("temporal.db") for where, _ in kept)
    open_to_others = []
    for finding in played.scanner.look(kept):
        file = Path(finding.where)
        own_key = file.suffix in (".pem", ".key", ".yaml", ".json") and stat.S_IMODE(file.stat().st_mode) == 0o600
        if not own_key:
            open_to_others.append(finding)
    clean(open_to_others)
    for folder in OWN:
        for where, _ in files(state / folder) if (state / folder).is_dir() else [(str(state / folder), b"")]:
            if played.scanner.look([(where, Path(where).read_bytes() if Path(where).is_file() else b"")]):
                assert stat.S_IMODE(Path(where).stat().st_mode) == 0o600, where
