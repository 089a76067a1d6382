"""``PublishQuery`` without a server: commands, votes, changes in governance, deadlines, continue-as-new and the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import CancelledError, TimeoutError, TimeoutType

from cleanroom.errors import CleanRoomError, Conflict, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import MAX_STATEMENT
from cleanroom.messages.known import KnownState
from cleanroom.messages.query import (
    ApprovalsFound,
    BallotRecorded,
    CommandOutcome,
    DraftStored,
    GovernanceQueryState,
    QueryProposed,
    QueryState,
    VerifiedDecision,
)
from cleanroom.temporal.failures import error_from_failure
from tests.unit.workflows.driver import HELD, START, Driver
from tests.unit.workflows.worlds import APPROVAL_ENDS, DRAFT, OWNERS, QUERY, SPEC, decided, publish_query
from workflows.publish_query import LONG_HISTORY
from workflows.query_command_queue import MAX_CARRIED_SIZE, MAX_WAITING
from workflows.query_commands import RECEIVED

AUTHOR = {"party": "fabrikam", "authorisation": "s.i.g"}
UPDATE = AUTHOR | {"spec": SPEC.model_dump(mode="json")}
PERIOD = timedelta(days=14)


def vote(user: str = "u-contosso", decision: str = "approve", **more: str) -> dict[str, str]:
    return {"decision": f"{decision}.{user}.signed", **more}


def state(query: Driver) -> QueryState:
    found: QueryState = query.query("state")
    return found


def outcome(query: Driver, update: str) -> CommandOutcome:
    """The result of an update that succeeded."""
    found = query.updates[update]
    assert isinstance(found, dict), found
    return CommandOutcome.model_validate(found)


def refusal(query: Driver, update: str) -> CleanRoomError:
    """The error of an update that was refused."""
    found = query.updates[update]
    assert isinstance(found, BaseException), found
    return error_from_failure(found)


def propose(query: Driver, proposal: str = "p-1") -> None:
    update = query.update("propose", AUTHOR)
    assert outcome(query, update).stage == "Proposed"
    assert state(query).proposal_id == proposal


def seen_in_governance(**values: Any) -> GovernanceQueryState:
    return GovernanceQueryState(**{"version": "2.11", "digest": "1" * 64, "approvers": OWNERS, "seen": "2.90", **values})


def events(query: Driver) -> list[str]:
    return [entry.event for entry in state(query).history]


# ---------------------------------------------------------------------- drafts


def test_the_first_draft_is_generated_and_stored_as_its_author_authorised_it() -> None:
    with publish_query() as query:
        assert query.names == ["generate_query_document", "create_document", "find_query_change"]
        generate, create = query.call("generate_query_document").argument, query.call("create_document").argument
        assert (generate.collaboration, generate.spec, generate.proposer_id) == ("flights", SPEC, "u-fabrikam")
        command = create.command
        assert (command.party, command.collaboration, command.query, command.spec) == ("fabrikam", "flights", "totals", SPEC)
        assert (command.authorisation, create.draft) == ("signed", DRAFT)
        found = state(query)
        assert (found.stage, found.version, found.digest, found.card) == ("Draft", "2.11", "1" * 64, "the card")
        assert (found.expires, found.owners, found.spec) == (START + PERIOD, OWNERS, SPEC)
        assert [(entry.event, entry.by) for entry in found.history] == [("created", "fabrikam")]
        assert query.timers == {"query expires": PERIOD.total_seconds()}
        known = query.call("find_query_change").argument.known
        assert (known.state, known.version, known.digest, known.seen) == ("Draft", "2.11", "1" * 64, "2.11")
        assert query.call("find_query_change").argument.collaboration == "flights"
        assert query.call("find_query_change").argument.query == "totals"


def test_a_draft_that_cannot_be_created_fails_the_query() -> None:
    with publish_query(create_document=HELD) as query:
        waiting = query.update("update", UPDATE)
        query.finish("create_document", Refused("DraftMismatch", "on purpose"))
        assert query.code == "DraftMismatch"
        assert query.attributes["CrOutcome"] == ["failed"]
        assert refusal(query, waiting).code == "QueryClosed"
        assert (state(query).stage, state(query).history[-1].by) == ("Failed", "DraftMismatch")


def test_an_update_replaces_text_version_and_card() -> None:
    stricter = SPEC.model_copy(update={"sql": "SELECT 2"})
    second = DRAFT.model_copy(update={"digest": "2" * 64, "card": "another card", "owners": ("u-litware",)})
    with publish_query(generate_query_document=[DRAFT, second], update_document=DraftStored(version="2.12", digest="2" * 64)) as query:
        update = query.update("update", AUTHOR | {"party": "litware", "spec": stricter.model_dump(mode="json"), "seen": "2.70"})
        assert outcome(query, update).detail == "draft is now version 2.12"
        assert outcome(query, update).version == "2.12"
        found = state(query)
        assert (found.version, found.digest, found.card) == ("2.12", "2" * 64, "another card")
        assert (found.spec, found.owners) == (stricter, ("u-litware",))
        command = query.call("update_document").argument.command
        assert (command.party, command.spec, command.seen, command.authorisation) == ("litware", stricter, "2.70", AUTHOR["authorisation"])
        assert query.call("update_document").command.task_queue == "collaborator.litware"
        last = found.history[-1]
        assert (last.event, last.by, last.detail) == ("updated", "litware", "version 2.12")
        # The poll that compared with the old draft was stopped, and its successor compares with the new one.
        assert query.call("find_query_change").argument.known.digest == "2" * 64
        assert query.running() == ["find_query_change"]
        assert query.call("generate_query_document").argument.seen == "2.11"


@pytest.mark.parametrize("spec", [None, SPEC.model_copy(update={"name": "another"}).model_dump(mode="json")])
def test_an_update_without_a_text_of_this_query_is_refused(spec: Any) -> None:
    with publish_query() as query:
        update = query.update("update", AUTHOR | {"spec": spec})
        assert refusal(query, update).code == "QuerySpecMissing"
        assert "update_document" not in query.names


def test_an_update_that_its_worker_refuses_changes_nothing() -> None:
    with publish_query(update_document=Refused("OrderMismatch", "on purpose", hint="u-litware must sign")) as query:
        before = state(query)
        update = query.update("update", UPDATE)
        error = refusal(query, update)
        assert (error.code, error.hint) == ("OrderMismatch", "litware must sign")
        after = state(query)
        assert after.model_copy(update={"refused": ()}) == before
        [refused] = after.refused
        assert (refused.kind, refused.code, refused.at) == ("update", "OrderMismatch", START)
        assert query.query("refused") == after.refused
        assert "Refused messages: 1; last, *update*: `OrderMismatch` on purpose" in query.details


@pytest.mark.parametrize("name", ["update", "propose"])
def test_a_proposed_query_refuses_commands_on_its_draft_at_once(name: str) -> None:
    with publish_query() as query:
        propose(query)
        count = len(query.calls)
        assert refusal(query, query.update(name, UPDATE)).code == "QueryNotDraft"
        assert state(query).refused == ()  # The validator refused it, so the workflow never saw it.
        query.signal(name, UPDATE)
        assert state(query).refused[-1].code == "QueryNotDraft"
        assert len(query.calls) == count


@pytest.mark.parametrize("name", ["approve", "reject"])
def test_a_draft_refuses_votes_at_once(name: str) -> None:
    with publish_query() as query:
        assert refusal(query, query.update(name, vote())).code == "QueryNotProposed"
        assert state(query).refused == ()
        query.signal(name, vote())
        assert state(query).refused[-1].code == "QueryNotProposed"
        assert "verify_decision" not in query.names


# ---------------------------------------------------------------------- proposals


def test_a_proposal_is_made_to_the_derived_owners_and_starts_its_period() -> None:
    with publish_query() as query:
        query.advance(days=3)
        update = query.update("propose", AUTHOR | {"seen": "2.19"})
        found = outcome(query, update)
        assert (found.stage, found.pending, found.detail) == ("Proposed", ("contosso", "litware"), "proposed to contosso, litware")
        assert found.seen == "2.21"
        owners, proposed = query.call("determine_dataset_owners").argument, query.call("propose_query").argument
        assert (owners.collaboration, owners.query, owners.seen) == ("flights", "totals", "2.11")
        assert (proposed.owners, proposed.command.authorisation, proposed.command.seen) == (OWNERS, AUTHOR["authorisation"], "2.19")
        assert (state(query).expires, query.timers) == (query.now + PERIOD, {"reminder": 24 * 3600})
        assert state(query).seen == "2.21"
        assert query.attributes["CrPendingFor"] == ["contosso", "litware"]
        assert (query.attributes["CrStage"], query.attributes["CrDigest"]) == (["query.proposed"], ["1" * 12])
        known = query.call("find_query_change").argument.known
        assert (known.state, known.proposal_id, known.proposal_state, known.approvers) == ("Proposed", "p-1", "Open", OWNERS)


def test_a_proposal_waits_for_what_its_owners_derivation_has_seen() -> None:
    with publish_query(determine_dataset_owners={"owners": OWNERS, "version": "2.11", "digest": "1" * 64, "seen": "2.55"}) as query:
        propose(query)
        assert query.call("propose_query").argument.command.seen == "2.55"
        assert state(query).seen == "2.55"


@pytest.mark.parametrize("party", ["mallory", "clean-room"])
def test_a_command_in_the_name_of_no_collaborator_is_refused(party: str) -> None:
    with publish_query() as query:
        error = refusal(query, query.update("propose", AUTHOR | {"party": party}))
        assert error.code == "PartyUnknown"
        assert "contosso, fabrikam, litware" in error.message
        assert "determine_dataset_owners" not in query.names


def test_every_collaborator_can_send_commands_and_the_proposer_too_if_it_is_no_owner() -> None:
    others = QUERY.model_copy(update={"parties": tuple(party for party in QUERY.parties if party.name != "fabrikam")})
    with publish_query(others) as query:
        assert outcome(query, query.update("update", UPDATE)).stage == "Draft"
        assert outcome(query, query.update("update", UPDATE | {"party": "litware"})).stage == "Draft"


def test_a_withdrawn_proposal_returns_to_draft_and_can_be_proposed_again() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        pending = query.update("approve", vote())
        withdraw = query.update("withdraw", AUTHOR | {"party": "litware", "seen": "2.30"})
        assert (outcome(query, withdraw).stage, outcome(query, withdraw).detail) == ("Draft", "withdrawn; the query is a draft again")
        request = query.call("withdraw_proposal").argument
        assert (request.proposal_id, request.expired, request.command.party) == ("p-1", False, "litware")
        assert (request.command.seen, request.command.authorisation) == ("2.30", AUTHOR["authorisation"])
        assert query.call("withdraw_proposal").summary == "withdraw the proposal"
        assert refusal(query, pending).code == "ProposalClosed"
        assert query.call("accept_query").cancelled
        found = state(query)
        assert (found.stage, found.proposal_id, found.pending) == ("Draft", "", ())
        assert (found.history[-1].event, found.history[-1].by) == ("withdrawn", "litware")
        assert found.expires == query.now + PERIOD
        assert found.seen == "2.40"
        propose(query, "p-2")


def test_only_the_proposer_closes_a_draft() -> None:
    with publish_query() as query:
        other = query.update("withdraw", AUTHOR | {"party": "litware"})
        assert refusal(query, other).code == "NotProposalOwner"
        assert "confirm_withdrawal" not in query.names
        assert state(query).stage == "Draft"
        own = query.update("withdraw", AUTHOR)
        assert (outcome(query, own).stage, outcome(query, own).detail) == ("Withdrawn", "closed")
        assert query.call("confirm_withdrawal").argument.authorisation == AUTHOR["authorisation"]
        assert (query.result.stage, query.result.history[-1].by) == ("Withdrawn", "fabrikam")
        assert query.attributes["CrOutcome"] == ["withdrawn"]
        assert (query.attributes["CrStage"], query.running()) == (["query.withdrawn"], [])


def test_a_draft_whose_withdrawal_the_author_did_not_sign_stays_open() -> None:
    with publish_query(confirm_withdrawal=Conflict("DraftChanged", "on purpose")) as query:
        assert refusal(query, query.update("withdraw", AUTHOR)).code == "DraftChanged"
        assert state(query).stage == "Draft"
        assert not query.ended


def test_a_draft_that_was_proposed_meanwhile_is_not_closed() -> None:
    with publish_query(confirm_withdrawal=HELD) as query:
        withdraw = query.update("withdraw", AUTHOR)
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-9"))
        query.advance(seconds=3)
        assert state(query).proposal_id == "p-9"
        query.finish("confirm_withdrawal")
        assert refusal(query, withdraw).code == "QueryNotDraft"
        assert state(query).stage == "Proposed"


def test_a_withdrawal_does_not_end_the_next_proposal() -> None:
    """Governance returned the query to draft and has another proposal before the activity returned."""
    with publish_query(withdraw_proposal=HELD, find_query_change=HELD) as query:
        propose(query)
        withdraw = query.update("withdraw", AUTHOR)
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-9"))
        query.advance(seconds=3)
        query.finish("withdraw_proposal", {"seen": "2.95"})
        assert outcome(query, withdraw).stage == "Proposed"
        assert state(query).proposal_id == "p-9"


def test_an_approved_query_has_nothing_to_withdraw() -> None:
    with publish_query() as query:
        propose(query)
        for user in OWNERS:
            query.update("approve", vote(user))
        assert refusal(query, query.update("withdraw", AUTHOR)).code == "QueryNotOpen"
        assert state(query).refused == ()
        query.signal("withdraw", AUTHOR)
        assert state(query).refused[-1].code == "QueryNotOpen"
        assert "withdraw_proposal" not in query.names


# ---------------------------------------------------------------------- votes


def test_every_owner_approves_and_the_approvals_set_the_end() -> None:
    with publish_query() as query:
        propose(query)
        first = query.update("approve", vote(seen="2.33"))
        assert (outcome(query, first).accepted, outcome(query, first).detail) == (("contosso",), "counted")
        verify, cast = query.call("verify_decision").argument, query.call("accept_query").argument
        assert (verify.collaboration, verify.query, verify.proposal_id, verify.version) == ("flights", "totals", "p-1", "2.11")
        assert (verify.digest, verify.owners, verify.token, verify.seen) == ("1" * 64, OWNERS, "approve.u-contosso.signed", "2.33")
        assert (cast.collaboration, cast.query, cast.proposal_id, cast.version) == ("flights", "totals", "p-1", "2.11")
        assert (cast.digest, cast.token, cast.seen) == ("1" * 64, "approve.u-contosso.signed", "2.21")
        second = query.update("approve", vote("u-litware"))
        assert (outcome(query, second).stage, outcome(query, second).accepted) == ("Approved", ("contosso", "litware"))
        assert query.call("accept_query").command.task_queue == "collaborator.litware"
        found = state(query)
        assert (found.expires, found.seen) == (APPROVAL_ENDS, "2.21")
        assert [(entry.event, entry.by) for entry in found.history[-3:]] == [
            *(("approved", "contosso"), ("approved", "litware"), ("approved by all", "")),
        ]
        assert query.attributes["CrApprovedBy"] == ["contosso", "litware"]
        # Governance is not polled any longer: an approved query does not change.
        assert query.running() == []


def test_a_vote_of_a_deputy_is_shown_as_the_deputys() -> None:
    def by_deputy(request: Any) -> Any:
        return decided(request).model_copy(update={"deputy": "maria", "reason": "on leave"})

    recorded = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"})
    with publish_query(verify_decision=by_deputy, accept_query=recorded) as query:
        propose(query)
        query.update("approve", vote())
        assert (state(query).accepted, state(query).deputies) == (("contosso",), {"contosso": "maria"})
        last = state(query).history[-1]
        assert (last.event, last.by, last.detail) == ("approved", "contosso", "deputy maria: on leave")
        assert "✓ contosso (deputy **maria**) approved" in query.details
        query.suggest_continue = True
        query.signal("x")
    with publish_query(query.continued) as next_run:
        assert state(next_run).deputies == {"contosso": "maria"}
        query_again = next_run.update("withdraw", AUTHOR)
        assert outcome(next_run, query_again).stage == "Draft"
        propose(next_run, "p-1")
        assert state(next_run).deputies == {}


def test_a_vote_sees_what_the_vote_before_it_wrote() -> None:
    recorded = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"}, seen="2.77")
    with publish_query(accept_query=[recorded, HELD]) as query:
        propose(query)
        query.update("approve", vote())
        query.update("approve", vote("u-litware"))
        assert query.call("accept_query").argument.seen == query.call("verify_decision").argument.seen == "2.77"


def test_a_vote_is_cast_until_its_decision_expires() -> None:
    with publish_query() as query:
        propose(query)
        query.advance(days=2)
        query.update("approve", vote())
        limit = query.call("accept_query").command.schedule_to_close_timeout
        assert limit.ToTimedelta() == timedelta(days=28)
        late = decided(query.call("verify_decision").argument).model_copy(update={"expires": query.now - timedelta(days=1)})
    with publish_query(verify_decision=late) as query:
        query.advance(days=2)
        propose(query)
        query.update("approve", vote())
        assert query.call("accept_query").command.schedule_to_close_timeout.ToTimedelta() == timedelta(seconds=1)


def test_a_rejection_returns_to_draft_and_ends_the_votes_that_wait() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        waiting = query.update("approve", vote("u-litware"))
        reject = query.update("reject", vote(decision="reject"))
        assert (outcome(query, reject).stage, outcome(query, reject).detail) == ("Draft", "counted")
        assert refusal(query, waiting).code == "ProposalClosed"
        assert query.call("accept_query").cancelled
        assert query.call("reject_query").command.task_queue == "collaborator.contosso"
        assert events(query)[-2:] == ["rejected", "returned to draft"]


def test_a_message_that_is_not_its_decision_is_refused() -> None:
    with publish_query() as query:
        propose(query)
        assert refusal(query, query.update("approve", vote(decision="reject"))).code == "DecisionMismatch"
        assert refusal(query, query.update("reject", vote())).code == "DecisionMismatch"
        assert not {"accept_query", "reject_query"} & set(query.names)


def test_a_decision_that_does_not_verify_is_refused_and_named() -> None:
    with publish_query(verify_decision=Refused("DecisionDigestMismatch", "for u-litware")) as query:
        propose(query)
        query.signal("approve", vote())
        [refused] = state(query).refused
        assert (refused.code, refused.message, len(refused.about)) == ("DecisionDigestMismatch", "for litware", 16)
        assert "accept_query" not in query.names


def test_an_owner_votes_once() -> None:
    with publish_query() as query:
        propose(query)
        query.update("approve", vote())
        again = query.update("approve", vote())
        assert (outcome(query, again).detail, outcome(query, again).accepted) == ("this vote is already recorded", ("contosso",))
        assert refusal(query, query.update("reject", vote(decision="reject"))).code == "BallotAlreadySubmitted"
        assert query.names.count("accept_query") == 1
        assert "reject_query" not in query.names


def test_a_repeated_rejection_is_already_recorded() -> None:
    recorded = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "rejected"}, seen="2.13")
    with publish_query(reject_query=recorded) as query:
        propose(query)
        query.update("reject", vote(decision="reject"))
        assert query.attributes["CrPendingFor"] == ["litware"]
        again = query.update("reject", vote(decision="reject"))
        assert outcome(query, again).detail == "this vote is already recorded"
        assert refusal(query, query.update("approve", vote())).code == "BallotAlreadySubmitted"


def test_a_decision_that_arrives_before_the_vote_is_counted_is_not_cast_again() -> None:
    with publish_query() as query:
        propose(query)
        # The poll stops before a vote is counted, which takes until the server has cancelled its activity.
        query.slow_cancellation = True
        first = query.update("approve", vote())
        assert query.updates[first] is HELD
        assert refusal(query, query.update("approve", vote())).code == "BallotPending"
        query.finish("find_query_change", CancelledError("stopped"))
        assert outcome(query, first).accepted == ("contosso",)
        assert query.names.count("accept_query") == 1


def test_a_vote_that_the_poll_sees_first_approves_the_query_once() -> None:
    """As after a kill of the voter's worker between its vote and its answer."""
    soon = START + timedelta(days=5)
    later = {"u-contosso": START + timedelta(days=30), "u-litware": soon}

    def verified(request: Any) -> VerifiedDecision:
        decision = decided(request)
        return decision.model_copy(update={"expires": later[decision.approver_id]})

    both = {"u-contosso": "accepted", "u-litware": "accepted"}
    first = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"}, seen="2.13")
    with publish_query(accept_query=[first, HELD], verify_decision=verified) as query:
        propose(query)
        query.update("approve", vote("u-contosso"))
        query.update("approve", vote("u-litware"))
        query.finish("find_query_change", seen_in_governance(state="Accepted", proposal_id="p-1", ballots=both, version="2.14"))
        query.advance(seconds=4)
        assert state(query).stage == "Approved"
        query.finish("accept_query", BallotRecorded(proposal_state="Accepted", ballots=both, seen="2.14"))
        assert events(query).count("approved by all") == 1
        assert (state(query).accepted, state(query).expires) == (("contosso", "litware"), soon)


