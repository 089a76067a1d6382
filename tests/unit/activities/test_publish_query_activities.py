"""What an author's and an owner's worker check against governance before they write, propose, withdraw or vote for a query."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import Conflict, Unavailable
from cleanroom.governance import Approver
from cleanroom.identifiers import decision_document_id, document_digest
from cleanroom.messages.query import (
    AuthorisedCommand,
    BallotRecorded,
    DraftRequest,
    DraftStored,
    GenerateQueryRequest,
    ProposeQueryRequest,
    QueryProposed,
    VoteRequest,
    WithdrawRequest,
)
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.decisions import DECISION_LABELS
from cleanroom.statements import Decision, sign
from tests.refusals import refused
from tests.unit.activities.governance import COLLABORATION, Caller, Governance
from tests.unit.activities.owners import NOW, Owner, query_spec
from tests.unit.activities.publishing import publish_datasets

OWNERS = ("u-contosso", "u-litware")


class Author(Owner):
    """Fabrikam's worker."""

    async def draft(self, spec: Any = None, token: str | None = None, **changes: Any) -> DraftRequest:
        spec = spec or query_spec()
        request = GenerateQueryRequest(collaboration=COLLABORATION, spec=spec, proposer_id=changes.pop("proposer", self.user))
        draft = await generate_query(self.reader, request)
        token = token or self.sign("create-query", "totals", spec.digest())
        return DraftRequest(command=self.command(token, spec), draft=draft.model_copy(update=changes))

    def command(self, token: str, spec: Any = None) -> AuthorisedCommand:
        return AuthorisedCommand(party=self.name, collaboration=COLLABORATION, query="totals", authorisation=token, spec=spec)

    async def signed(self, action: str, **claims: str) -> str:
        """An authorisation for what governance holds."""
        held = await self.documents.get("totals")
        return self.sign(action, "totals", document_digest(str(held.data)), **({"version": str(held.version)} | claims))

    async def propose(self, token: str | None = None, owners: tuple[str, ...] = OWNERS) -> QueryProposed:
        command = self.command(token or await self.signed("propose-query"))
        return await self.worker.propose_query(ProposeQueryRequest(command=command, owners=owners))

    async def withdraw(self, token: str, proposal_id: str, *, expired: bool = False) -> None:
        await self.worker.withdraw_proposal(WithdrawRequest(command=self.command(token), proposal_id=proposal_id, expired=expired))

    async def state(self) -> str:
        return (await self.documents.get("totals")).state


async def make_author(folder: Path, mode: Any = "app") -> Author:
    author = Author(Governance(), folder, "fabrikam", mode=mode)
    await publish_datasets(author.governance)
    return author


@pytest.fixture
async def author(tmp_path: Path) -> Author:
    """An author who has created the draft."""
    author = await make_author(tmp_path)
    await author.worker.create_document(await author.draft())
    author.client.writes.clear()
    return author


@pytest.fixture
async def through_proxy(tmp_path: Path) -> Author:
    """The same, whose worker calls governance through cgs-client, which chooses the IDs of proposals."""
    author = await make_author(tmp_path, "cgs-client")
    await author.worker.create_document(await author.draft())
    return author


# ---------------------------------------------------------------------- drafts


async def test_a_draft_is_created_with_text_labels_and_approvers(tmp_path: Path) -> None:
    author = await make_author(tmp_path)
    request = await author.draft()
    stored = await author.worker.create_document(request)
    held = await author.documents.get("totals")
    assert stored == DraftStored(version=str(held.version), digest=request.draft.digest)
    assert (held.state, held.data, dict(held.labels or {})) == ("Draft", request.draft.data, request.draft.labels)
    assert tuple(item.approver_id for item in held.approvers or ()) == OWNERS
    assert await author.worker.create_document(request) == stored


async def test_a_draft_that_its_author_did_not_sign_is_refused(tmp_path: Path) -> None:
    author = await make_author(tmp_path)
    for request, code in (
        (await author.draft(token=author.sign("create-query", "totals", query_spec(11).digest())), "OrderMismatch"),
        (await author.draft(token=author.sign("update-query", "totals", query_spec().digest(), version="2.1")), "OrderMismatch"),
        (await author.draft(proposer="u-mallory"), "DraftMismatch"),
        (await author.draft(digest="0" * 64), "OrderMismatch"),
        (await author.draft(document_id="other"), "OrderMismatch"),
        (await author.draft(data=(await author.draft(query_spec(11))).draft.data), "DraftMismatch"),
    ):
        assert await refused(author.worker.create_document(request)) == code
    without = await author.draft()
    without = without.model_copy(update={"command": without.command.model_copy(update={"spec": None})})
    assert await refused(author.worker.create_document(without)) == "OrderMismatch"
    assert author.client.writes == []


