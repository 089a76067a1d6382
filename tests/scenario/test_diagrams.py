"""The histories of a live demo equal the sequence diagrams, like the recorded ones in ``tests/diagrams``."""

from __future__ import annotations

import pytest
from temporalio.client import WorkflowHistory

from cleanroom.temporal.codec import PayloadCodec
from starters.operations.session import run_async
from tests.diagrams.diagrams import DIAGRAMS
from tests.diagrams.history import Event, events_of
from tests.diagrams.lines import Diagram
from tests.local_cloud import Cloud

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]

WORKFLOWS = ("contosso-flights", "litware-planes", "query", "prepare", "run")
"""The demo's workflows, in the order of the diagrams."""


@pytest.fixture(scope="module")
def demo(cloud: Cloud) -> dict[str, str]:
    """The demo's workflow IDs; the demo has started this session's cloud."""
    if cloud.demo is None:
        pytest.skip("the cloud in CLEANROOM_TEST_CLOUD was not started by this session's demo")
    ids: dict[str, str] = cloud.printed_by_demo["workflow_ids"]
    return ids | {"prepare": f"{ids['run']}/prepare"}


@pytest.mark.parametrize(("diagram", "workflow"), list(zip(DIAGRAMS, WORKFLOWS, strict=True)), ids=WORKFLOWS)
def test_live_history_equals_the_diagram(cloud: Cloud, demo: dict[str, str], diagram: Diagram, workflow: str) -> None:
    diagram.check_history(run_async(_events(cloud, demo[workflow])))


async def _events(cloud: Cloud, workflow_id: str) -> list[Event]:
    client = await cloud.fabrikam.temporal()
    history: WorkflowHistory = await client.get_workflow_handle(workflow_id).fetch_history()
    codec = client.data_converter.payload_codec
    assert isinstance(codec, PayloadCodec)
    return await events_of(history, codec, client.namespace)
