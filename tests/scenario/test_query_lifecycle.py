"""PublishQuery on the local cloud: commands, votes, expiry, changes in governance, and messages that must not count."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from activities.authorisations import AuthorisationVerifier
from activities.collaborator import CollaboratorGovernance
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.query import PreCondition
from cleanroom.errors import CleanRoomError
from cleanroom.messages.query import AuthorisedCommand, AuthorMessage, CommandOutcome, DecisionMessage, ProposeQueryRequest, QueryState
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision, load_or_create_signing_key, sign
from cleanroom.temporal.failures import error_from_failure
from starters.operations.deputies import deputy_key, name_deputy, revoke_deputy
from starters.operations.queries import create_query, propose_query, update_query, withdraw_query
from starters.operations.query_list import list_queries
from starters.operations.query_workflow import find_query, read_state
from starters.operations.session import Session, now, run_async
from tests.local_cloud import Cloud, World, code_of
from tests.patience import PATIENCE
from workflows.publish_query import PublishQuery
from workflows.query_state import MAX_REFUSED

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


def draft(cloud: Cloud, world: World, **options: Any) -> str:
    """Create a draft of Fabrikam and return its name."""
    spec = world.query("life")
    run_async(create_query(cloud.fabrikam, spec, **options))
    return spec.name


def proposed(cloud: Cloud, world: World, **options: Any) -> QueryState:
    return cloud.propose(world.query("life"), **options)


def state_of(cloud: Cloud, name: str) -> QueryState:
    return run_async(read_state(cloud.fabrikam, name))


def until(cloud: Cloud, name: str, done: Callable[[QueryState], bool], seconds: float = PATIENCE) -> QueryState:
    """Return the query's state as soon as ``done`` is true of it."""
    deadline = time.monotonic() + seconds
    while not done(state := state_of(cloud, name)):
        assert time.monotonic() < deadline, state
    return state


def send(session: Session, name: str, signal: Any, *messages: Any) -> None:
    """Send signals, as anyone who reaches Temporal can."""

    async def work() -> None:
        handle = (await find_query(session, name)).handle
        await asyncio.gather(*(handle.signal(signal, message) for message in messages))

    run_async(work())


def update(session: Session, name: str, handler: Any, message: Any) -> CommandOutcome:
    """Return the outcome of an update, or raise the error with which it was refused."""

    async def work() -> CommandOutcome:
        try:
            return await (await find_query(session, name)).handle.execute_update(handler, message)
        except WorkflowUpdateFailedError as error:
            raise error_from_failure(error) from error

    return run_async(work())


def refused_with(cloud: Cloud, name: str, signal: Any, message: Any) -> str:
    """Return the error code of a refused signal, and require that it changed nothing else."""
    before = state_of(cloud, name)
    send(cloud.fabrikam, name, signal, message)
    after = until(cloud, name, lambda state: len(state.refused) > len(before.refused))
    assert (after.stage, after.version, after.accepted, after.rejected) == (before.stage, before.version, before.accepted, before.rejected)
    return after.refused[-1].code


def decision_of(session: Session, state: QueryState, **claims: Any) -> Decision:
    """Return a decision to approve the current proposal, with some claims replaced."""
    values: dict[str, Any] = {
        "collaboration": session.collaboration,
        "signer": session.user_id,
        "expires": now() + dt.timedelta(days=1),
        "query": state.query,
        "version": state.version,
        "proposal_id": state.proposal_id,
        "digest": state.digest,
        "decision": "approve",
    }
    return Decision(**(values | claims))


def message_of(session: Session, state: QueryState, **claims: Any) -> dict[str, Any]:
    return DecisionMessage(decision=sign(decision_of(session, state, **claims), session.key())).model_dump()


# ---------------------------------------------------------------------- the diagram


