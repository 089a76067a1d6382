"""A next release whose runs have other commands than those of the earlier release."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from cleanroom.messages.run import Prepared, RunQueryInput, RunResult
    from workflows.prepare import Prepare
    from workflows.run_query import RunQuery

ADDED = "not in the earlier release"
"""Summary of the timer with which these workflows begin."""


@workflow.defn(name="RunQuery", versioning_behavior=VersioningBehavior.PINNED)
class ChangedRunQuery(RunQuery):
    """``RunQuery`` with one more command."""

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: RunQueryInput) -> RunResult:
        await workflow.sleep(timedelta(milliseconds=1), summary=ADDED)
        return await super().run(input)


@workflow.defn(name="Prepare", versioning_behavior=VersioningBehavior.PINNED)
class ChangedPrepare(Prepare):
    """``Prepare`` with one more command."""

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: RunQueryInput) -> Prepared:
        await workflow.sleep(timedelta(milliseconds=1), summary=ADDED)
        return await super().run(input)
