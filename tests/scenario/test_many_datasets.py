"""A query over the largest allowed number of datasets, with the longest names, from its draft to its approval.

``Prepare`` with as many datasets is measured by ``benchmarks/bench_orchestration.py``, because it takes half a minute.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.identifiers import FRONTEND_QUEUE, MAX_NAME, document_digest, query_workflow_id
from cleanroom.messages.query import AuthorMessage, Collaborator, PublishQueryInput
from cleanroom.temporal.attributes import start_attributes
from starters.operations.queries import web_ui_details
from tests.load_world import COLLABORATION, YEARS, load, until
from tests.temporal_env import TEST_KEYRING
from tests.unit.activities.owners import PARTIES
from tests.unit.activities.publishing import publish_dataset
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario

DATASETS = 200
HOURS = YEARS.total_seconds() / 3600
PAYLOAD = 2 * 2**20
"""Largest payload that Temporal's server accepts, in bytes."""
WEB_UI = 20_000
"""Largest text of a page in the Web UI, in bytes."""


async def test_a_query_over_200_datasets_is_proposed_shown_and_approved(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    names = [f"d{number:03}-".ljust(MAX_NAME, "x") for number in range(DATASETS)]
    views = [f"v{number:03}_".ljust(60, "y") for number in range(DATASETS)]
    parts = [f"SELECT {view}.region AS region, {view}.total AS total FROM {view}" for view in views]
    sql = f"SELECT u.region AS region, COUNT(*) AS total FROM ({' UNION ALL '.join(parts)}) AS u GROUP BY u.region"
    spec = QuerySpec(name="wide", inputs=dict(zip(views, names, strict=True)), output="out", sql=sql)
    assert len(web_ui_details("fabrikam", spec)) <= WEB_UI
    async with load(temporal_env.client, tmp_path, TEST_KEYRING) as world:
        author = world.owners["fabrikam"]
        for number, name in enumerate(names):
            await publish_dataset(world.governance, name, ("u-contosso", "u-litware")[number % 2], "read")
        query = await world.client.start_workflow(
            PublishQuery.run,
            PublishQueryInput(
                collaboration=COLLABORATION,
                proposer=Collaborator(name="fabrikam", user_id="u-fabrikam"),
                parties=tuple(Collaborator(name=name, user_id=user) for name, user in PARTIES.items()),
                spec=spec,
                authorisation=author.sign("create-query", "wide", spec.digest(), hours=HOURS),
            ),
            id=query_workflow_id(COLLABORATION, "wide"),
            task_queue=FRONTEND_QUEUE,
            search_attributes=start_attributes(
                collaboration=COLLABORATION, kind="query", query="wide", proposer="fabrikam", datasets=[*names, "out"]
            ),
        )
        await until(lambda: "wide" in world.governance.drafts, seconds=60)
        draft = world.governance.drafts["wide"]
        token = author.sign("propose-query", "wide", document_digest(str(draft.data)), version=str(draft.version), hours=HOURS)
        proposed = await query.execute_update(PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation=token))
        assert (proposed.stage, proposed.pending) == ("Proposed", ("contosso", "fabrikam", "litware"))
        for owner in proposed.pending:
            outcome = await query.execute_update(PublishQuery.approve_and_wait, world.decision("wide", owner))
        assert outcome.stage == "Approved"
        state = await query.query(PublishQuery.state)
        assert all(name in state.card for name in views)
        assert len(state.model_dump_json()) < PAYLOAD
        history = await query.fetch_history()
        assert max(event.ByteSize() for event in history.events) < PAYLOAD
        described = await query.describe()
        details = await described.static_details()
        assert len(details or "") <= WEB_UI
        await query.terminate()
