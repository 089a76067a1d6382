"""The states of a query and its transitions by commands, votes and governance, without Temporal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import InvalidInput, PreconditionFailed, Refused
from cleanroom.messages.query import (
    AuthorisedCommand,
    BallotRecorded,
    Collaborator,
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
    query = QueryStateMachine(INPUT)
    query.draft_stored(SPEC, draft(number), DraftStored(version=f"2.{number}", digest=digest(number)))
    return query


def proposed(number: int = 1, proposal: str = "p1", now: datetime = START) -> QueryStateMachine:
    query = drafted(number)
    query.proposal_made(now, OWNERS, QueryProposed(proposal_id=proposal, version=query.version, digest=query.digest), COMMAND)
    return query


def vote(user: str, decision: Any = "approve", days: float = 30) -> VerifiedDecision:
    return VerifiedDecision(
        approver_id=user, decision=decision, reason="", expires=START + timedelta(days=days), max_runs=None, nonce=f"{user}-{days}"
    )


def test_a_refused_message_shows_the_error_with_names_of_collaborators() -> None:
    query = proposed()
    answer = Refused(
        "NotProposalOwner", "answered 403 to POST /withdraw.", cause="Only u-fabrikam can withdraw proposal p1.", hint="Ask u-litware."
    )
    error = query.with_display_names(answer)
    assert (error.code, error.cause, error.hint, error.exit_code) == (
        "NotProposalOwner", "Only fabrikam can withdraw proposal p1.", "Ask litware.", answer.exit_code,
    )  # fmt: skip
    query.record_refused(START, "withdraw", error)
    kept = query.snapshot().refused[-1]
    assert (kept.cause, kept.hint) == (error.cause, error.hint)
    assert "last, *withdraw*: `NotProposalOwner` Only fabrikam can" in query_details(query, "fabrikam")


def test_the_page_of_a_closed_query_has_no_deadline_and_no_next_step() -> None:
    query = proposed()
    assert "expires" in query_details(query, "fabrikam")
    assert "--print-signal" in query_details(query, "fabrikam")
    query.close(START, "Withdrawn", "fabrikam")
    shown = query_details(query, "fabrikam")
    assert not any(word in shown for word in ("expires", "Next:", "Signal", "What the owners approve"))


def count_vote(query: QueryStateMachine, state: Any, ballots: dict[str, Any], decision: VerifiedDecision) -> bool:
    return query.count_vote(START, decision, BallotRecorded(proposal_state=state, ballots=ballots))


def see_in_governance(query: QueryStateMachine, **state: Any) -> bool:
    values = {"version": query.version, "digest": query.digest, "proposal_id": query.proposal_id, "approvers": query.owners} | state
    return query.apply_governance_state(START, GovernanceQueryState(**values))


def test_an_approval_that_expires_first_sets_the_deadline_of_proposal_and_query() -> None:
    query = proposed()
    assert query.expires == START + PERIOD
    assert not count_vote(query, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=3))
    assert (query.expires, query.pending()) == (START + timedelta(days=3), ("litware",))
    count_vote(query, "Accepted", dict.fromkeys(OWNERS, "accepted"), vote(OWNERS[1], days=40))
    assert (query.stage, query.expires, query.voters("accepted")) == ("Approved", START + timedelta(days=3), ("contosso", "litware"))


def test_the_expiry_of_the_approvals_replaces_the_deadline_of_the_proposal() -> None:
    query = proposed()
    count_vote(query, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=40))
    count_vote(query, "Accepted", dict.fromkeys(OWNERS, "accepted"), vote(OWNERS[1], days=30))
    assert query.expires == START + timedelta(days=30)


def test_a_rejection_ends_the_proposal_and_clears_its_deadline() -> None:
    query = proposed()
    assert count_vote(query, "Rejected", {OWNERS[0]: "rejected"}, vote(OWNERS[0], "reject", days=1))
    assert (query.stage, query.proposal_id, query.expires, query.approvals_expire_at, query.pending()) == ("Draft", "", None, None, ())


def test_a_proposal_detected_before_its_activity_returned_keeps_its_votes() -> None:
    """The poll read governance between the proposal and the end of its activity: the ballot stays, and there is one event."""
    query = drafted()
    assert see_in_governance(query, state="Proposed", proposal_id="p1", approvers=OWNERS, ballots={OWNERS[0]: "accepted"})
    query.proposal_made(START, OWNERS, QueryProposed(proposal_id="p1", version=query.version, digest=query.digest), COMMAND)
    assert (query.stage, query.voters("accepted"), query.proposal_command) == ("Proposed", ("contosso",), COMMAND)
    assert [entry.event for entry in query.history] == ["proposed"]


def test_a_draft_stored_after_a_proposal_in_governance_does_not_close_the_proposal() -> None:
    query = drafted()
    see_in_governance(query, state="Proposed", proposal_id="p9", approvers=OWNERS)
    query.draft_stored(SPEC, draft(2), DraftStored(version="2.2", digest=digest(2)))
    assert (query.stage, query.digest, query.proposal_id) == ("Proposed", digest(1), "p9")


def test_a_changed_text_has_no_card() -> None:
    query = drafted()
    assert query.card == "card 1"
    see_in_governance(query, state="Draft", version="2.5", digest=digest(5))
    assert (query.card, query.digest) == (NO_CARD, digest(5))


def test_a_proposal_of_a_text_that_was_not_written_here_has_no_card() -> None:
    query = drafted()
    query.proposal_made(START, OWNERS, QueryProposed(proposal_id="p1", version="2.6", digest=digest(6)), COMMAND)
    assert (query.stage, query.version, query.digest, query.card) == ("Proposed", "2.6", digest(6), NO_CARD)


@pytest.mark.parametrize("make", [drafted, proposed])
def test_an_expected_or_missing_governance_state_changes_nothing(make: Any) -> None:
    query = make()
    before = query.snapshot()
    assert not query.apply_governance_state(START, query.expected_governance_state())
    assert not query.apply_governance_state(START, GovernanceQueryState(state="Missing"))
    assert query.snapshot() == before


def test_governance_does_not_change_an_approved_or_closed_query() -> None:
    for stage in ("Approved", *CLOSED):
        query = drafted()
        query.stage = stage
        before = query.snapshot()
        assert not see_in_governance(query, state="Draft", version="9.9", digest=digest(9))
        assert query.snapshot() == before


def test_a_proposal_that_could_not_be_withdrawn_stays_open() -> None:
    query = proposed()
    query.withdrawal_failed(START, "fabrikam", "StepTimedOut")
    assert (query.stage, query.expires) == ("Proposed", START + PERIOD)
    query.approved_in_governance(START)
    assert (query.stage, query.voters("accepted")) == ("Approved", ("contosso", "litware"))


# ---------------------------------------------------------------------- the command queue


def command(kind: str, party: str = "") -> Command:
    return Command(kind, {"decision": "x"} if kind in ("approve", "reject") else {"party": party, "authorisation": "x"})


def test_a_command_does_not_wait_for_a_command_in_another_lane() -> None:
    queue = CommandQueue()
    sent = [command("update", "litware"), command("propose", "litware"), command("approve"), command("propose", "fabrikam")]
    for item in sent:
        queue.add(item)
    busy = {"litware"}
    assert queue.ready(busy)
    assert [queue.take(busy), queue.take(busy), queue.take(busy)] == [sent[2], sent[3], None]
    assert not queue.ready(busy)
    assert [queue.take(()), *queue.drain()] == sent[:2]
    assert not queue


def test_a_flood_fills_only_its_own_lane() -> None:
    queue = CommandQueue()
    for _ in range(MAX_WAITING):
        queue.add(command("withdraw", "litware"))
    with pytest.raises(Refused, match=f"{MAX_WAITING} messages"):
        queue.add(command("update", "litware"))
    queue.add(command("withdraw", "fabrikam"))
    queue.add(command("approve"))
    assert queue.take({"litware", VOTES}).lane == "fabrikam"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [None, "x", 1, [], {}, {"party": 1}, {"party": ""}, {"party": ["x"]}, {"party": "A B"}, {"party": "x", "authorisation": "y", "z": 1}],
)
def test_a_malformed_message_is_refused_and_not_in_the_lane_of_votes(message: Any) -> None:
    sent = Command("propose", message)
    assert isinstance(sent.lane, str)
    assert sent.lane not in ("", VOTES)
    with pytest.raises(InvalidInput, match="propose:"):
        sent.validate()


def test_only_a_vote_is_identified_by_its_decision() -> None:
    assert len(Command("approve", {"decision": "token"}).about) == 16
    assert Command("approve", {"decision": 1}).about == Command("propose", {"party": "x", "decision": "token"}).about == ""


# ---------------------------------------------------------------------- random transitions


class RandomTransitions(RuleBasedStateMachine):
    """Commands, votes, governance states and continue-as-new in random order."""

    reached: ClassVar[set[str]] = set()
    """What happened in any of the examples."""

    @initialize(open_proposal=st.booleans())
    def begin(self, open_proposal: bool) -> None:
        self.query, self.now = proposed() if open_proposal else drafted(), START

    @rule(days=st.integers(0, 20))
    def time_passes(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(number=st.integers(1, 3))
    def draft_is_stored(self, number: int) -> None:
        self.query.draft_stored(SPEC, draft(number), DraftStored(version=f"3.{number}", digest=digest(number)))

    @rule(proposal=st.sampled_from(["p1", "p2"]))
    def proposal_is_made(self, proposal: str) -> None:
        if self.query.stage in ("Draft", "Proposed"):
            done = QueryProposed(proposal_id=proposal, version=self.query.version, digest=self.query.digest)
            self.query.proposal_made(self.now, OWNERS, done, COMMAND)

    @precondition(lambda self: self.query.stage == "Proposed")
    @rule(user=st.sampled_from(OWNERS), decision=st.sampled_from(["approve", "reject"]), days=st.integers(1, 60))
    def one_vote_is_cast(self, user: str, decision: Any, days: int) -> None:
        self.vote_is_cast(user, decision, days)

    def vote_is_cast(self, user: str, decision: Any, days: int) -> None:
        query = self.query
        if user in query.ballots:
            return
        ballots = query.ballots | {user: "accepted" if decision == "approve" else "rejected"}
        state = "Rejected" if "rejected" in ballots.values() else "Accepted" if set(ballots) >= set(query.owners) else "Open"
        query.vote_cast(self.now, vote(user, decision, days))
        ended = query.count_vote(self.now, vote(user, decision, days), BallotRecorded(proposal_state=state, ballots=ballots))
        assert ended == (query.stage != "Proposed")
        self.reached.add(f"vote: {state}")

    @precondition(lambda self: self.query.stage == "Proposed")
    @rule(days=st.integers(1, 60))
    def the_missing_owners_approve(self, days: int) -> None:
        for user in OWNERS:
            if self.query.stage == "Proposed":
                self.vote_is_cast(user, "approve", days)

    @rule(
        state=st.sampled_from(["Missing", "Draft", "Proposed", "Accepted"]),
        number=st.integers(1, 3),
        proposal=st.sampled_from(["p1", "p2", "p3"]),
        ballots=st.dictionaries(st.sampled_from(OWNERS), st.just("accepted")),
    )
    def governance_changes(self, state: Any, number: int, proposal: str, ballots: dict[str, Any]) -> None:
        proposed = state in ("Proposed", "Accepted")
        found = GovernanceQueryState(
            state=state,
            version=f"3.{number}",
            digest=digest(number),
            proposal_id=proposal if proposed else "",
            approvers=OWNERS,
            ballots=dict.fromkeys(OWNERS, "accepted") if state == "Accepted" else ballots if proposed else {},
        )
        moves = self.query.stage in ("Draft", "Proposed") and state != "Missing"
        self.reached.add(f"{self.query.stage} sees {state}")
        self.query.apply_governance_state(self.now, found)
        if moves:
            assert self.query.stage == {"Accepted": "Approved"}.get(state, state), "governance takes precedence"
            assert self.query.snapshot() == self.apply_again(found), "applying a state is idempotent"

    def apply_again(self, found: GovernanceQueryState) -> Any:
        self.query.apply_governance_state(self.now, found)
        return self.query.snapshot()

    @rule()
    def proposal_is_withdrawn(self) -> None:
        if self.query.stage == "Proposed":
            self.query.return_to_draft(self.now, "withdrawn", "fabrikam")

    @rule(times=st.integers(1, 80))
    def messages_are_refused(self, times: int) -> None:
        for _ in range(times):
            self.query.record_refused(self.now, "approve", PreconditionFailed("X", "y" * 2000))
            self.query.record(self.now, "event", "", "z" * 2000)

    @rule()
    def continue_as_new(self) -> None:
        before = self.query
        self.reached.add(f"{before.stage} continued as new")
        self.query = QueryStateMachine(
            PublishQueryInput.model_validate_json(INPUT.model_copy(update=before.carried_members()).model_dump_json())
        )
        assert self.query.snapshot() == before.snapshot()
        assert (self.query.ballots, self.query.expected_governance_state()) == (before.ballots, before.expected_governance_state())
        assert (self.query.proposal_command, self.query.approvals_expire_at) == (
            before.proposal_command,
            before.approvals_expire_at,
        )

    @invariant()
    def invariants_hold(self) -> None:
        if not hasattr(self, "query"):
            return
        query, state = self.query, self.query.snapshot()
        self.reached.add(f"{query.stage} with {len(query.ballots)} votes")
        assert not set(state.pending) & {*state.accepted, *state.rejected}
        assert bool(state.pending) <= (query.stage == "Proposed")
        assert (query.stage in ("Proposed", "Approved")) == bool(query.proposal_id)
        assert query.stage != "Approved" or query.expires is not None
        assert len(query.history) <= MAX_HISTORY
        assert len(query.refused) <= MAX_REFUSED
        assert len(state.model_dump_json()) < 200_000, "far below the maximum size of a payload"
        assert len(query_details(query, "fabrikam").encode()) < 20_000
        assert all(value is None or value for _, value in query_attributes(query, self.now) if not isinstance(value, list))


def test_random_transitions_keep_the_invariants_and_reach_every_state() -> None:
    RandomTransitions.reached.clear()
    budget = settings(max_examples=160, stateful_step_count=15, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(RandomTransitions, settings=budget)  # type: ignore[no-untyped-call]
    wanted = {f"{stage} sees {state}" for stage in ("Draft", "Proposed") for state in ("Missing", "Draft", "Proposed", "Accepted")}
    wanted |= {f"vote: {state}" for state in ("Open", "Accepted", "Rejected")}
    wanted |= {f"{stage} continued as new" for stage in ("Draft", "Proposed", "Approved")}
    wanted |= {"Draft with 0 votes", "Proposed with 0 votes", "Proposed with 1 votes", "Approved with 2 votes"}
    assert RandomTransitions.reached >= wanted


def draft_at(version: str, seen: str = "", digest: str = "c" * 64) -> GovernanceQueryState:
    return GovernanceQueryState(state="Draft", version=version, digest=digest, seen=seen)


def test_an_older_draft_is_not_news_and_does_not_replace_the_card() -> None:
    query = drafted(10)
    query.version, query.card = "2.10", "the card"
    for version in ("2.9", "2.2"):  # as texts, both would be later than 2.10
        assert not query.apply_governance_state(START, draft_at(version))
        assert (query.version, query.card) == ("2.10", "the card")
    query.apply_governance_state(START, draft_at("2.11"))
    assert query.version == "2.11"
    assert query.card != "the card"


def test_an_answer_from_before_the_workflows_own_write_is_not_news() -> None:
    query = proposed()
    card = query.card
    query.saw("2.30")
    assert not query.apply_governance_state(START, draft_at(query.version, "2.29"))
    assert (query.stage, query.card) == ("Proposed", card)
    # After a withdrawal the document has its old version, so only the transaction tells which answer is older.
    query.return_to_draft(START, "withdrawn")
    query.saw("2.31")
    old = GovernanceQueryState(state="Proposed", version=query.version, digest=query.digest, proposal_id="p1", seen="2.30")
    assert not query.apply_governance_state(START, old)
    assert query.stage == "Draft"
    assert query.apply_governance_state(START, old.model_copy(update={"proposal_id": "p2", "seen": "2.32"}))
    assert (query.stage, query.proposal_id, query.seen) == ("Proposed", "p2", "2.32")


def test_what_the_workflow_has_seen_survives_continue_as_new_and_never_goes_back() -> None:
    query = drafted()
    for seen in ("2.9", "2.10", "", "2.3", "x"):
        query.saw(seen)
    assert query.expected_governance_state().seen == query.seen == "2.10"
    assert query.snapshot().seen == "2.10"
    again = QueryStateMachine(INPUT.model_copy(update=query.carried_members()))
    assert again.seen == "2.10"


@pytest.mark.parametrize(
    ("stage", "hint"),
    [("Proposed", "Withdraw the proposal first."), ("Approved", "An approved query does not change"), ("Withdrawn", None)],
)
def test_hint_for_a_query_that_is_no_draft_fits_its_stage(stage: Any, hint: str | None) -> None:
    """`withdraw` has nothing to do on an approved query, so the hint must not name it."""
    query = QueryStateMachine(INPUT)
    query.stage = stage
    found = query.not_draft_error("update").hint
    assert (found or "").startswith(hint or "")
    assert (found is None) is (hint is None)


# ---------------------------------------------------------------------- what each transition keeps and changes


def voted() -> QueryStateMachine:
    """An open proposal with one vote for it and one against it, whose text was replaced once."""
    query = proposed(7)
    query.spec = SPEC.model_copy(update={"sql": "SELECT 2"})
    query.ballots = {"u-contosso": "accepted", "u-fabrikam": "accepted", "u-litware": "rejected", "u-unknown": "rejected"}
    query.owners = (*query.ballots, "u-silent")
    query.expires, query.approvals_expire_at = START + timedelta(days=3), START + timedelta(days=2)
    query.record_refused(START, "approve", InvalidInput("X", "of u-contosso"), "mark")
    query.saw("2.44")
    return query


def test_everything_survives_continue_as_new() -> None:
    before = voted()
    after = QueryStateMachine(INPUT.model_copy(update=before.carried_members()))
    shown = after.snapshot()
    assert shown == before.snapshot()
    assert (shown.accepted, shown.rejected, shown.pending) == (("contosso", "fabrikam"), ("litware", "u-unknown"), ("u-silent",))
    assert (shown.version, shown.digest, shown.proposal_id, shown.card) == ("2.7", digest(7), "p1", "card 7")
    assert (shown.expires, shown.owners, shown.spec) == (START + timedelta(days=3), before.owners, before.spec)
    assert (len(shown.history), len(shown.refused), shown.refused[0].category) == (1, 1, InvalidInput.category)
    assert after.ballots == before.ballots
    assert (after.proposal_command, after.approvals_expire_at) == (COMMAND, START + timedelta(days=2))


def test_a_query_without_a_carried_text_has_that_of_its_input() -> None:
    assert QueryStateMachine(INPUT).spec == SPEC
    carried = drafted().carried_members()
    carried["carried"] = carried["carried"].model_copy(update={"spec": None})
    assert QueryStateMachine(INPUT.model_copy(update=carried)).spec == SPEC


def test_lists_and_texts_are_bounded() -> None:
    query = drafted()
    for number in range(250):
        query.record(START, f"event {number}", "", "x" * 1000)
        query.record_refused(START, "approve", PreconditionFailed("X", "y" * 1000, cause="c" * 1000, hint="h" * 1000))
    assert (len(query.history), query.history[0].event, len(query.history[0].detail)) == (200, "event 50", 300)
    refused = query.refused[0]
    assert (len(query.refused), len(refused.message), len(refused.cause), len(refused.hint)) == (50, 500, 500, 500)


def test_a_lasting_condition_is_recorded_once() -> None:
    query = QueryStateMachine(INPUT)
    for event, detail in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "2"), ("b", "2"), ("a", "2")):
        query.record_once(START, event, detail)
    assert [(entry.event, entry.detail) for entry in query.history] == [("a", "1"), ("a", "2"), ("b", "2"), ("a", "2")]


def test_three_stages_are_closed() -> None:
    found = []
    for stage in ("Creating", "Draft", "Proposed", "Approved", "Withdrawn", "Expired", "Failed"):
        query = drafted()
        query.stage = stage  # type: ignore[assignment]
        found += [stage] if query.closed else []
    assert found == ["Withdrawn", "Expired", "Failed"]


def test_texts_show_every_collaborator_by_name() -> None:
    assert drafted().display_text("u-contosso u-fabrikam u-litware u-mallory") == "contosso fabrikam litware u-mallory"


def test_only_a_proposed_query_is_open_and_only_for_its_proposal() -> None:
    query = proposed()
    assert (query.is_open("p1"), query.is_open("p2")) == (True, False)
    query.stage = "Approved"
    assert not query.is_open("p1")


def test_governance_is_expected_to_hold_what_is_shown() -> None:
    query = voted()
    assert query.expected_governance_state() == GovernanceQueryState(
        state="Proposed", version="2.7", digest=digest(7), proposal_id="p1", proposal_state="Open", approvers=query.owners,
        ballots=query.ballots, seen="2.44",
    )  # fmt: skip
    query.return_to_draft(START, "returned to draft")
    assert query.expected_governance_state() == GovernanceQueryState(
        state="Draft", version="2.7", digest=digest(7), approvers=query.owners, seen="2.44"
    )  # fmt: skip


def test_a_proposal_ends_at_its_deadline_although_its_approvals_last_longer() -> None:
    query = proposed()
    count_vote(query, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=40))
    assert (query.expires, query.approvals_expire_at) == (START + PERIOD, START + timedelta(days=40))
    count_vote(query, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], "reject", days=1))
    assert query.expires == START + PERIOD
    query.expires = None
    count_vote(query, "Open", {OWNERS[0]: "accepted"}, vote(OWNERS[0], days=5))
    assert query.expires == query.approvals_expire_at == START + timedelta(days=5)


def test_a_query_that_was_approved_elsewhere_ends_after_a_period() -> None:
    query = proposed()
    assert not see_in_governance(query, state="Accepted", ballots=dict.fromkeys(OWNERS, "accepted"))
    assert (query.stage, query.expires) == ("Approved", START + PERIOD)


def test_an_acceptance_counts_although_all_its_votes_were_shown_already() -> None:
    query = proposed()
    query.ballots = dict.fromkeys(OWNERS, "accepted")
    see_in_governance(query, state="Accepted", ballots=query.ballots)
    assert query.stage == "Approved"


@pytest.mark.parametrize("state", ["Proposed", "Accepted"])
def test_a_proposal_of_another_text_replaces_everything_of_the_one_that_was_shown(state: Any) -> None:
    query = voted()
    ballots = {"u-litware": "accepted"}
    assert see_in_governance(
        query, state=state, proposal_id="p9", version="2.99", digest=digest(9), approvers=("u-litware",), ballots=ballots
    )
    assert (query.proposal_id, query.version, query.digest, query.card) == ("p9", "2.99", digest(9), NO_CARD)
    assert (query.owners, query.ballots) == (("u-litware",), ballots)
    assert (query.proposal_command, query.approvals_expire_at, query.expires) == (None, None, START + PERIOD)


@pytest.mark.parametrize(("version", "number"), [("2.8", 1), ("2.1", 8)])
def test_a_draft_of_another_version_or_text_is_shown(version: str, number: int) -> None:
    query = drafted()
    assert see_in_governance(query, state="Draft", version=version, digest=digest(number))
    assert (query.version, query.digest, query.history[-1].event) == (version, digest(number), "draft changed")


def test_a_draft_ends_the_proposal_that_was_shown_whatever_its_version() -> None:
    """A draft has its own version, which is older than that of the proposal."""
    query = proposed(7)
    assert see_in_governance(query, state="Draft", version="2.3")
    assert (query.stage, query.proposal_id, query.history[-1].event) == ("Draft", "", "returned to draft")


def test_votes_that_were_cast_elsewhere_are_shown() -> None:
    query = proposed()
    assert not see_in_governance(query, state="Proposed", ballots={OWNERS[1]: "rejected"})
    assert (query.voters("rejected"), query.history[-1].event) == (("litware",), "votes changed")