async def test_an_existing_draft_of_another_text_is_not_replaced_by_a_creation(author: Author) -> None:
    assert await refused(author.worker.create_document(await author.draft(query_spec(11)))) == "DocumentDiffers"


async def test_an_update_replaces_the_version_that_was_signed_and_no_other(author: Author) -> None:
    old = str((await author.documents.get("totals")).version)
    spec = query_spec(11)
    token = author.sign("update-query", "totals", spec.digest(), version=old)
    request = await author.draft(spec, token)
    stored = await author.worker.update_document(request)
    assert stored.digest == request.draft.digest
    assert (await author.documents.get("totals")).version == stored.version
    assert await refused(author.worker.update_document(await author.draft(query_spec(12), token))) == "OrderMismatch"
    late = author.sign("update-query", "totals", query_spec(12).digest(), version=old)
    assert await refused(author.worker.update_document(await author.draft(query_spec(12), late))) == "PreconditionFailed"
    create = await author.draft(spec)
    assert await refused(author.worker.update_document(create)) == "OrderMismatch"
    forged = await author.draft(spec, token, data=(await author.draft(query_spec(12))).draft.data)
    assert await refused(author.worker.update_document(forged)) == "DraftMismatch"


async def test_closing_a_draft_needs_the_signature_on_the_draft_that_governance_holds(author: Author) -> None:
    confirm = author.worker.confirm_withdrawal
    token = await author.signed("withdraw-query")
    await confirm(author.command(token))
    assert await refused(confirm(author.command(await author.signed("propose-query")))) == "OrderMismatch"
    assert await refused(confirm(author.command(await author.signed("withdraw-query", version="2.999")))) == "DraftChanged"
    held = await author.documents.get("totals")
    other = author.sign("withdraw-query", "totals", "0" * 64, version=str(held.version))
    assert await refused(confirm(author.command(other))) == "DraftChanged"
    await author.propose()
    assert await refused(confirm(author.command(token))) == "DraftChanged"


# ---------------------------------------------------------------------- proposals


async def test_a_draft_is_proposed_as_signed_to_the_derived_owners_and_a_retry_finds_it(author: Author) -> None:
    held, token = await author.documents.get("totals"), await author.signed("propose-query")
    made = await author.propose(token)
    assert (made.version, made.digest) == (held.version, document_digest(str(held.data)))
    now = await author.documents.get("totals")
    assert (now.state, now.proposal_id, now.proposer_id) == ("Proposed", made.proposal_id, author.user)
    assert await author.propose(token) == made
    assert author.client.writes.count("create_proposal") == 1


@pytest.mark.parametrize("owners", [("u-contosso",), ("u-contosso", "u-litware", "u-mallory"), ("u-contosso", "u-mallory")])
async def test_a_draft_of_other_approvers_than_the_derived_ones_is_not_proposed(author: Author, owners: tuple[str, ...]) -> None:
    assert await refused(author.propose(owners=owners)) == "DraftChanged"
    assert author.client.writes == []


async def test_the_order_of_the_approvers_does_not_matter(author: Author) -> None:
    assert (await author.propose(owners=OWNERS[::-1])).proposal_id


async def test_another_version_or_text_than_the_signed_one_is_not_proposed(author: Author) -> None:
    held = await author.documents.get("totals")
    for token in (
        await author.signed("propose-query", version="2.999"),
        author.sign("propose-query", "totals", "0" * 64, version=str(held.version)),
        await author.signed("withdraw-query"),
    ):
        assert await refused(author.propose(token)) in ("DraftChanged", "OrderMismatch")
    assert author.client.writes == []


async def foreign_proposal(author: Author, by: str, **changes: Any) -> str:
    """Another user proposes something under the query's name."""
    held = await author.documents.get("totals")
    snapshot = {"contractId": COLLABORATION, "version": held.version, "data": held.data, "labels": held.labels} | changes
    client = Caller(author.governance, by)
    approvers = tuple(Approver(approver_id=user) for user in OWNERS)
    return await client.create_proposal("f" * 32, "totals", snapshot, approvers)


