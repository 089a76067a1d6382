"""``PublishQuery`` that starts from what governance holds, as ``cleanroom query adopt`` starts it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cleanroom.messages.query import AuthorisedCommand, BallotRecorded, HistoryEntry, PublishQueryInput, QueryState
from tests.unit.workflows.driver import START, Driver
from tests.unit.workflows.worlds import OWNERS, QUERY, SPEC, publish_query

ENDS = START + timedelta(days=2)
WITHDRAWAL = AuthorisedCommand(party="fabrikam", collaboration="flights", query="totals", authorisation="withdraw p-1")


def adopted(stage: Any, *accepted: str, command: AuthorisedCommand | None = None) -> PublishQueryInput:
    """Input for a query in a stage, whose first approval ends after two days."""
    state = QueryState(
        query="totals",
        stage=stage,
        version="2.11",
        digest="1" * 64,
        proposal_id="" if stage == "Draft" else "p-1",
        accepted=accepted,
        expires=ENDS if accepted else None,
        owners=OWNERS,
        history=(HistoryEntry(at=START, event="adopted", by="fabrikam"),),
        spec=SPEC,
    )
    changes = {"authorisation": "", "carried": state, "carried_command": command, "carried_approvals_expire_at": state.expires}
    return QUERY.model_copy(update=changes)


def state(driver: Driver) -> QueryState:
    found: QueryState = driver.query("state")
    return found


def test_nothing_is_written_when_a_query_is_adopted() -> None:
    with publish_query(adopted("Proposed", "contosso")) as run:
        assert run.names == ["find_query_change"]
        assert (state(run).pending, state(run).accepted) == (("litware",), ("contosso",))


def test_the_missing_vote_approves_an_adopted_proposal() -> None:
    both = BallotRecorded(proposal_state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted"), seen="2.14")
    with publish_query(adopted("Proposed", "contosso"), accept_query=both) as run:
        run.signal("approve", {"decision": "approve.u-litware.signed"})
        assert state(run).stage == "Approved"


def test_an_adopted_proposal_is_withdrawn_at_its_deadline_with_the_signature_of_its_adopter() -> None:
    with publish_query(adopted("Proposed", "contosso", command=WITHDRAWAL)) as run:
        run.advance(days=2)
        request = run.call("withdraw_proposal").argument
        assert (request.command.authorisation, request.proposal_id, request.expired) == ("withdraw p-1", "p-1", True)
        assert run.result.stage == "Expired"


def test_an_adopted_proposal_of_another_collaborator_stays_open_at_its_deadline() -> None:
    """Only its proposer can withdraw it. Governance decides about its votes."""
    with publish_query(adopted("Proposed", "contosso")) as run:
        run.advance(days=2)
        assert "withdraw_proposal" not in run.names
        assert (run.ended, state(run).stage, state(run).history[-1].event) == (False, "Proposed", "not withdrawn")


def test_an_adopted_approval_ends_with_its_first_decision() -> None:
    with publish_query(adopted("Approved", "contosso", "litware")) as run:
        run.advance(days=1)
        assert not run.ended
        run.advance(days=1)
        assert run.result.stage == "Expired"


def test_an_adopted_draft_can_be_proposed() -> None:
    with publish_query(adopted("Draft")) as run:
        run.update("propose", {"party": "fabrikam", "authorisation": "s.i.g"})
        assert state(run).stage == "Proposed"
