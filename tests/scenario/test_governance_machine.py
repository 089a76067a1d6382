"""Random people act on one query, through its workflow and behind its back, against a small model of spec/governance.md 4 to 7.

One Temporal dev server, one CGS stand-in, the frontend's and three collaborators' real activities with their own tokens; no cloud. The
same sections without any workflow, with more examples: ``tests/conformance/governance/test_model.py``.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from activities.authorisations import AuthorisationVerifier
from activities.collaborator import CollaboratorGovernance
from activities.frontend import Frontend
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import Approver, GovernanceUserClient
from cleanroom.identifiers import (
    FRONTEND_QUEUE,
    approver_key_document_id,
    collaborator_queue,
    document_digest,
    query_workflow_id,
    user_secret_name,
)
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.messages.query import (
    AuthorMessage,
    Collaborator,
    DecisionMessage,
    GenerateQueryRequest,
    PublishQueryInput,
    QueryDraft,
    QueryState,
)
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.query_document import generate_query
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.secret import Secret
from cleanroom.settings import Settings
from cleanroom.statements import Decision, KeyDocument, sign
from cleanroom.statements.keys import KEY_LABELS
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.workers import WorkerSpec, create_worker
from starters.operations.session import Session, now
from tests.conformance.governance.standin import StandIn
from tests.conformance.governance.target import Person, Target
from tests.servers import fixed_id
from tests.temporal_env import TEST_KEYRING, client_with, temporal_env, unique
from workflows.publish_query import PublishQuery

__all__ = ["temporal_env"]

pytestmark = pytest.mark.scenario

T = TypeVar("T")
Text = tuple[str, str]
"""Version and digest."""

AUTHOR, OWNERS = "fabrikam", ("contosso", "litware")
PEOPLE = (AUTHOR, *OWNERS)
RECONCILE = 1
SLACK = 6.0
"""Seconds on top of one reconcile interval: two cores, shared with other tests."""


# ---------------------------------------------------------------------- the world


class World:
    """The stand-in, the workers and the people; everything asynchronous runs on one loop in a thread of its own."""

    def __init__(self, target: Target, folder: Path, env: WorkflowEnvironment) -> None:
        self.target, self.collaboration = target, target.accepted_contract(target.policy())
        self.users = {name: fixed_id("machine", name) for name in (*PEOPLE, "frontend")}
        for user in self.users.values():
            target.govern("set_user_identity", {"id": user, "accountType": "microsoft", "data": {"tenantId": target.settings.tenant}})
        self._folder, self._env = folder, env
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="governance-machine", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.clients: dict[str, GovernanceUserClient] = {}
        self.sessions: dict[str, Session] = {}
        self.temporal: Client
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """The result of ``work`` on the world's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _client(self, name: str) -> GovernanceUserClient:
        person, verify = Person(self.users[name], self.target.settings.tenant), self._folder / "tls"
        ca = verify / "ca.pem"
        return GovernanceUserClient(self.target.settings.url, token=lambda: self.target.token(person), ca_file=ca)

    def documents(self, name: str) -> UserDocuments:
        return UserDocuments(self.clients[name], self.collaboration)

    async def _start(self) -> None:
        for name in self.users:
            self.clients[name] = await self._stack.enter_async_context(self._client(name))
        own = {name: user for name, user in self.users.items() if name in PEOPLE}
        for name in PEOPLE:
            values = Settings(
                profile=name, collaboration=self.collaboration, party=name, parties=own, keys_dir=self._folder / "keys" / name
            )
            self.sessions[name] = Session(values)
            key = KeyDocument(user_id=own[name], keys=(self.sessions[name].key().public,))
            await self.documents(name).publish_own(approver_key_document_id(own[name]), key.to_data(), KEY_LABELS, own[name])
        await self._publish("contosso", "machine-flights", "read")
        await self._publish("litware", "machine-output", "write")
        self.temporal = await client_with(self._env, TEST_KEYRING, accept_unbound=True)
        for worker in (self._frontend(), *(self._collaborator(name) for name in PEOPLE)):
            await self._stack.enter_async_context(create_worker(self.temporal, worker))

    async def _publish(self, owner: str, name: str, access: Literal["read", "write"]) -> None:
        spec = DatasetSpec.model_validate(
            {
                "name": name,
                "format": "parquet",
                "access": access,
                "schema": {"origin": "string", "flights": "long"},
                "store": {"kind": "aws-s3", "bucket": owner, "connectionSecret": "secret:s3"},
            }
        )
        user = self.users[owner]
        secrets = [StoredSecret(kind=kind, secret_id=f"{user}_{user_secret_name(name, kind)}") for kind in ("connection", "key")]
        request = DescriptorRequest(
            collaboration=self.collaboration,
            owner_id=user,
            spec=spec,
            store_url="https://s3.us-east-1.amazonaws.com",
            region="us-east-1",
            secrets=tuple(secrets),
        )
        made = generate_descriptor(request)
        await self.documents(owner).publish_own(name, made.data, made.labels, user)

    def reader(self) -> UserReader:
        return UserReader(self.clients["frontend"], self.collaboration)

    def _frontend(self) -> WorkerSpec:
        frontend = Frontend(self.documents("frontend"), self.reader(), self.collaboration)
        activities = (
            frontend.generate_query_document,
            frontend.determine_dataset_owners,
            frontend.verify_decision,
            frontend.await_query_change,
        )
        return WorkerSpec(name="frontend", task_queue=FRONTEND_QUEUE, workflows=(PublishQuery,), activities=activities)

    def _collaborator(self, name: str) -> WorkerSpec:
        own = self.sessions[name].settings
        governance = CollaboratorGovernance(own, AuthorisationVerifier(own), self.documents(name), KeyStore(own.keys_dir))
        activities = (
            governance.create_document,
            governance.update_document,
            governance.confirm_withdrawal,
            governance.propose_query,
            governance.withdraw_proposal,
            governance.accept_query,
            governance.reject_query,
        )
        return WorkerSpec(name=f"collaborator.{name}", task_queue=collaborator_queue(name), activities=activities)


