"""The commands that the current code issues for each recorded history, in order.

``fingerprints.json`` holds them. A change of it is a change that running workflows may not survive: see :data:`ADVICE`.
``python -m tests.histories.fingerprints`` writes the file again; ``make histories`` does so too.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import PayloadConverter
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstanceDetails, WorkflowReplayResult

from cleanroom.temporal.runners import Activate, WrappingRunner
from cleanroom.temporal.workers import replayer
from tests.histories import FOLDER, NAMES, OUTCOME_NAMES, recorded_history, recorded_keyring
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery
from workflows.watch_queries import WatchQueries

FILE: Final = FOLDER / "fingerprints.json"
WORKFLOWS: Final = (Cleanup, ConcludeRun, Prepare, PublishAzureDataset, PublishQuery, PublishS3Dataset, RunQuery, WatchQueries)
ADVICE: Final = """
The workflow issues other commands than before. Workflows that run now were started with the commands that are recorded.
- If a release has the recorded commands: keep them for running workflows with `if workflow.patched("what-changed"):`, record a history of
  the new branch next to the old one, and write the fingerprints: python -m tests.histories.fingerprints
- If no release has them: record the histories again: python -m tests.histories.outcomes, and `make histories` for those of the demo.
"""


class CommandRecorder(WrappingRunner):
    """Runs workflows, and lists their commands."""

    def __init__(self) -> None:
        super().__init__(UnsandboxedWorkflowRunner())
        self.commands: list[str] = []
        self._names: dict[tuple[str, int], str] = {}

    def activate(self, activate: Activate, det: WorkflowInstanceDetails, act: WorkflowActivation) -> WorkflowActivationCompletion:
        completion = activate(act)
        self.commands += filter(None, map(self._describe, completion.successful.commands))
        return completion

    def _describe(self, command: WorkflowCommand) -> str:
        """Return type, name and what a replay or the receiver compares. Queries' answers are not commands of the history."""
        kind = command.WhichOneof("variant") or ""
        body = getattr(command, kind)
        summary = _summary(command)
        if kind == "schedule_activity":
            return self._named("activity", body.seq, f"{body.activity_type} on {_queue(body.task_queue)}")
        if kind == "start_child_workflow_execution":
            return self._named("child", body.seq, body.workflow_type)
        if kind == "start_timer":
            return self._named("timer", body.seq, summary)
        if kind in ("request_cancel_activity", "cancel_timer"):
            started = "activity" if kind == "request_cancel_activity" else "timer"
            return f"cancel {self._names[started, body.seq]}"
        if kind == "cancel_child_workflow_execution":
            return f"cancel {self._names['child', body.child_workflow_seq]}"
        if kind == "upsert_workflow_search_attributes":
            return f"search attributes {', '.join(sorted(body.search_attributes.indexed_fields))}"
        if kind == "set_patch_marker":
            return f"patch {body.patch_id}"
        if kind == "update_response":
            return f"update {body.WhichOneof('response')}"
        return "" if kind == "respond_to_query" else kind.replace("_", " ")

    def _named(self, kind: str, number: int, name: str) -> str:
        self._names[kind, number] = f"{kind} {name}"
        return self._names[kind, number]


def _queue(name: str) -> str:
    return "a collaborator's queue" if name.startswith("collaborator.") else name or "the workflow's queue"


def _summary(command: WorkflowCommand) -> str:
    if not command.user_metadata.HasField("summary"):
        return ""
    return str(PayloadConverter.default.from_payload(command.user_metadata.summary))


async def replayed(name: str) -> tuple[list[str], WorkflowReplayResult]:
    """Replay a history with the current code, and return the commands and the result."""
    recorder = CommandRecorder()
    replay = replayer(WORKFLOWS, keyring=recorded_keyring(), namespace="default", accept_unbound=name == "publish-query", runner=recorder)
    result = await replay.replay_workflow(recorded_history(name), raise_on_replay_failure=False)
    return recorder.commands, result


def committed() -> dict[str, list[str]]:
    """Return the commands by name of the history."""
    found: dict[str, list[str]] = json.loads(FILE.read_text("utf-8"))
    return found


def difference(name: str, before: Sequence[str], now: Sequence[str]) -> str:
    """Return what changed, and what to do; empty if nothing changed."""
    if list(before) == list(now):
        return ""
    lines = difflib.unified_diff(before, now, f"{name}: recorded", f"{name}: current code", lineterm="", n=2)
    return "\n".join((*lines, ADVICE))


async def write_fingerprints(path: Path = FILE) -> None:
    """Write the commands of the current code."""
    found = {name: (await replayed(name))[0] for name in sorted((*NAMES, *OUTCOME_NAMES))}
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"{len(found)} histories, {sum(map(len, found.values()))} commands")


if __name__ == "__main__":
    asyncio.run(write_fingerprints())
