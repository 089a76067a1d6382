"""Workflow code replays the recorded histories, so running workflows survive an update.

There is a history of every way in which each workflow ends (:mod:`tests.histories.outcomes`), and of the demo's workflows
(:mod:`tests.histories.record`). The commands of the current code are compared with the committed ones, too.
"""

from __future__ import annotations

import base64
import inspect
import re

import pytest
from temporalio.client import WorkflowHistory

from cleanroom.temporal.attributes import ALL, REMINDED
from cleanroom.temporal.workers import replayer
from tests.changed_release import ADDED, ChangedPrepare
from tests.histories import NAMES, OUTCOME_NAMES, fingerprints, recorded_history, recorded_keyring
from tests.histories.fingerprints import ADVICE, WORKFLOWS, committed, difference, replayed
from tests.histories.outcomes import CARRIED, ENDLESS, ENDS, OUTCOMES
from workers import boundaries

ALL_NAMES = (*NAMES, *OUTCOME_NAMES)


def test_every_workflow_of_the_workers_has_a_history_of_every_end() -> None:
    registered = {kind for kind in vars(boundaries).values() if isinstance(kind, type) and kind.__module__.startswith("workflows.")}
    assert registered == set(WORKFLOWS)
    for kind in WORKFLOWS:
        module = inspect.getmodule(kind)
        assert module is not None
        continues = {"continued_as_new"} if "workflow.continue_as_new(" in inspect.getsource(module) else set()
        wanted = {*ENDS, *continues} - ({"completed"} if kind in ENDLESS else set())
        assert {outcome.ends for outcome in OUTCOMES.values() if outcome.workflow is kind} == wanted, kind.__name__
    assert set(OUTCOME_NAMES) == {*OUTCOMES, CARRIED}


@pytest.mark.parametrize("name", OUTCOMES)
def test_recorded_outcome_is_the_one_that_its_name_says(name: str) -> None:
    history, outcome = recorded_history(name), OUTCOMES[name]
    assert history.events[0].workflow_execution_started_event_attributes.workflow_type.name == outcome.workflow.__name__
    assert history.events[-1].WhichOneof("attributes") == f"workflow_execution_{outcome.ends}_event_attributes"


NOT_IN_HISTORIES = {REMINDED.name}
"""Set by reminders, of which the first is due after a quarter of the period (``tests/unit/workflows/test_query_reminders.py``)."""


def test_every_search_attribute_is_set_by_a_workflow_or_at_its_start() -> None:
    found: set[str] = set()
    for name in ALL_NAMES:
        for event in recorded_history(name).events:
            attributes = getattr(event, event.WhichOneof("attributes"))
            if event.WhichOneof("attributes") in _WITH_SEARCH_ATTRIBUTES:
                found |= set(attributes.search_attributes.indexed_fields)
    assert found | NOT_IN_HISTORIES == {key.name for key in ALL}


_WITH_SEARCH_ATTRIBUTES = ("workflow_execution_started_event_attributes", "upsert_workflow_search_attributes_event_attributes")


def test_every_recorded_history_has_a_fingerprint() -> None:
    assert set(committed()) == set(ALL_NAMES), f"write them: python -m {fingerprints.__name__}"


@pytest.mark.parametrize("name", ALL_NAMES)
async def test_code_issues_the_recorded_commands(name: str) -> None:
    commands, result = await replayed(name)
    changed = difference(name, committed().get(name, ()), commands)
    assert result.replay_failure is None, f"{result.replay_failure}\n{changed or ADVICE}"
    assert not changed, changed


async def test_an_unpatched_command_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a workflow with one more command."""
    monkeypatch.setattr(fingerprints, "WORKFLOWS", (ChangedPrepare,))
    commands, result = await replayed("prepare.completed")
    assert "Nondeterminism" in str(result.replay_failure)
    report = difference("prepare.completed", committed()["prepare.completed"], commands)
    assert f"+timer {ADDED}" in report.splitlines()
    assert "workflow.patched" in report


@pytest.mark.parametrize("name", NAMES)
async def test_recorded_history_replays_in_the_sandbox(name: str) -> None:
    replay = replayer(WORKFLOWS, keyring=recorded_keyring(), namespace="default", accept_unbound=name == "publish-query")
    result = await replay.replay_workflow(recorded_history(name), raise_on_replay_failure=False)
    assert result.replay_failure is None, f"{result.replay_failure}{ADVICE}"


async def test_changed_order_of_commands_fails_the_replay() -> None:
    """Control: a history that lacks a command fails the replay."""
    history = recorded_history("prepare")
    kept = [event for event in history.events if event.activity_task_scheduled_event_attributes.activity_type.name != "build_job"]
    assert len(kept) == len(history.events) - 1
    replay = replayer(WORKFLOWS, keyring=recorded_keyring(), namespace="default")
    result = await replay.replay_workflow(WorkflowHistory(history.workflow_id, kept), raise_on_replay_failure=False)
    assert result.replay_failure is not None


@pytest.mark.parametrize("name", ALL_NAMES)
def test_history_contains_no_plain_text(name: str) -> None:
    """SQL, column names, tokens and results are encrypted. IDs and activity names are not."""
    text = recorded_history(name).to_json()
    data = re.findall(r'"data": ?"([A-Za-z0-9+/=]+)"', text)
    assert len(data) >= 3
    decoded = text.encode() + b"".join(map(base64.b64decode, data))
    for needle in (b"SELECT", b"dep_delay", b"manufacturer", b"awsSecretAccessKey", b"BEGIN CERTIFICATE", b"eyJhbGciOi"):
        assert needle not in decoded, needle