@pytest.fixture(scope="module")
def machine_world(tmp_path_factory: pytest.TempPathFactory, temporal_env: WorkflowEnvironment) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("governance-machine")
    with StandIn(folder).serve(slow_history=False) as found:
        target = Target(found)
        world = World(target, folder, temporal_env)
        try:
            yield world
        finally:
            world.close()
            target.close()


# ---------------------------------------------------------------------- the model


@dataclass
class Proposal:
    """Section 5, one proposal."""

    id: str
    proposer: str
    approvers: frozenset[str]
    text: Text
    ballots: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """Sections 4 to 7 for one document: its draft, the open or accepted proposal, who withdrew consent, secrets."""

    draft: Text
    approvers: frozenset[str]
    proposal: Proposal | None = None
    accepted_version: str = ""
    disabled: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        return "Accepted" if self.accepted_version else "Proposed" if self.proposal else "Draft"

    @property
    def text(self) -> Text:
        if self.proposal is None:
            return self.draft
        return (self.accepted_version or self.proposal.text[0], self.proposal.text[1])

    def refuses_edit(self, version: str) -> str:
        return "UserDocumentAlreadyAccepted" if self.accepted_version else "PreconditionFailed" if version != self.draft[0] else ""

    def refuses_proposal(self) -> str:
        return {"Accepted": "UserDocumentAlreadyAccepted", "Proposed": "UserDocumentAlreadyProposed"}.get(self.state, "")

    def refuses_ballot(self, who: str) -> str:
        assert self.proposal is not None
        if who not in self.proposal.approvers:
            return "NotProposalApprover"
        return "ProposalNotOpen" if self.accepted_version else "BallotAlreadySubmitted" if who in self.proposal.ballots else ""

    def refuses_withdrawal(self, who: str) -> str:
        assert self.proposal is not None
        return "NotProposalOwner" if who != self.proposal.proposer else "ProposalNotOpen" if self.accepted_version else ""

    def refuses_consent(self, who: str) -> str:
        if not self.accepted_version or self.proposal is None:
            return "UserDocumentNotAccepted"
        return "" if who in self.proposal.approvers else "NotUserDocumentApprover"

    def vote(self, who: str, ballot: str) -> bool:
        """Record a ballot; True when it was the one that accepts (its version is the transaction's, so only CGS knows it)."""
        assert self.proposal is not None
        self.proposal.ballots[who] = ballot
        if ballot == "rejected":
            self.proposal = None
            return False
        return set(self.proposal.ballots) == self.proposal.approvers


