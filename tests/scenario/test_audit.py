"""Audit bundles of real runs: exported by every collaborator, verified offline, and broken by any change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cleanroom.attestation import TrustStore
from cleanroom.audit.chain import Bundle
from cleanroom.audit.files import bundle_json, parse_bundle, read_bundle
from cleanroom.audit.verify import verify_bundle
from cleanroom.datasets.keystore import KeyStore
from cleanroom.errors import Refused
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS
from tests.local_cloud import Cloud, World
from tests.local_cloud.bundles import audit, export
from tests.local_cloud.ended_runs import CompletedRun, EndedRun

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


def verify(cloud: Cloud, file: Path, *options: str, process: bool = False) -> tuple[int, dict[str, Any]]:
    """Verify a bundle without any settings: exit code and verdict."""
    return audit("verify", str(file), "--trust", str(cloud.hardware.trust_file), *options, process=process)


@pytest.fixture(scope="module")
def completed(cloud: Cloud, completed_run: CompletedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(run id, its bundle exported by Litware) of a run that completed."""
    file = tmp_path_factory.mktemp("evidence") / "run.json"
    export(cloud, "litware", completed_run.run_id, file, process=True)
    return completed_run.run_id, file


def kinds(bundle: Bundle) -> set[str]:
    return {record.kind for record in bundle.records}


def test_bundle_of_a_completed_run_verifies_offline(cloud: Cloud, completed: tuple[str, Path]) -> None:
    _, file = completed
    code, verdict = verify(cloud, file, "--spark-host-data", cloud.trust().document.spark_service_host_data[0], process=True)
    assert (code, verdict["ok"], verdict["state"], verdict["development"]) == (0, True, "COMPLETED", True)
    assert verdict["sealed_by"] == cloud.litware.user_id
    wanted = {
        "request",
        "document",
        "key",
        "decision",
        "report",
        "job",
        "policies",
        "grant",
        "revocation",
        "consent",
        "receipt",
        "event",
        "trust",
    }
    assert kinds(read_bundle(file)) >= wanted
    # Development hardware does not chain to AMD's roots.
    assert not verify_bundle(read_bundle(file), TrustStore.amd()).ok


def test_bundle_contains_no_secret(cloud: Cloud, completed: tuple[str, Path], completed_run: CompletedRun) -> None:
    text = completed[1].read_text()
    for session, dataset in completed_run.datasets:
        key = KeyStore(session.settings.keys_dir, session.settings.collaboration).get(dataset)
        assert key.reveal().hex() not in text
        assert json.dumps(key.reveal().decode("latin-1"))[1:-1] not in text
    connection = json.loads((cloud.state / "parties/litware/s3-connection.json").read_text())
    assert connection["awsSecretAccessKey"] not in text


def test_changed_record_of_an_export_is_named(cloud: Cloud, completed: tuple[str, Path]) -> None:
    trust = TrustStore.load(amd=True, root_files=[cloud.hardware.trust_file])
    lines = completed[1].read_bytes().split(b"\n")
    for index in range(len(lines) - 4):
        line = lines[index + 2]
        edited = b"\n".join([*lines[: index + 2], line.replace(b'"subject":"', b'"subject":"x', 1), *lines[index + 3 :]])
        broken = verify_bundle(parse_bundle(edited), trust).first_broken
        assert broken is not None
        assert broken.index == index
        spaced = b"\n".join([*lines[: index + 2], line.replace(b":", b": ", 1), *lines[index + 3 :]])
        with pytest.raises(Refused) as refused:
            parse_bundle(spaced)
        assert refused.value.details["index"] == index


def test_every_collaborator_exports_a_bundle_with_its_own_seal(cloud: Cloud, completed: tuple[str, Path], tmp_path: Path) -> None:
    exported = export(cloud, "contosso", completed[0], tmp_path / "run.zip")
    assert exported["sealedBy"] == cloud.contosso.user_id
    assert verify(cloud, tmp_path / "run.zip")[0] == 0
    mine, theirs = read_bundle(completed[1]), read_bundle(tmp_path / "run.zip")
    mixed = mine.model_copy(update={"manifest": mine.manifest.model_copy(update={"seal": theirs.manifest.seal})})
    (tmp_path / "mixed.json").write_bytes(bundle_json(mixed))
    code, verdict = verify(cloud, tmp_path / "mixed.json")
    assert (code, verdict["first_broken"]["id"]) == (4, "seal")


def test_ledger_contains_every_step_in_order(cloud: Cloud, completed: tuple[str, Path]) -> None:
    options = ["--run", completed[0], "--profile", "fabrikam", "--config", str(cloud.state / "cleanroom.toml")]
    _, rows = audit("list", *options, process=True)
    names = [row["event"] for row in rows if row["event"] in CLEAN_ROOM_STEPS]
    assert names == [name for name in CLEAN_ROOM_STEPS if name not in ("RUN_FAILED", "RUN_CANCELLED")]
    assert [row["seqno"] for row in rows] == sorted(row["seqno"] for row in rows)
    second = rows[1]["seqno"]
    _, paged = audit("list", "--from-seqno", str(second), "--limit", "2", *options)
    assert [row["seqno"] for row in paged] == [row["seqno"] for row in rows[1:3]]


def test_refused_run_has_a_bundle(cloud: Cloud, world: World, tmp_path: Path) -> None:
    state = cloud.propose(world.query())
    code, run_id = cloud.failed_run(state.query, state.digest)
    assert code == "QueryNotApproved"
    export(cloud, "fabrikam", run_id, tmp_path / "run.json")
    found, verdict = verify(cloud, tmp_path / "run.json")
    assert (found, verdict["state"]) == (0, "FAILED")
    assert not kinds(read_bundle(tmp_path / "run.json")) & {"grant", "receipt", "report"}


def test_bundle_contains_withdrawn_consent(cloud: Cloud, withdrawn_run: EndedRun, tmp_path: Path) -> None:
    run_id = withdrawn_run.run_id
    export(cloud, "contosso", run_id, tmp_path / "run.json")
    code, verdict = verify(cloud, tmp_path / "run.json")
    assert code == 0, verdict.get("first_broken")
    consents = [record.body for record in read_bundle(tmp_path / "run.json").records if record.kind == "consent"]
    assert consents[-1]["status"] == "withdrawn"
    assert consents[-1]["documents"] == [withdrawn_run.query]


def test_export_of_an_unknown_run_is_not_found(cloud: Cloud, tmp_path: Path) -> None:
    assert export(cloud, "litware", "r-nowhere", tmp_path / "run.json", code=3)["code"] == "WorkflowNotFound"
    assert not (tmp_path / "run.json").exists()