def test_the_answer_to_an_earlier_vote_does_not_take_back_a_later_one() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        query.update("approve", vote("u-contosso"))
        query.update("approve", vote("u-litware"))
        first, second = [call for call in query.calls if call.name == "accept_query"]
        both = {"u-contosso": "accepted", "u-litware": "accepted"}
        query.end_together({second: BallotRecorded(proposal_state="Open", ballots=both)})
        query.end_together({first: BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"})})
        assert query.query("state").accepted == ("contosso", "litware")


def test_a_vote_that_waits_for_its_worker_neither_blocks_others_nor_is_repeated() -> None:
    with publish_query(accept_query=[HELD, BallotRecorded(proposal_state="Open", ballots={"u-litware": "accepted"})]) as query:
        propose(query)
        first = query.update("approve", vote())
        assert refusal(query, query.update("approve", vote())).code == "BallotPending"
        assert outcome(query, query.update("approve", vote("u-litware"))).accepted == ("litware",)
        query.finish("accept_query", BallotRecorded(proposal_state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted")))
        assert outcome(query, first).stage == "Approved"


def test_a_vote_of_a_user_without_a_worker_is_refused() -> None:
    with publish_query() as query:
        propose(query)
        error = refusal(query, query.update("approve", vote("u-mallory")))
        assert (error.code, error.party) == ("ApproverUnknown", "operator")
        assert "accept_query" not in query.names


def test_a_decision_that_was_verified_for_an_ended_proposal_is_not_cast() -> None:
    with publish_query(verify_decision=HELD, withdraw_proposal=HELD) as query:
        propose(query)
        withdraw = query.update("withdraw", AUTHOR)
        approve = query.update("approve", vote())
        query.finish("withdraw_proposal", {"seen": "2.95"})
        assert outcome(query, withdraw).stage == "Draft"
        query.finish("verify_decision", decided(query.call("verify_decision").argument))
        assert refusal(query, approve).code == "QueryNotProposed"
        assert "accept_query" not in query.names


def test_a_vote_that_fails_can_be_repeated() -> None:
    recorded = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"})
    timeout = TimeoutError("t", type=TimeoutType.SCHEDULE_TO_CLOSE, last_heartbeat_details=[])
    with publish_query(accept_query=[timeout, recorded]) as query:
        propose(query)
        assert refusal(query, query.update("approve", vote())).code == "StepTimedOut"
        assert "Refused messages: 1; last, *approve*: `StepTimedOut`" in query.details
        assert state(query).accepted == ()
        assert outcome(query, query.update("approve", vote())).accepted == ("contosso",)


def test_a_vote_that_was_cast_on_an_ended_proposal_is_recorded_and_not_counted() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        approve = query.update("approve", vote())
        query.finish(
            "find_query_change", seen_in_governance(state="Accepted", proposal_id="p-1", ballots=dict.fromkeys(OWNERS, "accepted"))
        )
        query.advance(seconds=3)
        assert state(query).stage == "Approved"
        query.finish("accept_query", BallotRecorded(proposal_state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted")))
        assert outcome(query, approve).detail == "counted"
        assert "approved by **contosso**" in query.details


def test_a_proposal_survives_a_week_without_governance() -> None:
    with publish_query(find_query_change=Unavailable("GovernanceUnreachable", "on purpose")) as query:
        propose(query)
        query.advance(days=7)
        assert query.names.count("find_query_change") > 7 * 24
        query.update("approve", vote())
        assert (state(query).stage, state(query).accepted) == ("Proposed", ("contosso",))


# ---------------------------------------------------------------------- messages from anybody


@pytest.mark.parametrize("message", [None, 1, "x", [], {}, {"decision": 1}, {"decision": "x", "more": 1}])
def test_a_malformed_vote_is_refused_and_blocks_nothing(message: Any) -> None:
    with publish_query() as query:
        propose(query)
        query.signal("approve", message)
        assert state(query).refused[-1].code == "MessageMalformed"
        assert "verify_decision" not in query.names
        assert outcome(query, query.update("approve", vote())).accepted == ("contosso",)


@pytest.mark.parametrize("name", ["update", "propose", "withdraw"])
@pytest.mark.parametrize("message", [None, {"party": "fabrikam"}, {"party": 1, "authorisation": "t"}])
def test_a_malformed_command_is_refused_and_blocks_nothing(name: str, message: Any) -> None:
    with publish_query() as query:
        query.signal(name, message)
        assert state(query).refused[-1].code == "MessageMalformed"
        assert outcome(query, query.update("update", UPDATE)).stage == "Draft"


def test_signals_without_or_with_too_many_arguments_are_dropped() -> None:
    with publish_query() as query:
        query.signal("propose")
        query.signal("propose", AUTHOR, AUTHOR)
        assert (state(query).stage, state(query).refused) == ("Draft", ())


def test_signals_do_what_updates_do() -> None:
    with publish_query() as query:
        query.signal("update", UPDATE)
        query.signal("propose", AUTHOR)
        query.signal("approve", vote())
        query.signal("withdraw", AUTHOR)
        query.signal("propose", AUTHOR)
        query.signal("reject", vote(decision="reject"))
        assert events(query) == [
            *("created", "updated", "proposed", "approved", "withdrawn", "proposed", "rejected", "returned to draft"),
        ]
        assert state(query).refused == ()


@pytest.mark.parametrize("made", [True, False])
def test_a_vote_that_arrives_while_the_query_is_proposed_waits_for_the_proposal(made: bool) -> None:
    """Governance shows a proposal to its owners before the activity that made it returns."""
    with publish_query(propose_query=HELD) as query:
        query.signal("propose", AUTHOR)
        query.signal("approve", vote())
        waiting = query.update("approve", vote("u-litware"))
        assert (state(query).refused, query.updates[waiting]) == ((), HELD)
        done = QueryProposed(proposal_id="p-1", version="2.11", digest="1" * 64, seen="2.21")
        query.finish("propose_query", done if made else Refused("OrderMismatch", "on purpose"))
        if made:
            assert (outcome(query, waiting).stage, outcome(query, waiting).accepted) == ("Approved", ("contosso", "litware"))
        else:
            assert refusal(query, waiting).code == "QueryNotProposed"
            assert {item.code for item in state(query).refused} == {"OrderMismatch", "QueryNotProposed"}


def test_a_flood_of_messages_is_refused_and_keeps_the_first_ones() -> None:
    with publish_query(update_document=HELD) as query:
        query.signal("update", UPDATE)
        for _ in range(MAX_WAITING + 2):
            query.signal("withdraw", AUTHOR)
        assert [refused.code for refused in state(query).refused] == ["TooManyMessages"] * 2


def test_malformed_messages_take_no_place_of_others() -> None:
    with publish_query(verify_decision=HELD) as query:
        propose(query)
        for number in range(MAX_WAITING + 10):
            query.signal("approve", {"junk": number})
            query.signal("withdraw", AUTHOR | {"party": f"nobody-{number}"})
        first, second = query.update("approve", vote()), query.update("approve", vote("u-litware"))
        assert (query.updates[first], query.updates[second]) == (HELD, HELD)
        assert {refused.code for refused in state(query).refused} == {"MessageMalformed", "PartyUnknown"}


@pytest.mark.parametrize("message", [{"decision": "x" * 2_000_000}, {"decision": "x", "seen": "9" * 2_000_000}, "x" * 2_000_000])
def test_a_long_message_is_refused_and_reaches_no_activity(message: Any) -> None:
    with publish_query() as query:
        propose(query)
        query.signal("approve", message)
        [refused] = state(query).refused
        assert (refused.code, len(refused.message) < 1000) == ("MessageMalformed", True)
        query.signal("update", UPDATE | {"spec": UPDATE["spec"] | {"sql": "x" * 2_000_000}})
        assert state(query).refused[-1].code == "MessageMalformed"
        assert "verify_decision" not in query.names


NOT_JWS = (
    "x",
    "",
    "x" * 5000,
    "a.b",
    "a.b.c.d",
    "a..c",
    ".b.c",
    "a.b.",
    "a.b.c=",
    "a.b.c\n",
    " a.b.c",
    "a.b.ü",
    f"a.{'b' * MAX_STATEMENT}.c",
)


@pytest.mark.parametrize("text", NOT_JWS, ids=range(len(NOT_JWS)))
def test_a_text_that_is_no_compact_jws_is_refused_when_it_arrives(text: str) -> None:
    with publish_query(verify_decision=HELD) as query:
        propose(query)
        query.signal("approve", {"decision": text})
        query.signal("reject", {"decision": text})
        query.signal("withdraw", AUTHOR | {"authorisation": text})
        assert [(refused.kind, refused.code) for refused in state(query).refused] == [
            ("approve", "MessageMalformed"), ("reject", "MessageMalformed"), ("withdraw", "MessageMalformed"),
        ]  # fmt: skip
        assert {"verify_decision", "withdraw_proposal"} & set(query.names) == set()


@pytest.mark.parametrize("text", ["signed", "x" * (MAX_STATEMENT + 1)], ids=["short", "long"])
def test_a_query_that_starts_without_a_signature_is_refused_by_its_authors_worker(text: str) -> None:
    refused = Refused("StatementMalformed", "statement: not a compact JWS.")
    with publish_query(QUERY.model_copy(update={"authorisation": text}), create_document=refused) as query:
        assert query.call("create_document").argument.command.authorisation == text
        assert query.code == "StatementMalformed"


def test_all_waiting_messages_fit_into_the_next_history() -> None:
    long = UPDATE | {"spec": UPDATE["spec"] | {"sql": "x" * 200_000}}
    with publish_query(update_document=HELD) as query:
        for _ in range(3):
            for party in ("contosso", "litware", "fabrikam"):
                query.signal("update", long | {"party": party})
        assert {refused.code for refused in state(query).refused} == {"TooManyMessages"}
        query.suggest_continue, query.history_length = True, LONG_HISTORY
        query.signal("x")
        carried = query.continued.carried_messages
        assert [item.message["party"] for item in carried] == ["contosso", "litware"]
        assert sum(len(item.model_dump_json()) for item in carried) <= MAX_CARRIED_SIZE
        assert query.continued.carried.refused[-1].message.endswith("this one was dropped.")
        assert len(query.continued.model_dump_json()) < 2**20


def test_an_unknown_signal_is_refused_and_not_kept() -> None:
    with publish_query() as query:
        query.signal("aprove", vote())
        query.signal("x" * 5000, 1, 2)
        assert [(refused.kind, refused.code) for refused in state(query).refused] == [
            ("aprove", "MessageUnknown"),
            ("x" * 40, "MessageUnknown"),
        ]
        assert query.details.count("MessageUnknown") == 1


def test_many_refused_messages_in_one_workflow_task_render_the_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    with publish_query() as query:
        monkeypatch.setattr("workflows.query_status_page.query_details", lambda *_: rendered.append(1) or "page")
        query.signals_together(*[("approve", {"junk": number}) for number in range(200)])
        assert (len(rendered), len(state(query).refused)) == (1, 50)


def test_commands_of_one_author_wait_for_each_other_and_those_of_others_do_not() -> None:
    with publish_query(update_document=[HELD, HELD, DraftStored(version="2.13", digest="1" * 64)]) as query:
        query.signal("update", UPDATE)
        query.signal("update", UPDATE)
        query.signal("update", UPDATE | {"party": "litware"})
        assert [call.argument.command.party for call in query.calls if call.name == "update_document"] == ["fabrikam", "litware"]
        query.finish("update_document", DraftStored(version="2.12", digest="1" * 64))
        assert query.names.count("update_document") == 3
        assert state(query).version == "2.13"


# ---------------------------------------------------------------------- deadlines


def test_a_draft_expires() -> None:
    with publish_query() as query:
        query.advance(days=13, hours=23)
        assert state(query).stage == "Draft"
        query.advance(hours=1)
        assert (query.result.stage, query.result.history[-1].by) == ("Expired", "deadline")
        assert (query.attributes["CrOutcome"], query.attributes["CrStage"]) == (["expired"], ["query.expired"])
        assert "**Expired**" in query.details
        assert query.call("find_query_change").cancelled
        assert "withdraw_proposal" not in query.names
        assert "expires" not in query.details


def test_a_draft_does_not_expire_while_a_command_on_it_runs() -> None:
    with publish_query(update_document=HELD) as query:
        query.advance(days=13)
        query.update("update", UPDATE)
        assert query.timers == {}
        query.advance(days=2)
        assert state(query).stage == "Draft"
        query.finish("update_document", Refused("X", "on purpose"))
        query.advance(seconds=1)
        assert query.result.stage == "Expired"


def test_an_open_proposal_is_withdrawn_at_its_deadline_with_the_command_that_made_it() -> None:
    with publish_query(accept_query=HELD, withdraw_proposal=HELD) as query:
        propose(query)
        pending = query.update("approve", vote())
        query.advance(days=14)
        # The poll has stopped: otherwise it would report the withdrawal.
        assert query.running() == ["accept_query", "withdraw_proposal"]
        request = query.call("withdraw_proposal").argument
        assert (request.expired, request.proposal_id, request.command.authorisation) == (True, "p-1", AUTHOR["authorisation"])
        assert (request.command.seen, query.call("withdraw_proposal").summary) == ("2.21", "withdraw the expired proposal")
        query.finish("withdraw_proposal", {"seen": "2.95"})
        assert (query.result.stage, query.attributes["CrOutcome"]) == ("Expired", ["expired"])
        assert refusal(query, pending).code == "QueryClosed"


def test_a_proposal_expires_although_its_authors_worker_is_offline_with_another_withdrawal() -> None:
    with publish_query(withdraw_proposal=[HELD, {"seen": "2.95"}]) as query:
        propose(query)
        query.update("withdraw", AUTHOR)
        query.advance(days=14)
        assert query.call("withdraw_proposal").argument.expired is True
        assert query.result.stage == "Expired"


def test_a_query_that_is_cancelled_while_its_proposal_expires_ends_as_cancelled() -> None:
    with publish_query(withdraw_proposal=HELD) as query:
        propose(query)
        query.advance(days=14)
        query.cancel()
        assert (query.cancelled, query.attributes["CrOutcome"]) == (True, ["cancelled"])


def test_a_proposal_that_governance_accepted_at_its_deadline_is_approved() -> None:
    with publish_query(withdraw_proposal=Conflict("ProposalNotOpen", "accepted")) as query:
        propose(query)
        query.advance(days=14)
        found = state(query)
        assert (found.stage, found.accepted, found.expires) == ("Approved", ("contosso", "litware"), query.now + PERIOD)


def test_a_proposal_that_cannot_be_withdrawn_stays_open_for_another_period() -> None:
    with publish_query(withdraw_proposal=Unavailable("GovernanceUnreachable", "on purpose")) as query:
        propose(query)
        query.advance(days=14)
        found = state(query)
        assert (found.stage, found.expires) == ("Proposed", query.now + PERIOD)
        assert query.attributes["CrExpiresAt"] == [query.now + PERIOD]
        assert (found.history[-1].event, found.history[-1].by, found.history[-1].detail) == (
            "not withdrawn", "fabrikam", "GovernanceUnreachable",
        )  # fmt: skip
        assert query.running() == ["find_query_change"]


def test_a_proposal_of_another_is_not_withdrawn_at_its_deadline() -> None:
    with publish_query(find_query_change=[seen_in_governance(state="Proposed", proposal_id="p-9"), HELD]) as query:
        assert (state(query).stage, state(query).proposal_id) == ("Proposed", "p-9")
        query.advance(days=14)
        assert "withdraw_proposal" not in query.names
        found = state(query)
        assert (found.stage, found.history[-1].detail) == ("Proposed", "it was not proposed by this workflow")
        assert found.expires == query.now + PERIOD


def test_a_proposal_that_ended_during_its_withdrawal_at_the_deadline_is_not_closed_again() -> None:
    with publish_query(withdraw_proposal=HELD, accept_query=HELD) as query:
        propose(query)
        query.signal("approve", vote())
        query.advance(days=14)
        query.finish("accept_query", BallotRecorded(proposal_state="Rejected", ballots={"u-contosso": "rejected"}))
        assert state(query).stage == "Draft"
        query.finish("withdraw_proposal", {"seen": "2.95"})
        assert state(query).stage == "Draft"
        assert not query.ended


def test_an_approved_query_expires_with_its_approvals() -> None:
    with publish_query() as query:
        propose(query)
        for user in OWNERS:
            query.update("approve", vote(user))
        assert query.timers == {"reminder": (APPROVAL_ENDS - timedelta(days=1) - START).total_seconds()}
        query.advance(days=29, hours=1)
        assert query.timers["query expires"] == (APPROVAL_ENDS - query.now).total_seconds()
        query.advance(days=31)
        assert query.result.stage == "Expired"
        assert query.now > APPROVAL_ENDS


# ---------------------------------------------------------------------- changes in governance


@pytest.mark.parametrize(
    ("found", "stage", "event"),
    [
        (seen_in_governance(state="Draft", version="2.50", digest="5" * 64), "Draft", "draft changed"),
        (seen_in_governance(state="Proposed", proposal_id="p-9"), "Proposed", "proposed"),
        (seen_in_governance(state="Accepted", proposal_id="p-9", ballots=dict.fromkeys(OWNERS, "accepted")), "Approved", "approved by all"),
    ],
)
def test_a_change_in_governance_is_shown_and_the_next_poll_compares_with_it(found: Any, stage: str, event: str) -> None:
    with publish_query(find_query_change=[found, HELD]) as query:
        shown = state(query)
        assert (shown.stage, shown.version, shown.digest) == (stage, found.version, found.digest)
        assert (shown.history[-1].event, shown.history[-1].detail) == (event, "seen in governance")
        assert f"{event}: seen in governance" in query.details
        assert query.running() == ([] if stage == "Approved" else ["find_query_change"])
        assert query.attributes["CrDigest"] == [found.digest[:12]]
        if stage != "Approved":
            assert query.call("find_query_change").argument.known.digest == found.digest


def test_votes_that_wait_end_with_the_proposal_that_governance_ended() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        pending = query.update("approve", vote())
        query.finish("find_query_change", seen_in_governance(state="Draft"))
        assert state(query).stage == "Proposed"
        query.advance(seconds=2)
        assert query.updates[pending] is HELD
        query.advance(seconds=1)
        assert (state(query).stage, refusal(query, pending).code) == ("Draft", "ProposalClosed")


def test_votes_that_wait_stay_when_another_vote_was_cast_in_governance() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        pending = query.update("approve", vote())
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-1", ballots={"u-litware": "accepted"}))
        query.advance(seconds=3)
        assert (state(query).accepted, query.updates[pending]) == (("litware",), HELD)


def test_a_change_that_a_running_command_caused_is_reported_by_the_command() -> None:
    with publish_query(propose_query=HELD) as query:
        update = query.update("propose", AUTHOR)
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-1"))
        assert state(query).stage == "Draft"
        query.advance(seconds=1)
        query.finish("propose_query", QueryProposed(proposal_id="p-1", version="2.11", digest="1" * 64, seen="2.90"))
        assert outcome(query, update).stage == "Proposed"
        assert [(entry.event, entry.by) for entry in state(query).history] == [("created", "fabrikam"), ("proposed", "fabrikam")]
        query.advance(minutes=1)
        assert len(state(query).history) == 2


def test_a_change_is_shown_as_soon_as_the_running_command_has_failed() -> None:
    with publish_query(update_document=HELD) as query:
        query.update("update", UPDATE)
        query.finish("find_query_change", seen_in_governance(state="Draft", version="2.50", digest="5" * 64))
        assert state(query).version == "2.11"
        query.finish("update_document", Refused("X", "on purpose"))
        assert state(query).version == "2.50"


def test_a_change_that_one_of_two_votes_caused_starts_the_next_poll_at_once() -> None:
    recorded = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"}, seen="2.91")
    with publish_query(accept_query=HELD) as query:
        propose(query)
        query.update("approve", vote())
        query.update("approve", vote("u-litware"))
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-1", ballots=recorded.ballots))
        assert "find_query_change" not in query.running()
        query.finish("accept_query", recorded)
        assert query.running() == ["accept_query", "find_query_change"]
        assert events(query).count("votes changed") == 0


def test_a_command_changes_the_query_only_when_the_poll_has_stopped() -> None:
    with publish_query() as query:
        query.slow_cancellation = True
        update = query.update("propose", AUTHOR)
        assert (query.updates[update], state(query).stage) == (HELD, "Draft")
        query.finish("find_query_change", CancelledError("stopped"))
        assert outcome(query, update).stage == "Proposed"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (GovernanceQueryState(state="Missing"), "DocumentNotFound"),
        (Unavailable("GovernanceUnreachable", "on purpose"), "GovernanceUnreachable"),
    ],
)
def test_governance_that_cannot_be_read_is_shown_once_and_read_again_after_longer_and_longer_pauses(answer: Any, reason: str) -> None:
    with publish_query(find_query_change=answer) as query:
        assert query.names.count("find_query_change") == 1
        assert query.timers["governance cannot be read"] == 60
        assert (events(query)[-1], state(query).history[-1].detail) == ("governance cannot be read", reason)
        query.advance(seconds=60 + 120 + 240 + 480 + 960 + 1920)
        assert query.names.count("find_query_change") == 7
        assert query.timers["governance cannot be read"] == 3600
        assert events(query).count("governance cannot be read") == 1
        # Commands are handled during the pause.
        assert outcome(query, query.update("propose", AUTHOR)).stage == "Proposed"


def test_a_wake_up_ends_the_pause_after_governance_could_not_be_read() -> None:
    found = seen_in_governance(state="Draft", version="2.50", digest="5" * 64)
    with publish_query(find_query_change=[Unavailable("GovernanceUnreachable", "on purpose"), found, HELD]) as query:
        assert query.timers["governance cannot be read"] == 60
        query.advance(seconds=1)
        query.signal("look")
        assert state(query).version == "2.50"
        assert "governance cannot be read" not in query.timers


def test_a_query_reads_governance_when_it_is_woken_and_otherwise_costs_nothing() -> None:
    found = seen_in_governance(state="Draft", version="2.50", digest="5" * 64)
    with publish_query(find_query_change=[None, None, found, HELD]) as query:
        query.advance(days=3)
        assert (query.names.count("find_query_change"), list(query.timers)) == (1, ["query expires"])
        query.signal("look")
        assert (query.names.count("find_query_change"), state(query).version) == (2, "2.11")
        query.advance(seconds=1)
        query.signal("look")
        assert state(query).version == "2.50"
        assert query.call("find_query_change").argument.known.digest == found.digest


def test_many_wake_ups_cause_one_read_per_second() -> None:
    """Anyone who reaches Temporal can send them."""
    with publish_query(find_query_change=None) as query:
        query.signals_together(*[("look",)] * 100)
        query.advance(seconds=1)
        query.signals_together(*[("look",)] * 100)
        assert query.names.count("find_query_change") == 2
        query.advance(seconds=1)
        assert query.names.count("find_query_change") == 3


def test_a_wake_up_during_a_read_causes_another_one() -> None:
    """The read may have missed the change."""
    with publish_query(find_query_change=[HELD, None]) as query:
        query.signal("look")
        assert query.names.count("find_query_change") == 1
        query.finish("find_query_change")
        query.advance(seconds=1)
        assert query.names.count("find_query_change") == 2


def approve_all(query: Driver) -> None:
    propose(query)
    for owner in OWNERS:
        query.update("approve", vote(owner))
    assert state(query).stage == "Approved"


def standing(refusal: str = "", **values: Any) -> GovernanceQueryState:
    """What governance says about an accepted query."""
    found = ApprovalsFound(**{"refusal": refusal, "expire": APPROVAL_ENDS, "datasets": ("contosso-flights", "litware-delays"), **values})
    return seen_in_governance(state="Accepted", proposal_id="p-1", ballots=dict.fromkeys(OWNERS, "accepted"), approvals=found)


def test_an_approved_query_reads_governance_only_when_it_is_woken() -> None:
    with publish_query() as query:
        approve_all(query)
        count = query.names.count("find_query_change")
        query.advance(hours=1)
        assert query.names.count("find_query_change") == count
        query.signal("look")
        query.advance(seconds=1)
        assert query.names.count("find_query_change") == count + 1
        known = query.call("find_query_change").argument.known
        assert (known.state, known.proposal_id, known.approvals.expire) == ("Accepted", "p-1", APPROVAL_ENDS)


UNTIL_APPROVED = [None, None, None, HELD]
"""What governance answers to the reads until the query is approved, and to the next one."""


@pytest.mark.parametrize(
    ("refusal", "stage", "word", "next_step"),
    [
        ("ApprovalRunsExhausted", "exhausted", "Exhausted", "cleanroom query renew totals --profile fabrikam"),
        ("UserDocumentRuntimeOptionDisabled", "consent-withdrawn", "Consent Withdrawn", "cleanroom query show totals"),
        ("SignedDecisionMissing", "refused", "Refused", "cleanroom query renew totals --profile fabrikam"),
    ],
)
def test_an_approved_query_shows_what_a_run_would_meet(refusal: str, stage: str, word: str, next_step: str) -> None:
    with publish_query(find_query_change=UNTIL_APPROVED) as query:
        approve_all(query)
        query.signal("look")
        query.advance(seconds=1)
        query.finish("find_query_change", standing(refusal, run_limit=2))
        assert (query.attributes["CrStage"], query.attributes["CrRunLimit"]) == ([f"query.{stage}"], [2])
        assert (state(query).stage, state(query).refusal, query.attributes["CrExpiresAt"]) == ("Approved", refusal, [APPROVAL_ENDS])
        assert f"**{word}**" in query.details
        assert next_step in query.details
        query.signal("look")
        query.advance(seconds=1)
        query.finish("find_query_change", standing(run_limit=2))
        assert (query.attributes["CrStage"], events(query)[-2:]) == (["query.approved"], [word.lower(), "approved again"])
        query.signal("look")
        query.advance(seconds=1)
        query.finish("find_query_change", standing(refusal))
        query.advance(days=31)
        assert (query.result.stage, query.attributes["CrStage"]) == ("Expired", ["query.expired"])


def test_terms_of_votes_that_were_cast_in_governance_directly_are_read_there() -> None:
    """Its workflow would otherwise not know when they expire."""
    everyone = BallotRecorded(proposal_state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted"))
    with publish_query(accept_query=everyone) as query:
        propose(query)
        query.update("approve", vote())
        assert state(query).stage == "Approved"
        assert query.running() == ["find_query_change"]
        soon = START + timedelta(days=2)
        query.finish("find_query_change", standing(expire=soon))
        assert (state(query).expires, query.running()) == (soon, [])
        query.advance(days=2)
        assert query.result.stage == "Expired"


def test_a_query_that_was_accepted_without_a_valid_decision_has_no_expiry() -> None:
    with publish_query(find_query_change=[HELD]) as query:
        query.finish("find_query_change", standing("SignedDecisionMissing", expire=None))
        assert query.attributes["CrStage"] == ["query.refused"]
        assert query.attributes["CrExpiresAt"] == [None]
        query.advance(days=14)
        assert query.result.stage == "Expired"
        assert query.attributes["CrExpiresAt"] == [None]


def test_the_datasets_in_the_search_attributes_are_those_of_the_accepted_text() -> None:
    with publish_query(find_query_change=UNTIL_APPROVED) as query:
        assert "CrDatasets" not in query.attributes, "the command that starts the workflow sets them"
        approve_all(query)
        query.signal("look")
        query.advance(seconds=1)
        query.finish("find_query_change", standing(datasets=("litware-planes",)))
        assert query.attributes["CrDatasets"] == ["litware-planes"]


@pytest.mark.parametrize("stage", ["Draft", "Proposed", "Approved"])
def test_a_cancelled_query_shows_a_state_that_leads_on(stage: str) -> None:
    with publish_query() as query:
        if stage == "Proposed":
            propose(query)
        elif stage == "Approved":
            approve_all(query)
        query.cancel()
        assert (query.cancelled, query.attributes["CrOutcome"]) == (True, ["cancelled"])
        if stage == "Approved":
            assert query.attributes["CrStage"] == ["query.approved"], "a run does not need the workflow"
            assert "cleanroom run start totals" in query.details
        else:
            assert query.attributes["CrStage"] == ["query.cancelled"]
            assert (state(query).stage, state(query).history[-1].by) == ("Cancelled", "operator")
            assert "cleanroom query renew totals --profile fabrikam" in query.details


def test_the_search_attribute_names_the_state_that_governance_is_expected_to_hold() -> None:
    with publish_query() as query:
        assert query.attributes["CrKnown"] == [str(KnownState.of(seen_in_governance(state="Draft")))]
        propose(query)
        assert query.attributes["CrKnown"] == [str(KnownState.of(seen_in_governance(state="Proposed", proposal_id="p-1")))]
        query.update("approve", vote())
        voted = seen_in_governance(state="Proposed", proposal_id="p-1", ballots={"u-contosso": "accepted"})
        assert query.attributes["CrKnown"] == [str(KnownState.of(voted))]
        query.update("approve", vote("u-litware"))
        accepted = seen_in_governance(state="Accepted", proposal_id="p-1", ballots=dict.fromkeys(OWNERS, "accepted"))
        assert query.attributes["CrKnown"] == [str(KnownState.of(accepted))]


# ---------------------------------------------------------------------- continue-as-new and the end


def test_a_query_continues_with_its_state_and_the_votes_that_wait() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        pending = query.update("approve", vote())
        query.suggest_continue = True
        query.finish("find_query_change", seen_in_governance(state="Proposed", proposal_id="p-1", ballots={"u-litware": "accepted"}))
        query.advance(seconds=3)
        assert outcome(query, pending).detail == "verified; the vote is cast when the voter's worker is running"
        carried = query.continued
        assert [(item.kind, item.message["decision"]) for item in carried.carried_messages] == [("approve", "approve.u-contosso.signed")]
        assert (carried.carried.stage, carried.carried.accepted, carried.carried_command.authorisation) == (
            "Proposed",
            ("litware",),
            AUTHOR["authorisation"],
        )
        assert query.call("find_query_change").done
    both = BallotRecorded(proposal_state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted"))
    with publish_query(carried, accept_query=both) as next_run:
        assert "create_document" not in next_run.names
        assert next_run.names[:2] == ["find_query_change", "verify_decision"]
        assert state(next_run).stage == "Approved"


def test_a_query_that_a_worker_of_another_version_took_over_continues_as_new() -> None:
    """So a patch in its code is needed for one upgrade, and not for the lifetime of the query."""
    with publish_query() as query:
        propose(query)
        query.update("approve", vote())
        query.build_id = "build-2"
        query.signal("no-such-signal", 1)
        assert (query.continued.carried.stage, query.continued.carried.accepted) == ("Proposed", ("contosso",))
    with publish_query(query.continued) as next_run:
        next_run.advance(hours=1)
        assert not next_run.ended


CHANGES = {
    "unchanged": None,
    "changed": seen_in_governance(state="Draft"),
    "unreadable": Unavailable("GovernanceUnavailable", "on purpose"),
}


@pytest.mark.parametrize("answer", CHANGES.values(), ids=CHANGES)
def test_a_query_continues_although_its_poll_reads_governance_in_the_same_moment(answer: Any) -> None:
    """The SDK handles a signal before the result of an activity, and the poll that the signal stops still gets the result."""
    with publish_query(find_query_change=HELD) as query:
        query.suggest_continue = True
        query.end_together({query.call("find_query_change"): answer}, ("no-such-signal",))
        assert query.continued is not None
        assert query.continued.carried.stage == "Draft"


def test_a_query_that_stays_on_its_version_does_not_continue() -> None:
    with publish_query() as query:
        propose(query)
        query.signal("no-such-signal", 1)
        assert not query.ended


def test_a_query_does_not_continue_while_a_command_runs() -> None:
    with publish_query(update_document=HELD) as query:
        query.suggest_continue = True
        update = query.update("update", UPDATE)
        query.finish("find_query_change", seen_in_governance(state="Draft", version="2.50", digest="5" * 64))
        query.advance(seconds=3)
        assert query.continued is None
        query.finish("update_document", DraftStored(version="2.51", digest="1" * 64, seen="2.91"))
        assert outcome(query, update).stage == "Draft"
        query.signal("propose", AUTHOR | {"party": "mallory"})
        assert query.continued is not None
        assert query.continued.carried.version == "2.51"


def test_a_command_that_arrives_while_the_query_is_about_to_continue_is_handled_first() -> None:
    with publish_query() as query:
        query.suggest_continue = query.slow_cancellation = True
        query.signal("propose", AUTHOR | {"party": "mallory"})
        assert query.call("find_query_change").cancelled
        update = query.update("propose", AUTHOR)
        query.slow_cancellation = False
        query.finish("find_query_change", CancelledError("stopped"))
        assert outcome(query, update).stage == "Proposed"
        query.signal("propose", AUTHOR | {"party": "mallory"})
        assert query.continued.carried.stage == "Proposed"


def test_a_long_history_ends_with_its_commands_and_the_next_one_executes_them() -> None:
    """Anyone can send messages. A query must not grow until the server terminates it while an author's worker is not running."""
    with publish_query(update_document=HELD) as query:
        running = query.update("update", UPDATE)
        waiting = query.update("propose", AUTHOR)
        query.suggest_continue = True
        query.signal("approve", {"junk": 1})
        assert (query.continued, query.updates[running]) == (None, HELD)
        query.history_length, query.slow_cancellation = LONG_HISTORY, True
        query.signal("update", UPDATE | {"party": "litware"})
        late = query.update("propose", AUTHOR | {"party": "contosso"})
        query.finish("find_query_change", CancelledError("stopped"))
        assert {outcome(query, update).detail for update in (running, waiting, late)} == {RECEIVED}
        carried = query.continued.carried_messages
        assert [(item.kind, item.message["party"]) for item in carried] == [
            ("update", "fabrikam"), ("propose", "fabrikam"), ("update", "litware"), ("propose", "contosso"),
        ]  # fmt: skip
    with publish_query(query.continued, determine_dataset_owners=HELD) as next_run:
        assert next_run.names.count("update_document") == 2
        assert events(next_run).count("updated") == 2


def test_a_query_that_has_ended_does_not_continue() -> None:
    with publish_query() as query:
        query.suggest_continue = True
        query.advance(days=14)
        assert (query.continued, query.result.stage) == (None, "Expired")


def test_a_query_waits_a_minute_at_most_for_what_it_cancelled_and_accepts_nothing_meanwhile() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        query.signal("approve", vote())
        query.slow_cancellation = True
        query.advance(days=14)
        query.finish("find_query_change", CancelledError("stopped"))
        assert (state(query).stage, query.ended) == ("Expired", False)
        assert query.timers_started[-1] == ("", 60)
        assert refusal(query, query.update("withdraw", AUTHOR)).code == "QueryNotOpen"
        assert state(query).refused == ()
        query.signal("propose", AUTHOR)
        assert [(item.kind, item.code) for item in state(query).refused] == [("propose", "QueryClosed")]
        query.advance(seconds=60)
        assert query.result.stage == "Expired"


def test_a_signal_whose_work_is_cancelled_at_the_end_is_refused_with_the_end() -> None:
    with publish_query(accept_query=HELD) as query:
        propose(query)
        query.signal("approve", vote())
        query.advance(days=14)
        assert [item.code for item in query.result.refused] == ["QueryClosed"]
    with publish_query(update_document=HELD) as query:
        query.signal("update", UPDATE)
        query.cancel()
        assert [item.code for item in state(query).refused] == ["QueryClosed"]


@pytest.mark.parametrize("held", ["update_document", "accept_query", "create_document", "verify_decision"])
def test_a_cancelled_query_answers_what_waits_and_ends_as_cancelled(held: str) -> None:
    with publish_query(**{held: HELD}) as query:
        if held in ("accept_query", "verify_decision"):
            propose(query)
            waiting = query.update("approve", vote())
        else:
            waiting = query.update("update", UPDATE)
        query.cancel()
        assert refusal(query, waiting).code == ("Cancelled" if held == "verify_decision" else "QueryClosed")
        assert (query.cancelled, query.attributes["CrOutcome"]) == (True, ["cancelled"])
        assert query.running() == []


def test_a_closed_query_refuses_commands() -> None:
    with publish_query(confirm_withdrawal=HELD) as query:
        withdraw = query.update("withdraw", AUTHOR)
        waiting = query.update("update", UPDATE)
        query.finish("confirm_withdrawal")
        assert outcome(query, withdraw).stage == "Withdrawn"
        error = refusal(query, waiting)
        assert (error.code, error.message) == ("QueryClosed", "The query is withdrawn; it accepts no more commands.")
        assert query.result.refused[-1].code == "QueryClosed"
        assert "update_document" not in query.names


def test_an_error_of_the_workflow_itself_fails_the_query_with_its_code() -> None:
    with publish_query(generate_query_document=PreconditionFailed("DatasetMissing", "on purpose", party="litware")) as query:
        assert (query.code, query.names) == ("DatasetMissing", ["generate_query_document"])
        assert state(query).stage == "Failed"