async def test_a_proposal_of_another_user_is_not_taken_over(author: Author) -> None:
    token = await author.signed("propose-query")
    await foreign_proposal(author, "u-mallory")
    assert await refused(author.propose(token)) == "ProposedByAnother"


@pytest.mark.parametrize("changes", [{}, {"data": "other"}, {"version": "2.999"}])
async def test_a_proposal_that_this_authorisation_did_not_make_is_not_reported(author: Author, changes: dict[str, str]) -> None:
    token = await author.signed("propose-query")
    await foreign_proposal(author, author.user, **changes)
    assert await refused(author.propose(token)) == "DraftChanged"


@pytest.mark.parametrize("changes", [{"data": "other"}, {"version": "2.999"}])
async def test_through_the_proxy_a_proposal_is_recognised_by_its_text_and_version(through_proxy: Author, changes: dict[str, str]) -> None:
    token = await through_proxy.signed("propose-query")
    proposal = await foreign_proposal(through_proxy, through_proxy.user)
    assert (await through_proxy.propose(token)).proposal_id == proposal
    through_proxy.governance.proposals[proposal].content.args["document"].update(changes)
    assert await refused(through_proxy.propose(token)) == "DraftChanged"


async def test_a_proposal_with_other_approvers_than_the_derived_ones_is_not_reported(author: Author) -> None:
    token = await author.signed("propose-query")
    made = await author.propose(token)
    proposal = author.governance.proposals[made.proposal_id]
    proposal.content = proposal.content.model_copy(update={"approvers": (Approver(approver_id="u-contosso"),)})
    assert await refused(author.propose(token)) == "DraftChanged"


@pytest.mark.parametrize("mode", ["app", "cgs-client"])
async def test_an_authorisation_proposes_once(tmp_path: Path, mode: Any) -> None:
    author = await make_author(tmp_path, mode)
    await author.worker.create_document(await author.draft())
    token = await author.signed("propose-query")
    made = await author.propose(token)
    await author.client.withdraw_proposal(made.proposal_id)
    author.client.writes.clear()
    assert await refused(author.propose(token)) == "AuthorisationUsed"
    assert (author.client.writes, await author.state()) == ([], "Draft")
    assert (await author.propose()).proposal_id != made.proposal_id


