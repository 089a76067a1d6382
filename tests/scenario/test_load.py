"""The short form of ``make test-load``: queries that wait at once, decisions in random order, and junk at one query."""

from __future__ import annotations

import pytest

from benchmarks.bench_load import measure

pytestmark = pytest.mark.scenario


async def test_decisions_in_random_order_with_duplicates_and_forged_ones_give_the_right_states() -> None:
    figures = await measure(6, 60)
    assert figures["ok"], figures
    assert (figures["decisions"], figures["wrong states"]) == (6 * 3 + 2 + 1, 0)
    refused = figures["refused messages"]
    assert sum(refused.values()) >= 1, "the forged decision"
    assert set(refused) <= {
        *("SignatureInvalid", "ApproverKeyUnknown", "DecisionDigestMismatch", "DecisionProposalMismatch", "NotProposalApprover"),
        *("BallotPending", "QueryNotProposed", "ProposalClosed"),
    }
    assert figures["accepted after the junk"]
