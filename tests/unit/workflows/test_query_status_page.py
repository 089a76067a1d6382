"""The Web UI page of a query, word for word in each stage, and its search attributes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.common import SearchAttributeKey

from tests.unit.test_query_state import OWNERS, START, digest, drafted, proposed
from workflows.query_state import QueryStateMachine
from workflows.query_status_page import query_attributes, query_details


def page(query: QueryStateMachine) -> list[str]:
    """The lines of the page without empty ones."""
    return [line for line in query_details(query, "fabrikam").splitlines() if line]


def at(query: QueryStateMachine, minutes: int, *event: str) -> None:
    query.record(START + timedelta(minutes=minutes), *event)


def test_a_query_that_is_created_has_no_version_text_or_next_step() -> None:
    query = drafted()
    query.stage, query.version, query.digest, query.card, query.owners = "Creating", "", "", "", ()
    assert page(query) == ["**delays** of fabrikam: **Creating**", "version `-`, digest `-`", "**History**"]


def test_a_draft_shows_its_text_and_how_to_propose_it() -> None:
    query = drafted()
    at(query, 0, "created", "fabrikam")
    assert page(query) == [
        "**delays** of fabrikam: **Draft**",
        f"version `2.1`, digest `{digest(1)[:16]}`",
        "Next: `cleanroom query propose delays --profile fabrikam`",
        "**History**",
        "- 2026-01-01 00:00:00 created by **fabrikam**",
        "**What the owners approve**",
        *("```", "card 1", "```"),
    ]


def test_a_proposal_shows_each_owners_vote_and_its_time() -> None:
    query = proposed()
    at(query, 1, "proposed", "fabrikam")
    at(query, 2, "approved", "contosso")
    at(query, 3, "rejected", "fabrikam", "too much")
    at(query, 4, "something else")
    query.owners = ("u-contosso", "u-fabrikam", "u-litware", "u-unknown")
    query.ballots = {"u-contosso": "accepted", "u-fabrikam": "rejected", "u-unknown": "accepted"}
    assert page(query) == [
        "**delays** of fabrikam: **Not Approved** (2 of 4 owners)",
        f"version `2.1`, digest `{digest(1)[:16]}`, expires 2026-01-15 00:00 UTC",
        "- ✓ contosso approved 2026-01-01 00:02:00 UTC",
        "- ✗ fabrikam rejected 2026-01-01 00:03:00 UTC",
        "- ○ litware **pending** since 2026-01-01 00:01:00 UTC",
        "- ✓ u\\-unknown approved ",
        "Next: `cleanroom query approve delays --profile litware`. With `--print-signal` the command prints the input for *Send a Signal*.",
        "**History**",
        "- 2026-01-01 00:00:00 proposed by **fabrikam**: version 2\\.1",
        "- 2026-01-01 00:01:00 proposed by **fabrikam**",
        "- 2026-01-01 00:02:00 approved by **contosso**",
        "- 2026-01-01 00:03:00 rejected by **fabrikam**: too much",
        "- 2026-01-01 00:04:00 something else",
        "**What the owners approve**",
        *("```", "card 1", "```"),
    ]


def test_the_first_event_of_the_history_counts() -> None:
    assert "- ○ contosso **pending** since 2026-01-01 00:00:00 UTC" in page(proposed())
    query = proposed()
    query.history.clear()
    at(query, 5, "approved", "contosso")
    query.ballots = {"u-contosso": "accepted"}
    assert "- ✓ contosso approved 2026-01-01 00:05:00 UTC" in page(query)
    assert "\n\n\n" not in query_details(drafted(), "fabrikam")


def test_the_next_step_names_three_owners_at_most_and_none_when_all_have_voted() -> None:
    query = proposed()
    query.owners = tuple(f"u-{number}" for number in range(5))
    [step] = [line for line in page(query) if line.startswith("Next:")]
    assert step.startswith("Next: `cleanroom query approve delays --profile u-0` and `cleanroom query approve delays --profile u-1` and ")
    assert "u-2`. With" in step
    assert "\n\n\n" not in query_details(query, "fabrikam")
    query.ballots = dict.fromkeys(query.owners, "accepted")
    assert not any(line.startswith("Next:") for line in page(query))


def test_an_approved_query_shows_its_end_and_how_to_run_it() -> None:
    query = proposed()
    query.approvals_expire_at = START + timedelta(days=3)
    query.ballots = dict.fromkeys(OWNERS, "accepted")
    query.approved_in_governance(START)
    assert page(query)[:5] == [
        "**delays** of fabrikam: **Approved** (2 of 2 owners)",
        f"version `2.1`, digest `{digest(1)[:16]}`, expires 2026-01-04 00:00 UTC",
        "- ✓ contosso approved ",
        "- ✓ litware approved ",
        "Next: `cleanroom run start delays --profile fabrikam`",
    ]


def test_a_closed_query_keeps_its_text() -> None:
    query = proposed()
    query.close(START, "Withdrawn", "fabrikam")
    assert page(query) == [
        "**delays** of fabrikam: **Withdrawn**",
        f"version `2.1`, digest `{digest(1)[:16]}`",
        "To propose it again: `cleanroom query renew delays --profile fabrikam`",
        "**History**",
        "- 2026-01-01 00:00:00 proposed by **fabrikam**: version 2\\.1",
        "- 2026-01-01 00:00:00 withdrawn by **fabrikam**",
        "**Query text and lineage**",
        *("```", "card 1", "```"),
    ]


def test_the_latest_fifteen_events_are_shown() -> None:
    query = drafted()
    for number in range(20):
        at(query, number, f"event {number}")
    events = [line for line in page(query) if "event" in line]
    assert [line.rpartition(" ")[2] for line in events] == [str(number) for number in range(5, 20)]


def test_a_card_is_wrapped_at_64_characters_with_names_and_its_own_indent() -> None:
    query = drafted()
    query.card = "first of u-contosso\n\n  " + "word-with-hyphens " * 6 + "\nlast"
    _, block, _ = query_details(query, "fabrikam").split("```")
    hyphens = "word-with-hyphens"
    assert block.splitlines() == [
        "",
        "first of contosso",
        "",
        f"  {hyphens} {hyphens} {hyphens}",
        f"      {hyphens} {hyphens} {hyphens}",
        "last",
    ]


def test_the_search_attributes_are_those_of_the_stage() -> None:
    query = proposed()
    query.ballots = {"u-contosso": "accepted"}
    found: dict[str, Any] = {key.name: value for key, value in query_attributes(query, START)}
    assert found == {
        "CrStage": "query.proposed",
        "CrStageSince": START,
        "CrPendingFor": ["litware"],
        "CrApprovedBy": ["contosso"],
        "CrDigest": digest(1)[:12],
        "CrExpiresAt": START + timedelta(days=14),
    }
    assert all(isinstance(key, SearchAttributeKey) for key, _ in query_attributes(query, START))
    query.digest = ""
    assert {key.name: value for key, value in query_attributes(query, START)}["CrDigest"] is None
