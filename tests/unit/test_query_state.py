"""The rules of a query's life without Temporal: what votes, orders and governance lead to, and what can never be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import InvalidInput, PreconditionFailed, Refused
from cleanroom.messages.query import (
    AuthorisedCommand,
    AuthorMessage,
    BallotRecorded,
    Collaborator,
    DatasetOwners,
    DraftStored,
    GovernanceQueryState,
    PublishQueryInput,
    QueryDraft,
    QueryProposed,
    VerifiedDecision,
)
from workflows.query_command_queue import MAX_WAITING, VOTES, Command, CommandQueue
from workflows.query_state import CLOSED, MAX_HISTORY, MAX_REFUSED, NO_CARD, QueryStateMachine
from workflows.query_status_page import query_attributes, query_details

OWNERS = ("u-contosso", "u-litware")
NAMES = ("contosso", "fabrikam", "litware")
PERIOD = timedelta(days=14)
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = QuerySpec(name="delays", inputs={"f": "flights"}, output="out", sql="SELECT 1")
INPUT = PublishQueryInput(
    collaboration="flights",
    proposer=Collaborator(name="fabrikam", user_id="u-fabrikam"),
    parties=tuple(Collaborator(name=name, user_id=f"u-{name}") for name in NAMES),
    spec=SPEC,
    authorisation="signed",
)
COMMAND = AuthorisedCommand(party="fabrikam", collaboration="flights", query="delays", authorisation="signed")


def digest(number: int) -> str:
    return f"{number:064x}"


def draft(number: int) -> QueryDraft:
    return QueryDraft(
        document_id="delays", data="{}", digest=digest(number), labels={}, card=f"card {number}", card_digest=digest(0), owners=OWNERS
    )


def drafted(number: int = 1) -> QueryStateMachine:
    life = QueryStateMachine(INPUT)
    life.draft_stored(SPEC, draft(number), DraftStored(version=f"2.{number}", digest=digest(number)))
    return life


def proposed(number: int = 1, proposal: str = "p1", now: datetime = START) -> QueryStateMachine:
    life = drafted(number)
    life.proposal_made(now, OWNERS, QueryProposed(proposal_id=proposal, version=life.version, digest=life.digest), COMMAND)
    return life


def vote(user: str, decision: Any = "approve", days: float = 30) -> VerifiedDecision:
    return VerifiedDecision(
        approver_id=user, decision=decision, reason="", expires=START + timedelta(days=days), max_runs=None, nonce=f"{user}-{days}"
    )


def test_what_was_not_counted_says_why_and_by_names() -> None:
    life = proposed()
    answer = Refused(
        "NotProposalOwner", "answered 403 to POST /withdraw.", cause="Only u-fabrikam can withdraw proposal p1.", hint="Ask u-litware."
    )
    told = life.with_display_names(answer)
    assert (told.code, told.cause, told.hint, told.exit_code) == (
        "NotProposalOwner", "Only fabrikam can withdraw proposal p1.", "Ask litware.", answer.exit_code,
    )  # fmt: skip
    life.record_refused(START, "withdraw", told)
    kept = life.snapshot().refused[-1]
    assert (kept.cause, kept.hint) == (told.cause, told.hint)
    assert "last, *withdraw*: `NotProposalOwner` Only fabrikam can" in query_details(life, "fabrikam")


def test_a_closed_query_waits_for_nothing() -> None:
    life = proposed()
    assert "expires" in query_details(life, "fabrikam")
    assert "--print-signal" in query_details(life, "fabrikam")
    life.close(START, "Withdrawn", "fabrikam")
    shown = query_details(life, "fabrikam")
    assert not any(word in shown for word in ("expires", "Next:", "Signal", "What the owners approve"))


def counted(life: QueryStateMachine, state: Any, ballots: dict[str, Any], decision: VerifiedDecision) -> bool:
    return life.count_vote(START, decision, BallotRecorded(proposal_state=state, ballots=ballots))


def seen(life: QueryStateMachine, **state: Any) -> bool:
    values = {"version": life.version, "digest": life.digest, "proposal_id": life.proposal_id, "approvers": life.owners} | state
    return life.apply_governance_state(START, GovernanceQueryState(**values))


def test_an_approval_that_ends_sooner_ends_the_wait_and_then_the_query() -> None:
    life = proposed()
    assert life.expires == START + PERIOD
    assert not counted(life, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=3))
    assert (life.expires, life.pending()) == (START + timedelta(days=3), ("litware",))
    counted(life, "Accepted", dict.fromkeys(OWNERS, "accepted"), vote(OWNERS[1], days=40))
    assert (life.stage, life.expires, life.voters("accepted")) == ("Approved", START + timedelta(days=3), ("contosso", "litware"))


def test_an_approved_query_outlives_its_proposals_deadline() -> None:
    life = proposed()
    counted(life, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=40))
    counted(life, "Accepted", dict.fromkeys(OWNERS, "accepted"), vote(OWNERS[1], days=30))
    assert life.expires == START + timedelta(days=30)


def test_a_rejection_shortens_nothing_and_ends_the_proposal() -> None:
    life = proposed()
    assert counted(life, "Rejected", {OWNERS[0]: "rejected"}, vote(OWNERS[0], "reject", days=1))
    assert (life.stage, life.proposal_id, life.expires, life.approvals_expire_at, life.pending()) == ("Draft", "", None, None, ())


def test_what_was_seen_before_its_own_step_told_is_not_undone() -> None:
    """Governance was read between the effect of a proposal and the end of its step: a ballot there is kept, it is said once."""
    life = drafted()
    assert seen(life, state="Proposed", proposal_id="p1", approvers=OWNERS, ballots={OWNERS[0]: "accepted"})
    life.proposal_made(START, OWNERS, QueryProposed(proposal_id="p1", version=life.version, digest=life.digest), COMMAND)
    assert (life.stage, life.voters("accepted"), life.proposal_command) == ("Proposed", ("contosso",), COMMAND)
    assert [entry.event for entry in life.history] == ["proposed"]


def test_a_draft_written_after_somebody_proposed_elsewhere_closes_no_proposal() -> None:
    life = drafted()
    seen(life, state="Proposed", proposal_id="p9", approvers=OWNERS)
    life.draft_stored(SPEC, draft(2), DraftStored(version="2.2", digest=digest(2)))
    assert (life.stage, life.digest, life.proposal_id) == ("Proposed", digest(1), "p9")


def test_the_card_never_stands_beside_another_text() -> None:
    life = drafted()
    assert life.card == "card 1"
    seen(life, state="Draft", version="2.5", digest=digest(5))
    assert (life.card, life.digest, life.acknowledged) == (NO_CARD, digest(5), digest(1))
    life.acknowledge_foreign_draft(DatasetOwners(owners=OWNERS, version="2.6", digest=digest(6)))
    assert (life.digest, life.acknowledged) == (digest(6), digest(6))


@pytest.mark.parametrize("make", [drafted, proposed])
def test_what_is_shown_already_is_no_change(make: Any) -> None:
    life = make()
    before = life.snapshot()
    assert not life.apply_governance_state(START, life.expected_governance_state())
    assert not life.apply_governance_state(START, GovernanceQueryState(state="Missing"))
    assert life.snapshot() == before


def test_nothing_moves_an_approved_or_a_closed_query() -> None:
    for stage in ("Approved", *CLOSED):
        life = drafted()
        life.stage = stage
        before = life.snapshot()
        assert not seen(life, state="Draft", version="9.9", digest=digest(9))
        assert life.snapshot() == before


def test_what_could_not_be_withdrawn_is_not_shown_as_closed() -> None:
    life = proposed()
    life.withdrawal_failed(START, "fabrikam", "StepTimedOut")
    assert (life.stage, life.expires) == ("Proposed", START + PERIOD)
    life.approved_in_governance(START)
    assert (life.stage, life.voters("accepted")) == ("Approved", ("contosso", "litware"))


# ---------------------------------------------------------------------- the mailbox


def command(kind: str, party: str = "") -> Command:
    return Command(kind, {"decision": "x"} if kind in ("approve", "reject") else {"party": party, "authorisation": "x"})


def test_nobody_waits_behind_somebody_elses_order() -> None:
    box = CommandQueue()
    sent = [command("update", "litware"), command("propose", "litware"), command("approve"), command("propose", "fabrikam")]
    for item in sent:
        box.add(item)
    busy = {"litware"}
    assert box.ready(busy)
    assert [box.take(busy), box.take(busy), box.take(busy)] == [sent[2], sent[3], None]
    assert not box.ready(busy)
    assert [box.take(()), *box.drain()] == sent[:2]
    assert not box


def test_a_flood_fills_its_own_lane_alone() -> None:
    box = CommandQueue()
    for _ in range(MAX_WAITING):
        box.add(command("withdraw", "litware"))
    with pytest.raises(Refused, match="100 messages"):
        box.add(command("update", "litware"))
    box.add(command("withdraw", "fabrikam"))
    box.add(command("approve"))
    assert box.take({"litware", VOTES}).lane == "fabrikam"  # type: ignore[union-attr]


@pytest.mark.parametrize("message", [None, "x", 1, [], {}, {"party": 1}, {"party": "A B"}, {"party": "x", "authorisation": "y", "z": 1}])
def test_whatever_was_sent_is_answered(message: Any) -> None:
    sent = Command("propose", message)
    assert sent.lane
    with pytest.raises(InvalidInput, match="propose:"):
        sent.parsed(AuthorMessage)


# ---------------------------------------------------------------------- whatever happens


class Life(RuleBasedStateMachine):
    """Anything may happen in any order; continued as new at any moment."""

    @initialize()
    def begin(self) -> None:
        self.life, self.now, self.count = drafted(), START, 0

    @rule(days=st.integers(0, 20))
    def time_goes_by(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(number=st.integers(1, 3))
    def written(self, number: int) -> None:
        self.life.draft_stored(SPEC, draft(number), DraftStored(version=f"3.{number}", digest=digest(number)))

    @rule(proposal=st.sampled_from(["p1", "p2"]))
    def proposed_here(self, proposal: str) -> None:
        if self.life.stage in ("Draft", "Proposed"):
            done = QueryProposed(proposal_id=proposal, version=self.life.version, digest=self.life.digest)
            self.life.proposal_made(self.now, OWNERS, done, COMMAND)

    @rule(user=st.sampled_from(OWNERS), decision=st.sampled_from(["approve", "reject"]), days=st.integers(1, 60))
    def voted(self, user: str, decision: Any, days: int) -> None:
        life = self.life
        if life.stage != "Proposed" or user in life.ballots:
            return
        ballots = life.ballots | {user: "accepted" if decision == "approve" else "rejected"}
        state = "Rejected" if "rejected" in ballots.values() else "Accepted" if set(ballots) >= set(life.owners) else "Open"
        life.vote_cast(self.now, vote(user, decision, days))
        ended = life.count_vote(self.now, vote(user, decision, days), BallotRecorded(proposal_state=state, ballots=ballots))
        assert ended == (life.stage != "Proposed")

    @rule(
        state=st.sampled_from(["Missing", "Draft", "Proposed", "Accepted"]),
        number=st.integers(1, 3),
        proposal=st.sampled_from(["p1", "p2", "p3"]),
        ballots=st.dictionaries(st.sampled_from(OWNERS), st.just("accepted")),
    )
    def governance_says(self, state: Any, number: int, proposal: str, ballots: dict[str, Any]) -> None:
        held = state in ("Proposed", "Accepted")
        said = GovernanceQueryState(
            state=state,
            version=f"3.{number}",
            digest=digest(number),
            proposal_id=proposal if held else "",
            approvers=OWNERS,
            ballots=dict.fromkeys(OWNERS, "accepted") if state == "Accepted" else ballots if held else {},
        )
        moves = self.life.stage in ("Draft", "Proposed") and state != "Missing"
        self.life.apply_governance_state(self.now, said)
        if moves:
            assert self.life.stage == {"Accepted": "Approved"}.get(state, state), "governance is right"
            assert self.life.snapshot() == self.again(said), "and saying it twice changes nothing"

    def again(self, said: GovernanceQueryState) -> Any:
        self.life.apply_governance_state(self.now, said)
        return self.life.snapshot()

    @rule()
    def withdrawn(self) -> None:
        if self.life.stage == "Proposed":
            self.life.return_to_draft(self.now, "withdrawn", "fabrikam")

    @rule(times=st.integers(1, 80))
    def refused(self, times: int) -> None:
        for _ in range(times):
            self.life.record_refused(self.now, "approve", PreconditionFailed("X", "y" * 2000))
            self.life.record(self.now, "event", "", "z" * 2000)

    @rule()
    def continued_as_new(self) -> None:
        before = self.life
        self.life = QueryStateMachine(
            PublishQueryInput.model_validate_json(INPUT.model_copy(update=before.carried_members()).model_dump_json())
        )
        assert self.life.snapshot() == before.snapshot()
        assert (self.life.ballots, self.life.expected_governance_state()) == (before.ballots, before.expected_governance_state())
        assert (self.life.proposal_command, self.life.acknowledged, self.life.approvals_expire_at) == (
            before.proposal_command,
            before.acknowledged,
            before.approvals_expire_at,
        )

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "life"):
            return
        life, state = self.life, self.life.snapshot()
        assert not set(state.pending) & {*state.accepted, *state.rejected}
        assert bool(state.pending) <= (life.stage == "Proposed")
        assert (life.stage in ("Proposed", "Approved")) == bool(life.proposal_id)
        assert life.stage != "Approved" or life.expires is not None
        assert len(life.history) <= MAX_HISTORY
        assert len(life.refused) <= MAX_REFUSED
        assert len(state.model_dump_json()) < 200_000, "far from what a payload may be"
        assert len(query_details(life, "fabrikam").encode()) < 20_000
        assert len(query_attributes(life, self.now)) == 6


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=15, deadline=None, derandomize=True, database=None)
