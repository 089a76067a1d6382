"""``run explain`` and ``logs``: the timeline from recorded histories, the conclusion, and sources that do not answer."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.converter import WorkflowSerializationContext
from typer.testing import CliRunner

from cleanroom.errors import NotFound, Unavailable
from cleanroom.settings import KubernetesSettings, Settings
from cleanroom.spark.status import ClusterEvent
from cleanroom.temporal.converter import data_converter
from starters.cli import app
from starters.operations import explain, ledger_run
from starters.operations.explain import cluster_settings, conclusion, explain_run, history_entries
from starters.operations.session import Session
from tests.histories import recorded_history, recorded_keyring

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


async def entries(name: str) -> list[explain.Entry]:
    history = recorded_history(name)
    converter = data_converter(recorded_keyring()).with_context(WorkflowSerializationContext("default", history.workflow_id))
    return await history_entries(history.events, converter, "run")


async def test_timeline_of_a_completed_run_has_every_activity_from_start_to_end() -> None:
    found = await entries("run-query")
    texts = [entry.text for entry in found]
    assert texts[0] == "workflow started"
    assert texts[-1] == "workflow completed"
    names = {text.partition(":")[0] for text in texts if text.endswith(": scheduled")}
    # The run cancels its watch of consent when it ends.
    assert names - {text.partition(":")[0] for text in texts if ": done" in text} == {"watch_consent"}
    assert "watch_job" in names
    assert [entry.at for entry in found] == sorted(entry.at for entry in found)


async def test_timeline_of_a_refused_run_decrypts_the_failure() -> None:
    texts = [entry.text for entry in [*await entries("run-refused"), *await entries("prepare-refused")]]
    failed = [text for text in texts if ": failed" in text or text.startswith("workflow failed")]
    assert failed
    assert all("Encoded failure" not in text for text in failed)
    assert any(text.count(":") >= 2 for text in failed), "code and message"


FAILURE = {
    "code": "ConsentWithdrawn",
    "message": "litware withdrew consent.",
    "party": "litware",
    "hint": "Ask litware.",
    "meaning": "no consent",
}
RECORD = {
    "run_id": "r-1",
    "query": "q",
    "state": "Failed",
    "failure": FAILURE,
    "next": "cleanroom run start q",
    "retrying": {},
    "rows": None,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            [
                "Failed",
                "ConsentWithdrawn",
                "litware withdrew consent",
                "no consent",
                "litware must act",
                ": Ask litware; next",
                "`cleanroom run start q`",
            ],
        ),
        ({"failure": None, "state": "Completed", "rows": 1234, "next": ""}, ["Run r-1 of query q is Completed with 1,234 rows."]),
        ({"failure": None, "state": "Running", "retrying": {"watch": "Unavailable: no answer"}}, ["step watch", "Unavailable: no answer"]),
    ],
    ids=["failed", "completed", "retrying"],
)
def test_conclusion_is_one_sentence_with_what_to_do(changes: dict[str, Any], words: list[str]) -> None:
    said = conclusion({**RECORD, **changes})
    assert all(word in said for word in words), said
    assert "\n" not in said
    assert ".;" not in said


class Cluster:
    """A cluster with one job, or without."""

    def __init__(self, jobs: list[Any]) -> None:
        self.jobs = jobs

    def applications(self, selector: str) -> list[Any]:
        assert selector == "cleanroom/run=r-1"
        return self.jobs

    def status(self, name: str) -> Any:
        return SimpleNamespace(tracking_id=name, driver_pod="driver")

    def events(self, name: str) -> list[ClusterEvent]:
        return [ClusterEvent(reason="OOMKilled", message="memory", object="Pod/driver", last_seen=START + dt.timedelta(seconds=2))]

    def logs(self, pod: str, *, tail: int) -> str:
        return 'one\x1b[31m\nspan {"name":"pod"}\ntwo\n'

    def close(self) -> None:
        pass


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Sources that answer: a ledger with one entry, and a cluster. Temporal does not answer."""
    cluster = Cluster([{"metadata": {"name": "job-1"}}])
    monkeypatch.setattr("cleanroom.spark.kubernetes.KubernetesClient.connect", lambda settings: cluster)

    async def show(session: Session, run_id: str) -> dict[str, Any]:
        raise Unavailable("TemporalUnavailable", "no server")

    async def events(session: Session, *, run: str) -> list[Any]:
        return [SimpleNamespace(at=START, id="e", data={"name": "RUN_STARTED", "message": "started by u-17"})]

    async def from_ledger(session: Session, run_id: str) -> dict[str, Any]:
        return RECORD

    monkeypatch.setattr(explain, "show_run", show)
    monkeypatch.setattr(explain, "list_events", events)
    monkeypatch.setattr(ledger_run, "show_run_from_ledger", from_ledger)
    monkeypatch.setattr("starters.terminal.output.USER_NAMES", {"u-17": "north"})
    return cluster


async def test_sources_that_do_not_answer_are_named_and_the_others_are_shown(sources: Cluster) -> None:
    found = await explain_run(Session(Settings()), "r-1", KubernetesSettings())
    assert [(row["source"], row["what"]) for row in found["timeline"]] == [
        ("ledger", "RUN_STARTED started by north"), ("Kubernetes", "Pod/driver: OOMKilled memory"),
    ]  # fmt: skip
    assert found["log"] == ["one[31m", "two"]
    assert list(found["missing"]) == ["Temporal"]
    sources.jobs = []
    found = await explain_run(Session(Settings()), "r-1", KubernetesSettings())
    assert "PodLogGone" in found["missing"]["Kubernetes"]
    assert "Kubernetes" in (await explain_run(Session(Settings()), "r-1", None))["missing"]


async def test_run_that_no_source_knows_is_not_found(sources: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(session: Session, run_id: str, **_: Any) -> Any:
        raise NotFound("WorkflowNotFound", "no run")

    monkeypatch.setattr(explain, "show_run", unknown)
    monkeypatch.setattr(ledger_run, "show_run_from_ledger", unknown)
    with pytest.raises(NotFound, match="WorkflowNotFound"):
        await explain_run(Session(Settings()), "r-1", None)


def logs(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["logs", *words, "-o", "json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_logs_of_a_service_and_of_a_run(sources: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".cleanroom").mkdir()
    Path(".cleanroom/services.json").write_text("{}")
    Path("w.log").write_text("a\nb\nc\n")
    services = [{"name": "worker.north", "log": "w.log"}, {"name": "cgs", "log": "none.log"}]
    monkeypatch.setattr("starters.logs.list_local_cloud", lambda state: services)
    assert logs("north", "-n", "2")["lines"] == logs("worker.north", "-n", "2")["lines"] == ["b", "c"]
    assert logs("cgs", code=3)["code"] == "LogNotFound"
    missing = logs("r-1", code=6)
    assert (missing["code"], "worker.north" in missing["hint"]) == ("ClusterUnknown", True)
    Path("cleanroom.toml").write_text('[profile.spark]\nboundary = "spark-service"\n[profile.spark.kubernetes]\nnamespace = "n"\n')
    found = cluster_settings(None)
    assert found is not None
    assert found.namespace == "n"
    assert logs("r-1")["lines"] == ["one[31m", 'span {"name":"pod"}', "two"]
    sources.jobs = []
    assert logs("r-1", code=3)["code"] == "PodLogGone"