async def test_the_use_of_an_authorisation_is_recorded_before_the_proxy_proposes(
    through_proxy: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a lost answer would let the same authorisation propose twice."""
    token = await through_proxy.signed("propose-query")

    async def lost(*arguments: object, **options: object) -> str:
        raise Unavailable("GovernanceUnreachable", "on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(through_proxy.client, "create_proposal", lost)
        assert await refused(through_proxy.propose(token)) == "GovernanceUnreachable"
    records = [item for name, item in through_proxy.governance.drafts.items() if name.startswith("used-authorisation.")]
    assert [(item.labels, item.data) for item in records] == [({"type": "used-authorisation"}, "propose-query")]
    assert [approver.approver_id for approver in records[0].approvers or ()] == [through_proxy.user]
    assert await refused(through_proxy.propose(token)) == "AuthorisationUsed"


async def test_a_refused_authorisation_is_not_recorded_as_used(through_proxy: Author) -> None:
    token = await through_proxy.signed("propose-query", version="2.999")
    assert await refused(through_proxy.propose(token)) == "DraftChanged"
    assert not any(name.startswith("used-authorisation.") for name in through_proxy.governance.drafts)


async def test_a_draft_without_approvers_is_not_proposed(author: Author) -> None:
    held = author.governance.drafts["totals"]
    author.governance.drafts["totals"] = held.model_copy(update={"approvers": None})
    assert await refused(author.propose()) == "DraftChanged"


async def test_a_direct_worker_makes_no_record(author: Author) -> None:
    await author.propose()
    assert not any(name.startswith("used-authorisation.") for name in author.governance.drafts)


async def test_a_draft_that_changes_while_it_is_proposed_stays_a_draft(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await author.signed("propose-query")
    for code, expected in (("UserDocumentModified", "DraftChanged"), ("UserDocumentAlreadyProposed", "UserDocumentAlreadyProposed")):

        async def fails(*arguments: object, code: str = code, **options: object) -> str:
            raise Conflict(code, "on purpose")

        monkeypatch.setattr(author.client, "propose_text", fails)
        assert await refused(author.propose(token)) == expected


async def test_a_proposal_whose_answer_was_lost_is_reported(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await author.signed("propose-query")
    genuine = author.client.propose_text

    async def twice(*arguments: Any, **options: Any) -> str:
        await genuine(*arguments, **options)
        raise Conflict("ProposalAlreadyExists", "on purpose")

    monkeypatch.setattr(author.client, "propose_text", twice)
    assert (await author.propose(token)).proposal_id == (await author.documents.get("totals")).proposal_id


# ---------------------------------------------------------------------- withdrawal


async def test_the_author_withdraws_the_proposal_that_was_signed_for(author: Author) -> None:
    made = await author.propose()
    for token in (
        await author.signed("withdraw-query", proposal_id="p-other"),
        await author.signed("withdraw-query"),
        await author.signed("propose-query"),
        author.sign("withdraw-query", "other", "0" * 64, version="2.1", proposal_id=made.proposal_id),
    ):
        assert await refused(author.withdraw(token, made.proposal_id)) == "OrderMismatch"
    assert await author.state() == "Proposed"
    token = await author.signed("withdraw-query", proposal_id=made.proposal_id)
    await author.withdraw(token, made.proposal_id)
    assert await author.state() == "Draft"
    writes = len(author.client.writes)
    await author.withdraw(token, made.proposal_id)  # Temporal retries the activity.
    assert len(author.client.writes) == writes


async def test_a_proposal_of_another_query_is_not_withdrawn(author: Author) -> None:
    client: Any = author.client
    await client.create_proposal("e" * 32, "other", {"contractId": COLLABORATION, "version": "2.1", "data": "x"}, ())
    token = await author.signed("withdraw-query", proposal_id="e" * 32)
    assert await refused(author.withdraw(token, "e" * 32)) == "OrderMismatch"
    assert author.governance.proposals["e" * 32].state == "Open"


async def test_an_accepted_proposal_is_not_withdrawn_and_a_rejected_one_stays(author: Author) -> None:
    made = await author.propose()
    token = await author.signed("withdraw-query", proposal_id=made.proposal_id)
    author.governance.proposals[made.proposal_id].state = "Accepted"
    assert await refused(author.withdraw(token, made.proposal_id)) == "ProposalNotOpen"
    author.governance.proposals[made.proposal_id].state = "Rejected"
    await author.withdraw(token, made.proposal_id)
    assert author.governance.proposals[made.proposal_id].state == "Rejected"


@pytest.mark.parametrize("mode", ["app", "cgs-client"])
async def test_at_its_deadline_a_proposal_is_withdrawn_with_the_authorisation_that_made_it(tmp_path: Path, mode: Any) -> None:
    author = await make_author(tmp_path, mode)
    await author.worker.create_document(await author.draft())
    token, other = await author.signed("propose-query"), await author.signed("propose-query")
    made = await author.propose(token)
    assert await refused(author.withdraw(token, made.proposal_id)) == "OrderMismatch"
    author.now += dt.timedelta(days=30)
    if mode == "app":
        assert await refused(author.withdraw(other, made.proposal_id, expired=True)) == "OrderMismatch"
    close = author.sign("withdraw-query", "totals", made.digest, version=made.version)
    assert await refused(author.withdraw(close, made.proposal_id, expired=True)) == "OrderMismatch"
    create = author.sign("create-query", "totals", made.digest)
    assert await refused(author.withdraw(create, made.proposal_id, expired=True)) == "OrderMismatch"
    await author.withdraw(token, made.proposal_id, expired=True)
    assert await author.state() == "Draft"


async def test_an_expired_proposal_is_renewed_by_creating_the_same_query_and_proposing_it_again(author: Author) -> None:
    token = await author.signed("propose-query")
    first = await author.propose(token)
    await author.withdraw(token, first.proposal_id, expired=True)
    stored = await author.worker.create_document(await author.draft())
    assert stored.version == first.version
    second = await author.propose()
    assert (second.version, second.digest, second.proposal_id != first.proposal_id) == (first.version, first.digest, True)
    assert await author.state() == "Proposed"
    assert await refused(author.propose(token)) in ("AuthorisationUsed", "DraftChanged")


async def test_an_expired_authorisation_to_withdraw_is_refused_before_the_deadline(author: Author) -> None:
    made = await author.propose()
    token = await author.signed("withdraw-query", proposal_id=made.proposal_id)
    author.now += dt.timedelta(days=30)
    assert await refused(author.withdraw(token, made.proposal_id)) == "StatementExpired"
    await author.withdraw(token, made.proposal_id, expired=True)


# ---------------------------------------------------------------------- votes


class Voter:
    """Contosso's worker, a proposal of the query, and Contosso's signed decision on it."""

    def __init__(self, author: Author, folder: Path, made: QueryProposed) -> None:
        self.owner, self.made = Owner(author.governance, folder, "contosso"), made
        self.document = decision_document_id(made.proposal_id, self.owner.user)

    def token(self, decision: str = "approve", **claims: Any) -> str:
        values = {
            "collaboration": COLLABORATION, "signer": self.owner.user, "expires": NOW + dt.timedelta(hours=1), "query": "totals",
            "version": self.made.version, "proposal_id": self.made.proposal_id, "digest": self.made.digest, "decision": decision,
        }  # fmt: skip
        return sign(Decision.model_validate(values | claims), self.owner.key)

    async def vote(self, verb: str = "accept", token: str | None = None, **changes: str) -> BallotRecorded:
        values = {"version": self.made.version, "proposal_id": self.made.proposal_id, "digest": self.made.digest} | changes
        decision = "approve" if verb == "accept" else "reject"
        request = VoteRequest(collaboration=COLLABORATION, query="totals", token=token or self.token(decision, **changes), **values)
        return await getattr(self.owner.worker, f"{verb}_query")(request)  # type: ignore[no-any-return]

    @property
    def silent(self) -> bool:
        """Whether nothing was published and no vote was cast."""
        return self.owner.client.writes == []


@pytest.fixture
async def voter(author: Author, tmp_path: Path) -> Voter:
    return Voter(author, tmp_path, await author.propose())


@pytest.mark.parametrize(("verb", "state", "ballot"), [("accept", "Open", "accepted"), ("reject", "Rejected", "rejected")])
async def test_a_vote_is_cast_after_its_signed_decision_is_public(voter: Voter, verb: str, state: str, ballot: str) -> None:
    found = await voter.vote(verb)
    assert (found.proposal_state, found.ballots) == (state, {"u-contosso": ballot})
    assert voter.owner.client.writes == ["put_document", "create_proposal", "submit_ballot", "submit_ballot"]
    published = voter.owner.governance.accepted[voter.document]
    assert (published.proposer_id, dict(published.labels or {})) == ("u-contosso", DECISION_LABELS)
    assert await refused(voter.vote("reject" if verb == "accept" else "accept")) == "DocumentDiffers"


async def test_a_repeated_vote_is_the_same_vote(voter: Voter) -> None:
    token = voter.token()
    first = await voter.vote(token=token)
    assert await voter.vote(token=token) == first


async def test_a_vote_that_its_owner_did_not_sign_is_not_cast(voter: Voter) -> None:
    assert await refused(voter.vote("reject", voter.token("approve"))) == "DecisionMismatch"
    assert await refused(voter.vote("accept", voter.token("reject"))) == "DecisionMismatch"
    assert await refused(voter.vote("accept", voter.token(proposal_id="p-other"))) == "DecisionMismatch"
    voter.owner.now += dt.timedelta(hours=2)
    assert await refused(voter.vote()) == "StatementExpired"
    assert voter.silent


@pytest.mark.parametrize(
    ("changes", "code"), [({"digest": "0" * 64}, "ProposalDiffers"), ({"version": "2.999"}, "DecisionVersionMismatch")]
)
async def test_a_proposal_of_another_text_or_version_than_the_decision_gets_no_vote(
    voter: Voter, changes: dict[str, str], code: str
) -> None:
    assert await refused(voter.vote(**changes)) == code
    assert voter.silent


async def test_a_proposal_of_another_document_gets_no_vote(voter: Voter) -> None:
    content = voter.owner.governance.proposals[voter.made.proposal_id].content
    content.args["documentId"] = "other"
    assert await refused(voter.vote()) == "ProposalDiffers"
    content.args["documentId"] = "totals"
    del content.args["document"]
    assert await refused(voter.vote()) == "ProposalDiffers"
    assert voter.silent
