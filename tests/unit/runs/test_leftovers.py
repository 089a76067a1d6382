"""Which runs have ended without cleaning up, decided from governance's and Temporal's answers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from cleanroom.messages.cleanup import RunHeld, WorkflowState, WorkflowStatus
from cleanroom.runs.leftovers import EXPIRY_MARGIN, still_held, verdict

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
HERE, ELSEWHERE = "namespace-1", "namespace-2"
GRACE = dt.timedelta(minutes=10)


def run(**members: Any) -> RunHeld:
    found = {"run_id": "r-1", "pinned": True, "pinned_at": NOON, "expires": NOON + dt.timedelta(hours=12), "origin": HERE}
    return RunHeld(**found | {"held": {"secrets": 1}} | members)


def decide(found: RunHeld, state: WorkflowStatus, *, after: dt.timedelta = dt.timedelta(hours=1), lost: tuple[str, ...] = ()) -> str:
    workflow = WorkflowState(state=state, status="TERMINATED" if state == "ended" else "")
    return verdict(found, workflow, read_at=NOON + after, namespace_id=HERE, grace=GRACE, lost=lost).kind


@pytest.mark.parametrize("state", ["open", "concluding"])
@pytest.mark.parametrize(
    "found",
    [run(), run(closed=True), run(origin=ELSEWHERE), run(expires=NOON - dt.timedelta(days=9))],
    ids=["own", "closed", "elsewhere", "expired"],
)
def test_a_run_with_an_open_workflow_is_never_left_over(found: RunHeld, state: WorkflowStatus) -> None:
    assert decide(found, state, lost=(HERE, ELSEWHERE)) == "open"


def test_a_run_whose_workflow_has_ended_is_left_over_at_once() -> None:
    """The server's answer is certain, so there is no grace."""
    assert decide(run(), "ended", after=dt.timedelta()) == "left"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-3600, "kept"), (0, "kept"), (599, "kept"), (600, "left")], ids=["clock set back", "now", "before", "after"]
)
def test_a_run_that_temporal_does_not_know_is_left_alone_for_the_grace(seconds: int, expected: str) -> None:
    assert decide(run(), "unknown", after=dt.timedelta(seconds=seconds)) == expected


@pytest.mark.parametrize("origin", [ELSEWHERE, ""], ids=["other", "unknown"])
@pytest.mark.parametrize("state", ["ended", "unknown"])
def test_a_run_of_another_namespace_is_left_alone_until_its_request_has_expired(origin: str, state: WorkflowStatus) -> None:
    found = run(origin=origin)
    over = dt.timedelta(hours=12) + EXPIRY_MARGIN
    assert decide(found, state, after=over - dt.timedelta(seconds=1)) == "kept"
    assert decide(found, state, after=over) == "left"


def test_a_run_of_a_namespace_that_the_operator_declares_lost_is_left_over() -> None:
    assert decide(run(origin=ELSEWHERE), "unknown", lost=("namespace-3",)) == "kept"
    assert decide(run(origin=ELSEWHERE), "unknown", after=dt.timedelta(), lost=(ELSEWHERE,)) == "left"


def test_a_closed_run_is_left_over_wherever_it_ran() -> None:
    assert decide(run(closed=True, origin=ELSEWHERE), "unknown", after=dt.timedelta()) == "left"


def test_what_no_pin_explains_is_left_over() -> None:
    found = RunHeld(run_id="r-1", held={"application": 1})
    assert (
        verdict(found, WorkflowState(state="unknown"), read_at=NOON, namespace_id=HERE, grace=GRACE).reason == "the ledger does not know it"
    )


def test_only_what_both_looks_have_found_is_left_over() -> None:
    first = run(held={"secrets": 2, "secret grants": 4, "event grants": 2})
    second = run(held={"secrets": 3, "event grants": 1, "token grants": 2}, closed=True)
    both = still_held(first, second)
    assert (both.held, both.closed) == ({"secrets": 2, "event grants": 1}, True)