def test_states_and_approvers_follow_the_notes_of_the_diagram(cloud: Cloud, world: World) -> None:
    """Create, update by another collaborator, propose, approve twice. ``tests/diagrams`` compares the activities."""
    name = draft(cloud, world)
    first = state_of(cloud, name)
    assert (first.stage, first.pending, first.accepted) == ("Draft", (), ())
    stricter = world.query(name=name, pre_conditions=(PreCondition(view_name="flights", min_row_count=10),))
    run_async(update_query(cloud.litware, stricter))
    second = state_of(cloud, name)
    assert second.stage == "Draft"
    assert second.version != first.version
    assert second.digest != first.digest
    # Litware wrote this text, so Fabrikam proposes it only by naming it.
    assert code_of(lambda: run_async(propose_query(cloud.fabrikam, name))) == "DraftChanged"
    outcome = run_async(propose_query(cloud.fabrikam, name, stricter))
    assert set(outcome.pending) == {"contosso", "litware"}
    third = cloud.decide(cloud.litware, name)
    assert (third.stage, third.pending, third.accepted) == ("Proposed", ("contosso",), ("litware",))
    fourth = cloud.decide(cloud.contosso, name)
    assert (fourth.stage, fourth.pending, fourth.accepted) == ("Approved", (), ("contosso", "litware"))
    assert [entry.event for entry in fourth.history] == ["created", "updated", "proposed", "approved", "approved", "approved by all"]
    assert fourth.refused == ()