# ---------------------------------------------------------------------- the machine

WHO = st.sampled_from(PEOPLE)
OWNER = st.sampled_from([*OWNERS, *OWNERS, *PEOPLE])
HONEST = st.sampled_from([True, True, True, False])
HURRY = st.booleans()
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
    """One query. ``hurry`` lets the next step come before the workflow can have seen what happened behind its back."""

    world: ClassVar[World]

    @initialize(begin=st.sampled_from(["draft", "proposed", "voted", "voted", "approved"]))
    def create(self, begin: str) -> None:
        world = self.world
        self.name = unique("machine")
        self.specs = [self._spec(number) for number in range(3)]
        self.texts: list[QueryDraft] = [world.run(self._text(spec)) for spec in self.specs]
        self.handle: WorkflowHandle[PublishQuery, QueryState] = world.run(self._start())
        first = self.until(lambda state: state.stage == "Draft")
        assert first.digest == self.texts[0].digest
        self.model = Model((first.version, first.digest), self.ids(OWNERS))
        self.acknowledged = first.digest
        self.hurry, self.converged, self.closed = False, True, False
        if begin != "draft":
            self.propose(who=AUTHOR, honest=True, via="update")
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
            reconcile_seconds=RECONCILE,
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
            self.world.run(self.handle.terminate("the example is over"))

    # ------------------------------------------------------------------ helpers

    def ids(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset(self.world.users[name] for name in names)

    def names(self, ids: Any) -> tuple[str, ...]:
        known = {user: name for name, user in self.world.users.items()}
        return tuple(sorted(known[user] for user in ids))

    def seen(self) -> QueryState:
        return self.world.run(self.handle.query(PublishQuery.state))

    def until(self, done: Any, seconds: float = RECONCILE + SLACK) -> QueryState:
        """The workflow's state as soon as ``done`` holds."""

        async def look() -> QueryState:
            deadline = asyncio.get_running_loop().time() + seconds
            while not done(state := await self.handle.query(PublishQuery.state)):
                assert asyncio.get_running_loop().time() < deadline, (self.model, state.model_dump(exclude={"card", "spec"}))
                await asyncio.sleep(0.02)  # Temporal has no long poll for the answer of a query.
            return state

        return self.world.run(look())

    def outside(self, work: Coroutine[Any, Any, Any], wanted: str, *, hurry: bool) -> Any:
        """Do something in governance itself; the answer must be the model's."""
        self.hurry = hurry
        code, found = "", None
        try:
            found = self.world.run(work)
        except CleanRoomError as error:
            code = error.code
        assert code == wanted, (code, wanted, self.model)
        return found

    def order(self, who: str, action: str, digest: str, honest: bool) -> str:
        """``who``'s order to their own worker; a dishonest one bears somebody else's signature."""
        session = self.world.sessions[who]
        if honest:
            return session.authorise(action, self.name, digest)
        other = self.world.sessions[PEOPLE[(PEOPLE.index(who) + 1) % 3]]
        stolen = Session(session.settings.model_copy(update={"keys_dir": other.settings.keys_dir}))
        return stolen.authorise(action, self.name, digest)

    def command(self, kind: str, who: str, update: Any, message: Any, via: str) -> str:
        """Send a message to the workflow; the code with which it was refused, or nothing."""
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

    def settle(self, code: str, wanted: str) -> None:
        """Exactly the predicted answer, unless somebody acted a moment ago: then both answers are possible."""
        if self.converged:
            assert code == wanted, (code, wanted, self.model)

    def accepted_now(self) -> None:
        """The last ballot accepted it: its version is that transaction's."""
        document = self.world.run(self.world.clients["frontend"].get_document(self.name))
        assert document.state == "Accepted"
        assert document.version not in ("", self.model.text[0])
        self.model.accepted_version = str(document.version)

    # ------------------------------------------------------------------ through the workflow

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, variant=VARIANT, honest=HONEST, via=VIA)
    def revise(self, who: str, variant: int, honest: bool, via: str) -> None:
        spec, text = self.specs[variant], self.texts[variant]
        message = AuthorMessage(party=who, authorisation=self.order(who, "update-query", spec.digest(), honest), spec=spec)
        code = self.command("update", who, PublishQuery.update_and_wait, message, via)
        self.settle(code, "QueryNotDraft" if self.model.state != "Draft" else "" if honest else "ApproverKeyUnknown")
        if code == "":
            assert honest
            self.acknowledged = text.digest
            version = next(entry.detail for entry in reversed(self.seen().history) if entry.event == "updated").removeprefix("version ")
            if version not in (self.model.draft[0], self.model.text[0]):
                self.model.draft, self.model.approvers = (version, text.digest), self.ids(OWNERS)

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, honest=HONEST, via=VIA)
    def propose(self, who: str, honest: bool, via: str) -> None:
        digest = document_digest(self.name)
        message = AuthorMessage(party=who, authorisation=self.order(who, "propose-query", digest, honest))
        known = self.acknowledged
        code = self.command("propose", who, PublishQuery.propose_and_wait, message, via)
        if self.model.state != "Draft":
            wanted = "QueryNotDraft"
        elif self.model.draft[1] != known:
            wanted = "DraftChanged"
        elif not honest:
            wanted = "ApproverKeyUnknown"
        else:
            wanted = "" if self.model.approvers == self.ids(OWNERS) else "DraftChanged"
        self.settle(code, wanted)
        if code == "DraftChanged":
            self.acknowledged = self.model.text[1]
        if code == "":
            assert honest
            if self.model.state == "Draft":
                assert (self.model.draft[1], self.model.approvers) == (known, self.ids(OWNERS)), "proposed what nobody has looked at"
                found = self.world.run(self.world.clients["frontend"].get_document(self.name))
                self.model.proposal = Proposal(found.proposal_id, self.world.users[who], self.model.approvers, self.model.draft)

    @precondition(lambda self: not self.closed)
    @rule(who=WHO, honest=HONEST, via=VIA, close=st.sampled_from([False, False, False, True]))
    def withdraw(self, who: str, honest: bool, via: str, close: bool) -> None:
        if who == AUTHOR and honest and self.model.state == "Draft" and not close:
            return
        message = AuthorMessage(party=who, authorisation=self.order(who, "withdraw-query", document_digest(self.name), honest))
        code = self.command("withdraw", who, PublishQuery.withdraw_and_wait, message, via)
        if self.model.state == "Accepted":
            wanted = "QueryNotOpen"
        elif self.model.state == "Draft":
            wanted = "NotProposalOwner" if who != AUTHOR else "" if honest else "ApproverKeyUnknown"
        else:
            wanted = self.model.refuses_withdrawal(self.world.users[who]) if honest else "ApproverKeyUnknown"
        self.settle(code, wanted)
        if code == "":
            assert honest
            self.closed = self.seen().stage == "Withdrawn"
            proposal = self.model.proposal
            if not self.closed and proposal is not None and proposal.proposer == self.world.users[who] and not self.model.accepted_version:
                status = self.world.run(self.world.clients["frontend"].proposal_status(proposal.id))
                assert self.converged <= (status.state == "Withdrawn")
                self.model.proposal = None if status.state == "Withdrawn" else proposal

    @precondition(lambda self: not self.closed and self.model.proposal is not None)
    @rule(who=OWNER, verdict=st.sampled_from(["approve", "approve", "approve", "reject"]), wrong=WRONG, via=VIA)
    def decide(self, who: str, verdict: Literal["approve", "reject"], wrong: str, via: str) -> None:
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
        self.settle(code, wanted)
        if code == "":
            assert wrong == ""
            fresh = proposal is not None and proposal.id == state.proposal_id and self.model.refuses_ballot(user) == ""
            if fresh and self.model.vote(user, ballot):
                self.accepted_now()

    # ------------------------------------------------------------------ behind its back

    @rule(who=WHO, variant=VARIANT, other=st.booleans(), approvers=APPROVERS, stale=st.sampled_from([False, False, True]), hurry=HURRY)
    def edit(self, who: str, variant: int, other: bool, approvers: tuple[str, ...], stale: bool, hurry: bool) -> None:
        """Anybody authorised may edit a draft, also while a proposal on it is open (4.1)."""
        data = self.texts[variant].data.replace(":", ": ", 1) if other else self.texts[variant].data
        version = "1.0" if stale else self.model.draft[0]
        rows = [Approver(approver_id=user) for user in sorted(self.ids(approvers))]
        client, labels = self.world.clients[who], self.texts[variant].labels
        work = client.put_document(self.name, self.world.collaboration, data, version=version, labels=labels, approvers=rows)
        found = self.outside(work, self.model.refuses_edit(version), hurry=hurry)
        if found is not None:
            self.model.draft, self.model.approvers = (found, document_digest(data)), self.ids(approvers)

    @rule(who=WHO, variant=VARIANT, approvers=APPROVERS, current=st.booleans(), hurry=HURRY)
    def propose_outside(self, who: str, variant: int, approvers: tuple[str, ...], current: bool, hurry: bool) -> None:
        """Governance compares a proposal's snapshot with nothing (5.1, trap 5)."""
        key, data = uuid.uuid4().hex, self.texts[variant].data
        version = self.model.draft[0] if current else "5.5"
        document = {"contractId": self.world.collaboration, "version": version, "data": data}
        rows = [Approver(approver_id=user) for user in sorted(self.ids(approvers))]
        work = self.world.clients[who].create_proposal(key, self.name, document, rows)
        if self.outside(work, self.model.refuses_proposal(), hurry=hurry) is not None:
            self.model.proposal = Proposal(key, self.world.users[who], self.ids(approvers), (version, document_digest(data)))

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=OWNER, accept=st.sampled_from([True, True, True, False]), hurry=HURRY)
    def ballot(self, who: str, accept: bool, hurry: bool) -> None:
        assert self.model.proposal is not None
        user = self.world.users[who]
        work = self.world.clients[who].submit_ballot(self.model.proposal.id, accept=accept)
        counted = self.outside(work, self.model.refuses_ballot(user), hurry=hurry) is not None
        if counted and self.model.vote(user, "accepted" if accept else "rejected"):
            self.accepted_now()

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=WHO, hurry=HURRY)
    def withdraw_outside(self, who: str, hurry: bool) -> None:
        assert self.model.proposal is not None
        work = self.world.clients[who].withdraw_proposal(self.model.proposal.id)
        if self.outside(work, self.model.refuses_withdrawal(self.world.users[who]), hurry=hurry) is not None:
            self.model.proposal = None

    @precondition(lambda self: self.model.proposal is not None)
    @rule(who=WHO, enabled=st.booleans())
    def consent(self, who: str, enabled: bool) -> None:
        user, wanted = self.world.users[who], self.model.refuses_consent(self.world.users[who])
        self.outside(
            self.world.clients[who].set_document_consent(self.world.collaboration, self.name, enabled=enabled), wanted, hurry=self.hurry
        )
        if wanted == "":
            (self.model.disabled.discard if enabled else self.model.disabled.add)(user)

    @rule(who=WHO, number=st.integers(0, 1), value=st.sampled_from(["", "one", "x" * 25_600, "x" * 25_601]))
    def secret(self, who: str, number: int, value: str) -> None:
        name = f"{self.name}-{number}"
        wanted = "ValueMissing" if not value else "ValueTooLarge" if len(value) > 25_600 else ""
        work = self.world.clients[who].put_secret(self.world.collaboration, name, Secret(value.encode()))
        found = self.outside(work, wanted, hurry=self.hurry)
        if found is not None:
            assert found == f"{self.world.users[who]}_{name}"
            self.model.secrets.add(found)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def governance_is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        world, model = self.world, self.model

        async def look() -> tuple[Any, Any, Any, Any]:
            reader = world.clients["frontend"]
            document = await reader.get_document(self.name)
            status = await reader.proposal_status(document.proposal_id) if document.proposal_id else None
            consent = await reader.document_consent(world.collaboration, self.name)
            return document, status, consent, await reader.list_secrets(world.collaboration)

        document, status, consent, secrets = world.run(look())
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
    def the_workflow_shows_what_governance_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        state = self.seen()
        # Acceptance is for ever, so reading governance's side from the model after the workflow's is no race.
        assert state.stage != "Approved" or self.model.state == "Accepted"
        assert all(item.code and item.message for item in state.refused)
        if self.closed:
            assert state.stage == "Withdrawn"
            return
        self.converged = False
        if self.hurry:
            self.hurry = False
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
