"""The short form of ``make test-load``: queries that wait at once, decisions in random order, junk at one query, and runs at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from benchmarks import bench_junk, bench_load
from benchmarks.bench_junk import flood
from benchmarks.bench_load import load_queries
from benchmarks.load_server import FAILED
from tests.audit_world import AuditWorld
from tests.load_runs import WITHDRAWN, concurrent_runs

pytestmark = pytest.mark.scenario


async def test_decisions_in_random_order_with_duplicates_and_forged_ones_give_the_right_states() -> None:
    figures = await load_queries(6)
    assert (figures["decisions"], figures[bench_load.WRONG], figures[FAILED]) == (6 * 3 + 2 + 1, 0, [])
    refused = figures["refused messages"]
    assert sum(refused.values()) >= 1, "the forged decision"
    assert set(refused) <= {
        *("SignatureInvalid", "ApproverKeyUnknown", "DecisionDigestMismatch", "DecisionProposalMismatch", "NotProposalApprover"),
        *("BallotPending", "QueryNotProposed", "ProposalClosed"),
    }


async def test_a_query_answers_after_junk_signals() -> None:
    figures = await flood(1, 60)
    assert (figures[bench_junk.ACCEPTED], figures[FAILED], figures["junk signals that the server rejected"]) == (1, [], 0)


async def test_concurrent_runs_keep_the_owners_limit_and_leave_nothing(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    """Four runs start at once, and the owners allow two."""
    world = await asyncio.to_thread(AuditWorld, tmp_path, max_runs=2)
    figures = await concurrent_runs(temporal_env.client, world, 4, expected=0)
    assert figures["ends"].get("COMPLETED", 0) <= 2, figures
    assert set(figures["ends"]) <= {"COMPLETED", "ApprovalRunsExhausted"}
    assert sum(figures["ends"].values()) == 4
    assert (figures["jobs"] <= 2, figures["left"]) == (True, [])


async def test_withdrawn_consent_stops_every_concurrent_run(temporal_env: WorkflowEnvironment, tmp_path: Path) -> None:
    """The jobs do not end otherwise. `make test-load` measures the seconds."""
    world = await asyncio.to_thread(AuditWorld, tmp_path, max_runs=None)
    figures = await concurrent_runs(temporal_env.client, world, 2, withdraw=True, prefix="w")
    assert (set(figures["ends"]) <= WITHDRAWN, figures["jobs"], figures["left"]) == (True, 2, [])
