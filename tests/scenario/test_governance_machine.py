"""Random collaborators act on one query, through its workflow and directly in governance, and are compared with a model.

One Temporal server, one governance stand-in, and the real activities of the frontend and of three collaborators.
Half of the connections lead to a governance node that lags behind, by a random time per example.
``tests/conformance/governance/test_model.py`` does the same without a workflow, with more examples.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import Approver, GovernanceUserClient
from cleanroom.identifiers import (
    FRONTEND_QUEUE,
    document_digest,
    query_workflow_id,
)
from cleanroom.messages.query import (
    AuthorMessage,
    Collaborator,
    DecisionMessage,
    GenerateQueryRequest,
    PublishQueryInput,
    QueryDraft,
    QueryState,
)
from cleanroom.publishing.query_document import generate_query
from cleanroom.secret import Secret
from cleanroom.statements import Decision, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.session import Session, now
from tests.governance_machine.model import Model, Proposal
from tests.governance_machine.world import AUTHOR, OWNERS, PEOPLE, World, open_world
from tests.temporal_env import unique
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario

LONGEST_LAG_MS = 1000 if os.environ.get("CLEANROOM_TEST_LAG") else 0
"""By how much the second governance node lags behind. The variable chooses the long form (``make test-lag``)."""
SLACK = 60.0
"""Seconds until the watcher has found a change, because the tests share two cores."""


@pytest.fixture(scope="module")
def machine_world(tmp_path_factory: pytest.TempPathFactory, temporal_env: WorkflowEnvironment) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("governance-machine"), temporal_env) as world:
        yield world


WHO = st.sampled_from(PEOPLE)
OWNER = st.sampled_from([*OWNERS, *OWNERS, *PEOPLE])
AUTHORISED = st.sampled_from([True, True, True, False])
AT_ONCE = st.booleans()
VARIANT = st.integers(0, 2)
VIA = st.sampled_from(["update", "signal"])
APPROVERS = st.sampled_from([OWNERS, OWNERS, ("litware",), PEOPLE, (AUTHOR,)])
WRONG = st.sampled_from(["", "", "", "", "version", "digest", "proposal_id", "key"])
WRONG_CODES = {
    "version": "DecisionVersionMismatch",
    "digest": "DecisionDigestMismatch",
    "proposal_id": "DecisionProposalMismatch",
    "key": "ApproverKeyUnknown",
}
EVENTS = {"update": "updated", "propose": "proposed", "withdraw": "withdrawn", "approve": "approved", "reject": "rejected"}


class Governance(RuleBasedStateMachine):
    """Random steps on one query, through its workflow and directly in governance.

    Rules compare every answer with the model. Three parameters vary them:

    * ``authorised``: whether the author's own key signs the authorisation; otherwise another collaborator's key does.
    * ``via``: whether the command is an update, which answers, or a signal, whose result is in the workflow's state.
    * ``at_once``: whether the next step may come before the workflow has polled a change that was made directly in governance.
    """

    world: ClassVar[World]

    @initialize(begin=st.sampled_from(["draft", "proposed", "voted", "voted", "approved"]), lag=st.integers(0, LONGEST_LAG_MS))
    def create(self, begin: str, lag: int) -> None:
        """The workflow creates the draft. Examples begin at one of four stages, so that short ones reach all of them."""
        world = self.world
        world.nodes.lag = lag / 1000
        self.name = unique("machine")
        self.specs = [self._spec(number) for number in range(3)]
        self.texts: list[QueryDraft] = [world.run(self._text(spec)) for spec in self.specs]
        self.handle: WorkflowHandle[PublishQuery, QueryState] = world.run(self._start())
        first = self.until(lambda state: state.stage == "Draft")
        assert first.digest == self.texts[0].digest
        self.model = Model((first.version, first.digest), self.ids(OWNERS))
        self.acknowledged = first.digest
        self.at_once, self.converged, self.closed = False, True, False
        if begin != "draft":
            self.propose(who=AUTHOR, authorised=True, via="update")
        for owner in {"voted": OWNERS[1:], "approved": OWNERS}.get(begin, ()):
            self.decide(who=owner, verdict="approve", wrong="", via="update")

    def _spec(self, number: int) -> QuerySpec:
        sql = f"SELECT f.origin AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin HAVING COUNT(*) >= {number + 10}"
        return QuerySpec(name=self.name, inputs={"f": "machine-flights"}, output="machine-output", sql=sql)

    async def _text(self, spec: QuerySpec) -> QueryDraft:
        request = GenerateQueryRequest(collaboration=self.world.collaboration, spec=spec, proposer_id=self.world.users[AUTHOR])
        return await generate_query(self.world.reader(), request)

    async def _start(self) -> WorkflowHandle[PublishQuery, QueryState]:
        world, spec = self.world, self.specs[0]
        parties = tuple(Collaborator(name=name, user_id=world.users[name]) for name in PEOPLE)
        start = PublishQueryInput(
            collaboration=world.collaboration,
            proposer=parties[0],
            parties=parties,
            spec=spec,
            authorisation=world.sessions[AUTHOR].authorise("create-query", self.name, spec.digest()),
        )
        return await world.temporal.start_workflow(
            PublishQuery.run,
            start,
            id=query_workflow_id(world.collaboration, self.name),
            task_queue=FRONTEND_QUEUE,
            search_attributes=start_attributes(collaboration=world.collaboration, kind="query", query=self.name, proposer=AUTHOR),
        )

    def teardown(self) -> None:
        if hasattr(self, "handle") and not self.closed:
            self.world.run(self.handle.terminate("the example has ended"))

    # ------------------------------------------------------------------ helpers

    def ids(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset(self.world.users[name] for name in names)

    def names(self, ids: Any) -> tuple[str, ...]:
        known = {user: name for name, user in self.world.users.items()}
        return tuple(sorted(known[user] for user in ids))

    def seen(self) -> QueryState:
        return self.world.run(self.handle.query(PublishQuery.state))

    def until(self, done: Any, seconds: float = SLACK) -> QueryState:
        """Wait until ``done`` accepts the workflow's state, and return the state."""

        async def read() -> QueryState:
            deadline = asyncio.get_running_loop().time() + seconds
            while not done(state := await self.handle.query(PublishQuery.state)):
                assert asyncio.get_running_loop().time() < deadline, (self.model, state.model_dump(exclude={"card", "spec"}))
                await asyncio.sleep(0.02)  # Temporal has no long poll for query results.
            return state

        return self.world.run(read())

    def outside(self, work: Coroutine[Any, Any, Any], wanted: str, *, at_once: bool) -> Any:
        """Do something directly in governance. The error code must be that of the model."""
        self.at_once = at_once
        code, found = "", None
        try:
            found = self.world.run(work)
        except CleanRoomError as error:
            code = error.code
        assert code == wanted, (code, wanted, self.model)
        return found

    def authorisation(self, who: str, action: str, digest: str, authorised: bool, **claims: str) -> str:
        """Return the authorisation of ``who`` to their worker, signed with another collaborator's key unless ``authorised``."""
        session = self.world.sessions[who]
        if authorised:
            return session.authorise(action, self.name, digest, **claims)
        other = self.world.sessions[PEOPLE[(PEOPLE.index(who) + 1) % 3]]
        stolen = Session(session.settings.model_copy(update={"keys_dir": other.settings.keys_dir}))
        return stolen.authorise(action, self.name, digest, **claims)

    def command(self, kind: str, who: str, update: Any, message: Any, via: str) -> str:
        """Send a command to the workflow; return the error code, or the empty string."""
        if via == "signal" and self.converged:
            return self._signal(kind, who, message.model_dump(mode="json"))
        try:
            self.world.run(self.handle.execute_update(update, message))
        except WorkflowUpdateFailedError as error:
            refused = error_from_failure(error)
            assert refused.message
            return refused.code
        return ""

    def _signal(self, kind: str, who: str, message: Any) -> str:
        before = self.seen()
        self.world.run(self.handle.signal(kind, message))

        def counted(state: QueryState) -> bool:
            fresh = state.history[len(before.history) :]
            return any((entry.event, entry.by) == (EVENTS[kind], who) for entry in fresh)

        after = self.until(lambda state: len(state.refused) > len(before.refused) or counted(state))
        if len(after.refused) == len(before.refused):
            return ""
        last = after.refused[-1]
        assert (last.kind, bool(last.message)) == (kind, True)
        return last.code

    def expect(self, code: str, wanted: str) -> None:
        """Require the predicted error code, unless the workflow may not have seen the latest change yet."""
        if self.converged:
            assert code == wanted, (code, wanted, self.model)

    def read_accepted_version(self) -> None:
        """Read the version of the document that the last ballot has accepted."""
        document = self.world.run(self.world.observe(lambda reader: reader.get_document(self.name)))
        assert document.state == "Accepted"
        assert document.version not in ("", self.model.text[0])
        self.model.accepted_version = str(document.version)

    # ------------------------------------------------------------------ commands to the workflow

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, variant=VARIANT, authorised=AUTHORISED, via=VIA)
    def update(self, who: str, variant: int, authorised: bool, via: str) -> None:
        """Only an authorised author changes the draft, while no proposal is open. The owners are its approvers again."""
        spec, text = self.specs[variant], self.texts[variant]
        version = self.model.draft[0]
        token = self.authorisation(who, "update-query", spec.digest(), authorised, version=version)
        message = AuthorMessage(party=who, authorisation=token, spec=spec)
        code = self.command("update", who, PublishQuery.update_and_wait, message, via)
        self.expect(code, "QueryNotDraft" if self.model.state != "Draft" else "" if authorised else "ApproverKeyUnknown")
        if code == "":
            assert authorised
            self.acknowledged = text.digest
            version = next(entry.detail for entry in reversed(self.seen().history) if entry.event == "updated").removeprefix("version ")
            if version not in (self.model.draft[0], self.model.text[0]):
                self.model.draft, self.model.approvers = (version, text.digest), self.ids(OWNERS)

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, authorised=AUTHORISED, via=VIA)
    def propose(self, who: str, authorised: bool, via: str) -> None:
        """The workflow proposes only the text that its author has signed, with the owners as approvers, and only a draft."""
        known = self.acknowledged
        token = self.authorisation(who, "propose-query", known, authorised, version=self.model.draft[0])
        message = AuthorMessage(party=who, authorisation=token)
        code = self.command("propose", who, PublishQuery.propose_and_wait, message, via)
        if self.model.state != "Draft":
            wanted = "QueryNotDraft"
        elif not authorised:
            wanted = "ApproverKeyUnknown"
        elif self.model.draft[1] != known:
            wanted = "DraftChanged"
        else:
            wanted = "" if self.model.approvers == self.ids(OWNERS) else "DraftChanged"
        self.expect(code, wanted)
        if code == "DraftChanged":
            self.acknowledged = self.model.text[1]
        if code == "":
            assert authorised
            if self.model.state == "Draft":
                assert (self.model.draft[1], self.model.approvers) == (known, self.ids(OWNERS)), (
                    "the proposed text is not the one that the author has seen"
                )
                found = self.world.run(self.world.observe(lambda reader: reader.get_document(self.name)))
                self.model.proposal = Proposal(found.proposal_id, self.world.users[who], self.model.approvers, self.model.draft)

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, authorised=AUTHORISED, via=VIA, close=st.sampled_from([False, False, False, True]))
    def withdraw(self, who: str, authorised: bool, via: str, close: bool) -> None:
        """Withdrawing a proposal returns to the draft; withdrawing a draft ends the workflow. An accepted query cannot be withdrawn."""
        if who == AUTHOR and authorised and self.model.state == "Draft" and not close:
            return
        version, digest = self.model.draft
        named = self.model.proposal.id if self.model.proposal is not None else ""
        token = self.authorisation(who, "withdraw-query", digest, authorised, version=version, proposal_id=named)
        message = AuthorMessage(party=who, authorisation=token)
        code = self.command("withdraw", who, PublishQuery.withdraw_and_wait, message, via)
        if self.model.state == "Accepted":
            wanted = "QueryNotOpen"
        elif self.model.state == "Draft":
            wanted = "NotProposalOwner" if who != AUTHOR else "" if authorised else "ApproverKeyUnknown"
        else:
            wanted = self.model.withdrawal_error(self.world.users[who]) if authorised else "ApproverKeyUnknown"
        self.expect(code, wanted)
        if code == "":
            assert authorised
            self.closed = self.seen().stage == "Withdrawn"
            proposal = self.model.proposal
            if not self.closed and proposal is not None and proposal.proposer == self.world.users[who] and not self.model.accepted_version:
                withdrawn = proposal.id
                status = self.world.run(self.world.observe(lambda reader: reader.proposal_status(withdrawn)))
                assert self.converged <= (status.state == "Withdrawn")
                self.model.proposal = None if status.state == "Withdrawn" else proposal

    @precondition(lambda self: not self.closed and self.model.proposal is not None)
    @rule(who=OWNER, verdict=st.sampled_from(["approve", "approve", "approve", "reject"]), wrong=WRONG, via=VIA)
    def decide(self, who: str, verdict: Literal["approve", "reject"], wrong: str, via: str) -> None:
        """A decision counts only for the open proposal, version and digest, with the approver's own key. It is idempotent."""
        state, user, ballot = self.seen(), self.world.users[who], "accepted" if verdict == "approve" else "rejected"
        session = self.world.sessions[who]
        values = {"version": state.version, "digest": state.digest, "proposal_id": state.proposal_id or "none"}
        values |= {} if wrong in ("", "key") else {wrong: "0" * 64}
        decision = Decision(
            collaboration=session.collaboration,
            signer=user,
            expires=now().replace(year=now().year + 1, day=1),
            query=self.name,
            decision=verdict,
            **values,
        )
        signer = session if wrong != "key" else self.world.sessions[PEOPLE[(PEOPLE.index(who) + 1) % 3]]
        proposal = self.model.proposal
        earlier = proposal.ballots.get(user) if proposal is not None else None
        if self.model.state != "Proposed" or proposal is None:
            wanted = "QueryNotProposed"
        elif user not in proposal.approvers:
            wanted = "NotProposalApprover"
        elif wrong:
            wanted = WRONG_CODES[wrong]
        else:
            wanted = "BallotAlreadySubmitted" if earlier not in (None, ballot) else ""
        message = DecisionMessage(decision=sign(decision, signer.key()))
        repeated = earlier is not None and wanted == ""
        handler = PublishQuery.approve_and_wait if verdict == "approve" else PublishQuery.reject_and_wait
        code = self.command(verdict, who, handler, message, "update" if repeated else via)
        self.expect(code, wanted)
        if code == "":
            assert wrong == ""
            fresh = proposal is not None and proposal.id == state.proposal_id and self.model.ballot_error(user) == ""
            if fresh and self.model.vote(user, ballot):
                self.read_accepted_version()

    # ------------------------------------------------------------------ changes directly in governance

    @rule(who=WHO, variant=VARIANT, other=st.booleans(), approvers=APPROVERS, stale=st.sampled_from([False, False, True]), at_once=AT_ONCE)
    def edit_outside(self, who: str, variant: int, other: bool, approvers: tuple[str, ...], stale: bool, at_once: bool) -> None:
        """Any registered user can edit the draft with its current version, even while a proposal is open."""
        data = self.texts[variant].data.replace(":", ": ", 1) if other else self.texts[variant].data
        version = "1.0" if stale else self.model.draft[0]
        rows = [Approver(approver_id=user) for user in sorted(self.ids(approvers))]
        client, labels = self.world.clients[who], self.texts[variant].labels
        work = client.put_document(self.name, self.world.collaboration, data, version=version, labels=labels, approvers=rows)
        found = self.outside(work, self.model.edit_error(version), at_once=at_once)
        if found is not None:
            self.model.draft, self.model.approvers = (found, document_digest(data)), self.ids(approvers)

    @rule(who=WHO, variant=VARIANT, approvers=APPROVERS, current=st.booleans(), at_once=AT_ONCE)
    def propose_outside(self, who: str, variant: int, approvers: tuple[str, ...], current: bool, at_once: bool) -> None:
        """Governance accepts a proposal of any text, whatever the draft is."""
        key, data = uuid.uuid4().hex, self.texts[variant].data
        version = self.model.draft[0] if current else "5.5"
        document = {"contractId": self.world.collaboration, "version": version, "data": data}
        rows = [Approver(approver_id=user) for user in sorted(self.ids(approvers))]
        work = self.world.clients[who].create_proposal(key, self.name, document, rows)
        if self.outside(work, self.model.proposal_error(), at_once=at_once) is not None:
            self.model.proposal = Proposal(key, self.world.users[who], self.ids(approvers), (version, document_digest(data)))

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=OWNER, accept=st.sampled_from([True, True, True, False]), at_once=AT_ONCE)
    def vote_outside(self, who: str, accept: bool, at_once: bool) -> None:
        """A ballot in governance counts without the workflow, which must show it afterwards."""
        assert self.model.proposal is not None
        user = self.world.users[who]
        work = self.world.clients[who].submit_ballot(self.model.proposal.id, accept=accept)
        counted = self.outside(work, self.model.ballot_error(user), at_once=at_once) is not None
        if counted and self.model.vote(user, "accepted" if accept else "rejected"):
            self.read_accepted_version()

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=WHO, at_once=AT_ONCE)
    def withdraw_outside(self, who: str, at_once: bool) -> None:
        """Only the proposer can withdraw the open proposal; the document is then a draft again."""
        assert self.model.proposal is not None
        work = self.world.clients[who].withdraw_proposal(self.model.proposal.id)
        if self.outside(work, self.model.withdrawal_error(self.world.users[who]), at_once=at_once) is not None:
            self.model.proposal = None

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=WHO, enabled=st.booleans())
    def change_consent(self, who: str, enabled: bool) -> None:
        """Each approver of an accepted document enables or disables its execution."""
        user, wanted = self.world.users[who], self.model.consent_error(self.world.users[who])
        self.outside(
            self.world.clients[who].set_document_consent(self.world.collaboration, self.name, enabled=enabled), wanted, at_once=self.at_once
        )
        if wanted == "":
            (self.model.disabled.discard if enabled else self.model.disabled.add)(user)

    @rule(who=WHO, number=st.integers(0, 1), value=st.sampled_from(["", "one", "x" * 25_600, "x" * 25_601]))
    def put_secret(self, who: str, number: int, value: str) -> None:
        """A secret has 1 to 25,600 characters and an ID with its writer's user ID."""
        name = f"{self.name}-{number}"
        wanted = "ValueMissing" if not value else "ValueTooLarge" if len(value) > 25_600 else ""
        work = self.world.clients[who].put_secret(self.world.collaboration, name, Secret(value.encode()))
        found = self.outside(work, wanted, at_once=self.at_once)
        if found is not None:
            assert found == f"{self.world.users[who]}_{name}"
            self.model.secrets.add(found)

    # ------------------------------------------------------------------ invariants

    @invariant()
    def governance_equals_the_model(self) -> None:
        """State, text, approvers, ballots, consent and secrets in governance are those of the model."""
        if not hasattr(self, "model"):
            return
        world, model = self.world, self.model

        async def read(reader: GovernanceUserClient) -> tuple[Any, Any, Any, Any]:
            document = await reader.get_document(self.name)
            status = await reader.proposal_status(document.proposal_id) if document.proposal_id else None
            consent = await reader.document_consent(world.collaboration, self.name)
            return document, status, consent, await reader.list_secrets(world.collaboration)

        document, status, consent, secrets = world.run(world.observe(read))
        proposal = model.proposal
        approvers = proposal.approvers if proposal else model.approvers
        assert (document.state, document.version, document_digest(str(document.data))) == (model.state, *model.text)
        assert {item.approver_id for item in document.approvers or ()} == approvers
        assert (document.proposal_id, document.proposer_id) == ((proposal.id, proposal.proposer) if proposal else ("", ""))
        if proposal is not None:
            assert {item.approver_id: item.ballot for item in status.ballots} == proposal.ballots
        assert consent.status == ("enabled" if model.accepted_version and not model.disabled else "disabled")
        assert {found for found in secrets if self.name in found} == model.secrets

    @invariant()
    def workflow_shows_the_state_in_governance(self) -> None:
        """The workflow shows "Approved" only for an accepted document, and the model's state within one poll interval."""
        if not hasattr(self, "model"):
            return
        state = self.seen()
        # Acceptance is final, so it is safe to compare with the model after the workflow was read.
        assert state.stage != "Approved" or self.model.state == "Accepted"
        assert all(item.code and item.message for item in state.refused)
        if self.closed:
            assert state.stage == "Withdrawn"
            return
        self.converged = False
        if self.at_once:
            self.at_once = False
            return
        model, proposal = self.model, self.model.proposal
        wanted: dict[str, Any] = {"stage": {"Accepted": "Approved"}.get(model.state, model.state), "digest": model.text[1]}
        if model.state != "Accepted":
            wanted["version"] = model.text[0]
        wanted["proposal_id"] = proposal.id if proposal else ""
        if proposal is not None:
            by = {
                ballot: self.names(user for user, cast in proposal.ballots.items() if cast == ballot) for ballot in ("accepted", "rejected")
            }
            wanted |= by | {"pending": self.names(proposal.approvers - set(proposal.ballots))}
        self.until(lambda state: all(getattr(state, key) == value for key, value in wanted.items()))
        self.converged = True


@pytest.mark.timeout(300)
def test_workflow_and_governance_follow_the_model(machine_world: World) -> None:
    Governance.world = machine_world
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    budget = settings(
        max_examples=20,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(Governance, settings=budget)