def test_rejection_returns_the_query_to_draft_and_discards_approvals(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    cloud.decide(cloud.litware, state.query)
    after = cloud.decide(cloud.contosso, state.query, "reject", reason="not now")
    assert (after.stage, after.pending) == ("Draft", ())
    assert any(entry.event == "rejected" and entry.by == "contosso" and entry.detail == "not now" for entry in after.history)
    again = run_async(propose_query(cloud.fabrikam, state.query))
    assert set(again.pending) == {"contosso", "litware"}
    assert again.accepted == ()


def test_withdrawn_proposal_can_be_proposed_again_without_approvals(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    cloud.decide(cloud.litware, state.query)
    run_async(withdraw_query(cloud.fabrikam, state.query))
    assert state_of(cloud, state.query).stage == "Draft"
    assert proposal_state(cloud, state.proposal_id) == "Withdrawn"
    again = run_async(propose_query(cloud.fabrikam, state.query))
    assert again.accepted == ()
    assert state_of(cloud, state.query).proposal_id != state.proposal_id


def test_withdrawing_a_draft_closes_it(cloud: Cloud, world: World) -> None:
    name = draft(cloud, world)
    run_async(withdraw_query(cloud.fabrikam, name))
    assert state_of(cloud, name).stage == "Withdrawn"


def test_only_the_proposer_can_withdraw(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    assert code_of(lambda: run_async(withdraw_query(cloud.litware, state.query))) == ("NotProposalOwner")
    assert state_of(cloud, state.query).stage == "Proposed"


def test_expired_proposal_is_withdrawn_in_governance(cloud: Cloud, world: World) -> None:
    """A late vote then cannot count."""
    state = proposed(cloud, world, approval_seconds=12)
    after = until(cloud, state.query, lambda state: state.stage == "Expired")
    assert after.history[-1].event == "expired"
    assert proposal_state(cloud, state.proposal_id) == "Withdrawn"
    assert code_of(lambda: cloud.decide(cloud.litware, state.query)) == "QueryNotProposed"


def proposal_state(cloud: Cloud, proposal_id: str) -> str:
    async def look() -> str:
        async with cloud.fabrikam.governance() as client:
            return (await client.proposal_status(proposal_id)).state

    return run_async(look())


# ---------------------------------------------------------------------- changes in governance


def test_votes_cast_in_governance_are_shown_within_seconds(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    vote_outside(cloud.contosso, state, accept=True)
    seen = until(cloud, state.query, lambda state: state.accepted == ("contosso",), seconds=30)
    assert seen.stage == "Proposed"
    vote_outside(cloud.litware, state, accept=True)
    assert until(cloud, state.query, lambda state: state.stage == "Approved", seconds=30).accepted == ("contosso", "litware")


def test_rejection_cast_in_governance_returns_the_query_to_draft(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    vote_outside(cloud.contosso, state, accept=False)
    assert until(cloud, state.query, lambda state: state.stage == "Draft", seconds=30).history[-1].detail == "seen in governance"


def test_draft_edited_in_governance_is_not_proposed_before_its_author_has_seen_it(cloud: Cloud, world: World) -> None:
    name = draft(cloud, world)

    async def edit() -> None:
        async with cloud.fabrikam.governance() as client:
            held = await client.get_document(name)
            text = str(held.data).replace(":", ": ", 1)
            await client.put_document(
                name, cloud.collaboration, text, version=held.version, labels=held.labels, approvers=held.approvers or ()
            )

    run_async(edit())
    assert code_of(lambda: run_async(propose_query(cloud.fabrikam, name))) == "DraftChanged"
    assert state_of(cloud, name).stage == "Draft"


def test_proposal_of_the_same_text_by_another_user_is_refused(cloud: Cloud, world: World) -> None:
    """The other user could withdraw it at any time, and the author could not withdraw it at the deadline."""
    name = draft(cloud, world)
    state = state_of(cloud, name)
    author = cloud.fabrikam

    async def propose_twice() -> None:
        async with cloud.litware.governance() as client:
            await cloud.litware.documents(client).propose(name, state.version, uuid.uuid4().hex)
        command = AuthorisedCommand(
            party=author.party,
            collaboration=author.collaboration,
            query=name,
            authorisation=author.authorise("propose-query", name, state.digest, version=state.version),
        )
        async with author.governance() as client:
            own = CollaboratorGovernance(
                author.settings,
                AuthorisationVerifier(author.settings, UserReader(client, author.collaboration)),
                author.documents(client),
                KeyStore(author.settings.keys_dir, author.settings.collaboration),
            )
            owners = tuple(cloud.session(party).user_id for party in ("contosso", "litware"))
            await own.propose_query(ProposeQueryRequest(command=command, owners=owners))

    assert code_of(lambda: run_async(propose_twice())) == "ProposedByAnother"
    assert until(cloud, name, lambda state: state.stage == "Proposed", seconds=30).history[-1].detail == "seen in governance"


def vote_outside(session: Session, state: QueryState, *, accept: bool) -> None:
    async def vote() -> None:
        async with session.governance() as client:
            await session.documents(client).vote(state.proposal_id, session.user_id, accept=accept)

    run_async(vote())


# ---------------------------------------------------------------------- messages that do not count


@pytest.fixture(scope="module")
def open_query(cloud: Cloud, world: World) -> QueryState:
    """A proposal that stays open. Messages that these tests send to it must not count."""
    return proposed(cloud, world)


@pytest.mark.parametrize("message", [{"approve": True}, "approve", None, ["approve"], {"decision": 1}, {"decision": "approve"}])
def test_unsigned_approval_does_not_count(cloud: Cloud, open_query: QueryState, message: Any) -> None:
    code = refused_with(cloud, open_query.query, PublishQuery.approve, message)
    assert code in ("MessageMalformed", "StatementMalformed")
    last = state_of(cloud, open_query.query).refused[-1]
    assert last.kind == "approve"
    assert last.message


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"expires": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}, "StatementExpired"),
        ({"collaboration": "another"}, "CollaborationMismatch"),
        ({"query": "another"}, "DecisionQueryMismatch"),
        ({"digest": "0" * 64}, "DecisionDigestMismatch"),
        ({"version": "0.0"}, "DecisionVersionMismatch"),
        ({"proposal_id": "0" * 32}, "DecisionProposalMismatch"),
        ({"decision": "reject"}, "DecisionMismatch"),
    ],
)
def test_decision_for_something_else_does_not_count(cloud: Cloud, open_query: QueryState, claims: dict[str, Any], code: str) -> None:
    message = message_of(cloud.contosso, open_query, **claims)
    assert refused_with(cloud, open_query.query, PublishQuery.approve, message) == code


def test_decision_signed_by_another_key_does_not_count(cloud: Cloud, open_query: QueryState, tmp_path: Path) -> None:
    """In Contosso's name, signed by an unknown key and by Fabrikam's published key."""
    decision = decision_of(cloud.contosso, open_query)
    stranger = sign(decision, load_or_create_signing_key(tmp_path / "keys"))
    assert refused_with(cloud, open_query.query, PublishQuery.approve, {"decision": stranger}) == "ApproverKeyUnknown"
    assert refused_with(cloud, open_query.query, PublishQuery.approve, {"decision": sign(decision, cloud.fabrikam.key())}) == (
        "ApproverKeyUnknown"
    )


def test_signature_of_another_statement_does_not_count(cloud: Cloud, open_query: QueryState) -> None:
    """The claims of one decision with the signature of another one."""
    good = sign(decision_of(cloud.contosso, open_query, decision="reject"), cloud.contosso.key())
    wanted = sign(decision_of(cloud.contosso, open_query), cloud.contosso.key())
    spliced = ".".join([*wanted.split(".")[:2], good.split(".")[2]])
    assert refused_with(cloud, open_query.query, PublishQuery.approve, {"decision": spliced}) == "SignatureInvalid"


def test_decision_of_a_user_who_owns_no_dataset_does_not_count(cloud: Cloud, open_query: QueryState) -> None:
    message = message_of(cloud.fabrikam, open_query)
    assert refused_with(cloud, open_query.query, PublishQuery.approve, message) == "NotProposalApprover"


def test_replayed_decision_on_the_text_before_an_edit_does_not_count(cloud: Cloud, world: World) -> None:
    """Litware approves. The author withdraws, edits and proposes again. The old approval is sent again."""
    state = proposed(cloud, world)
    old = cloud.sign(cloud.litware, state.query).model_dump()
    run_async(withdraw_query(cloud.fabrikam, state.query))
    edited = world.query(name=state.query, sql=world.SQL.replace(">= 25", ">= 30"))
    run_async(update_query(cloud.fabrikam, edited))
    run_async(propose_query(cloud.fabrikam, state.query))
    assert refused_with(cloud, state.query, PublishQuery.approve, old) == "DecisionDigestMismatch"


def test_replayed_decision_on_a_withdrawn_proposal_of_the_same_text_does_not_count(cloud: Cloud, world: World) -> None:
    """A proposal of the same text needs new decisions, although governance keeps the version of the draft."""
    state = proposed(cloud, world)
    old = cloud.sign(cloud.litware, state.query).model_dump()
    run_async(withdraw_query(cloud.fabrikam, state.query))
    run_async(propose_query(cloud.fabrikam, state.query))
    assert state_of(cloud, state.query).version == state.version
    assert refused_with(cloud, state.query, PublishQuery.approve, old) == "DecisionProposalMismatch"


def test_repeated_vote_counts_once_and_cannot_be_reversed(cloud: Cloud, world: World) -> None:
    """The same signal three times, then the opposite decision."""
    state = proposed(cloud, world)
    message = message_of(cloud.litware, state)
    send(cloud.litware, state.query, PublishQuery.approve, message, message, message)
    after = until(cloud, state.query, lambda state: state.accepted == ("litware",))
    assert after.stage == "Proposed"
    opposite = message_of(cloud.litware, state, decision="reject")
    assert refused_with(cloud, state.query, PublishQuery.reject, opposite) == "BallotAlreadySubmitted"


def test_flood_of_messages_is_bounded_and_a_vote_still_counts(cloud: Cloud, world: World) -> None:
    state = proposed(cloud, world)
    send(cloud.fabrikam, state.query, PublishQuery.approve, *({"junk": number} for number in range(300)))
    after = cloud.decide(cloud.litware, state.query)
    assert after.accepted == ("litware",)
    assert len(after.refused) <= MAX_REFUSED
    assert {item.code for item in after.refused} <= {"MessageMalformed", "TooManyMessages"}


# ---------------------------------------------------------------------- updates


def test_updates_return_the_outcome(cloud: Cloud, world: World) -> None:
    """Propose and approve by updates."""
    name = draft(cloud, world)
    submitted = run_async(propose_query(cloud.fabrikam, name))
    assert submitted.stage == "Proposed"
    state = state_of(cloud, name)
    for party, pending in ((cloud.litware, ("contosso",)), (cloud.contosso, ())):
        outcome = update(party, name, PublishQuery.approve_and_wait, DecisionMessage(**message_of(party, state)))
        assert outcome.pending == pending
    assert outcome.stage == "Approved"


def test_update_in_the_wrong_stage_is_rejected_without_a_history_event(cloud: Cloud, world: World) -> None:
    """The validators reject it with an error code."""
    name = draft(cloud, world)
    decision = DecisionMessage(decision="x.y.z")
    message = AuthorMessage(party="fabrikam", authorisation="x.y.z")
    assert _update_code(cloud, name, PublishQuery.approve_and_wait, decision) == "QueryNotProposed"
    assert update_events(cloud, name) == 0
    run_async(propose_query(cloud.fabrikam, name))
    assert _update_code(cloud, name, PublishQuery.update_and_wait, message) == "QueryNotDraft"
    assert _update_code(cloud, name, PublishQuery.propose_and_wait, message) == "QueryNotDraft"
    for owner in (cloud.litware, cloud.contosso):
        cloud.decide(owner, name)
    assert _update_code(cloud, name, PublishQuery.withdraw_and_wait, message) == "QueryNotOpen"
    assert _update_code(cloud, name, PublishQuery.approve_and_wait, decision) == "QueryNotProposed"


def test_update_without_the_authors_signature_is_refused(cloud: Cloud, world: World) -> None:
    """Anyone who reaches Temporal can send an update. The author's worker verifies the signature."""
    name = draft(cloud, world)
    assert (
        _update_code(cloud, name, PublishQuery.propose_and_wait, AuthorMessage(party="fabrikam", authorisation="x.y.z"))
        == "StatementMalformed"
    )
    stolen = AuthorMessage(party="fabrikam", authorisation=cloud.litware.authorise("propose-query", name, "0" * 64, version="1.1"))
    assert _update_code(cloud, name, PublishQuery.propose_and_wait, stolen) == "SignerMismatch"
    assert state_of(cloud, name).stage == "Draft"


def test_create_with_the_name_of_an_existing_query_is_refused(cloud: Cloud, world: World) -> None:
    name = draft(cloud, world)
    same, other = world.query(name=name), world.query(name=name, sql=world.SQL.replace("COUNT(DISTINCT", "2 * COUNT(DISTINCT"))
    assert other.sql != same.sql
    assert code_of(lambda: run_async(create_query(cloud.fabrikam, other))) == "QueryExists"
    assert code_of(lambda: run_async(create_query(cloud.fabrikam, same, approval_seconds=60))) == "QueryExists"
    assert code_of(lambda: run_async(create_query(cloud.litware, same))) == "QueryExists"
    assert run_async(create_query(cloud.fabrikam, same))["state"] == "Draft"


def _update_code(cloud: Cloud, name: str, handler: Any, message: Any) -> str:
    with pytest.raises(CleanRoomError) as caught:
        update(cloud.fabrikam, name, handler, message)
    return caught.value.code


def update_events(cloud: Cloud, name: str) -> int:
    """How many events of updates the history of a query has."""

    async def look() -> int:
        history = await (await find_query(cloud.fabrikam, name)).handle.fetch_history()
        return sum("update" in (event.WhichOneof("attributes") or "") for event in history.events)

    return run_async(look())


def test_a_deputy_approves_with_an_own_key_and_the_list_shows_whom_a_query_waits_for(cloud: Cloud, world: World, tmp_path: Path) -> None:
    state = proposed(cloud, world)
    [row] = [row for row in run_async(list_queries(cloud.fabrikam, waiting_for="litware")) if row["query"] == state.query]
    assert state.expires is not None
    assert (row["pending"], row["expires"], row["reminded"]) == (["contosso", "litware"], state.expires.isoformat(), None)
    assert dt.datetime.fromisoformat(row["since"]) <= now() + dt.timedelta(seconds=1)
    settings = cloud.litware.settings.model_copy(update={"deputy": True, "keys_dir": tmp_path / "maria"})
    maria = Session(settings)
    file = tmp_path / "maria.json"
    file.write_text(json.dumps(deputy_key(maria)))
    later = run_async(name_deputy(cloud.litware, "maria", file, now() + dt.timedelta(days=1), now() + dt.timedelta(days=2)))
    assert later["state"] == "not yet valid"
    assert code_of(lambda: cloud.decide(maria, state.query)) == "DeputyNotYetValid"
    settings = settings.model_copy(update={"keys_dir": tmp_path / "noor"})
    noor = Session(settings)
    file.write_text(json.dumps(deputy_key(noor)))
    run_async(name_deputy(cloud.litware, "noor", file, now() - dt.timedelta(days=1), now() + dt.timedelta(days=2)))
    decided = cloud.decide(noor, state.query)
    assert (decided.accepted, decided.deputies) == (("litware",), {"litware": "noor"})
    assert (decided.history[-1].by, decided.history[-1].detail) == ("litware", "deputy noor")
    assert not [row for row in run_async(list_queries(cloud.litware, waiting_for="litware")) if row["query"] == state.query]
    run_async(revoke_deputy(cloud.litware, noor.key().public.kid))
    assert cloud.decide(cloud.contosso, state.query).stage == "Approved"
