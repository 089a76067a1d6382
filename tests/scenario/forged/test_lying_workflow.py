"""The operator replaces a query's workflow: what it shows changes neither the card of an owner nor what the owner signs."""

from __future__ import annotations

import asyncio

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner
from typer.testing import CliRunner, Result

from cleanroom.governance import Document
from cleanroom.identifiers import document_digest, query_workflow_id
from cleanroom.messages.query import DecisionMessage, QueryState
from cleanroom.statements import Decision
from cleanroom.statements.signing import peek
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.cli import app
from starters.operations.session import run_async
from tests.local_cloud import Cloud, World, unique

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


@workflow.defn(name="PublishQuery")
class LyingQuery:
    """Shows what the operator wants, and collects what owners send."""

    @workflow.init
    def __init__(self, lie: QueryState) -> None:
        self.lie = lie
        self.sent: list[str] = []

    @workflow.run
    async def run(self, lie: QueryState) -> None:
        await workflow.wait_condition(lambda: len(self.sent) == 2)

    @workflow.query
    def state(self) -> QueryState:
        return self.lie

    @workflow.query
    def decisions(self) -> list[str]:
        return self.sent

    @workflow.signal
    def approve(self, message: DecisionMessage) -> None:
        self.sent.append(message.decision)

    @workflow.signal
    def reject(self, message: DecisionMessage) -> None:
        self.sent.append(message.decision)


async def replaced(client: Client, cloud: Cloud, name: str, queue: str, lie: QueryState) -> WorkflowHandle[LyingQuery, None]:
    """Terminate the query's workflow, and start the liar under the same ID."""
    id = query_workflow_id(cloud.collaboration, name)
    await client.get_workflow_handle(id).terminate()
    attributes = start_attributes(collaboration=cloud.collaboration, kind="query", query=name, proposer="litware")
    return await client.start_workflow(LyingQuery.run, lie, id=id, task_queue=queue, search_attributes=attributes)


def test_a_lying_workflow_changes_nothing_of_what_an_owner_sees_and_signs(cloud: Cloud, world: World) -> None:
    query, other = cloud.propose(world.query("true")), world.query("lie", sql="SELECT l.tailnum AS lie FROM l", inputs={"l": "lie-table"})
    lie = query.model_copy(
        update={
            "query": other.name,
            "version": "9.99",
            "digest": "0" * 64,
            "proposal_id": "cd" * 16,
            "card": "reads\n  lie-table\n",
            "owners": ("lie-owner",),
            "pending": (),
            "accepted": ("contosso", "lie-owner"),
            "spec": other,
        }
    )

    def decide(*words: str, profile: str) -> Result:
        common = ["--profile", profile, "--config", str(cloud.state / "cleanroom.toml"), "--no-wait"]
        return CliRunner().invoke(app, ["query", *words, *common], input="y\n")

    async def seat() -> tuple[list[Result], list[str], Document]:
        client, queue = await cloud.fabrikam.temporal(), unique("operator")
        spec = WorkerSpec(
            name="operator", task_queue=queue, workflows=(LyingQuery,), extra={"workflow_runner": UnsandboxedWorkflowRunner()}
        )
        async with create_worker(client, spec), cloud.fabrikam.governance() as governance:
            handle = await replaced(client, cloud, query.query, queue, lie)
            done = [
                await asyncio.to_thread(decide, "approve", query.query, profile="litware"),
                await asyncio.to_thread(decide, "reject", query.query, profile="contosso"),
            ]
            return done, await handle.query(LyingQuery.decisions), await governance.get_document(query.query)

    done, sent, held = run_async(seat())
    assert [result.exit_code for result in done] == [0, 0], [result.output for result in done]
    signed = [peek(Decision, token) for token in sent]
    assert [(item.decision, item.signer) for item in signed] == [
        ("approve", cloud.litware.user_id),
        ("reject", cloud.contosso.user_id),
    ]
    digest = document_digest(str(held.data))
    for decision, result in zip(signed, done, strict=True):
        named = (decision.query, decision.version, decision.digest, decision.proposal_id)
        assert named == (query.query, held.version, digest, held.proposal_id)
        assert decision.trust == cloud.trust().digest
        card = result.output.split("[y/N]")[0]
        assert all(text in card for text in (digest, world.flights.name, world.planes.name, world.output.name))
        assert "lie" not in card
