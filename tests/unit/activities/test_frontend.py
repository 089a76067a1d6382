"""The frontend: clean room details, derived approvers, verified decisions, and the poll that reports a change in governance."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from activities.frontend import Frontend
from cleanroom.errors import NotFound, PreconditionFailed, Unavailable
from cleanroom.governance.models import OidcIssuerInfo
from cleanroom.governance.position import observe
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, TransactionId, federated_subject
from cleanroom.messages.publish import CleanRoomDetailsRequest, DescriptorRequest, StoredSecret
from cleanroom.messages.query import (
    GenerateQueryRequest,
    GovernanceQueryState,
    OwnersRequest,
    QueryChangeRequest,
    QueryDraft,
    VerifyDecisionRequest,
)
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision, sign
from cleanroom.statements.signing import peek
from tests.refusals import refused
from tests.unit.activities.governance import COLLABORATION, HOST, ISSUER, Caller, Governance
from tests.unit.activities.owners import Owner, dataset_spec, query_spec
from tests.unit.activities.publishing import publish_datasets

OWNERS = ("u-contosso", "u-litware")


class World:
    """The frontend, and the users that write what it reads."""

    def __init__(self, folder: Path) -> None:
        self.governance = Governance()
        self.client = Caller(self.governance, "u-frontend")
        client: Any = self.client
        self.frontend = Frontend(UserDocuments(client, COLLABORATION), UserReader(client, COLLABORATION), COLLABORATION)
        self.owner = Owner(self.governance, folder, "contosso")
        self.author = Owner(self.governance, folder, "fabrikam")

    async def draft(self, **changes: Any) -> QueryDraft:
        request = GenerateQueryRequest(collaboration=COLLABORATION, spec=query_spec(), proposer_id="u-fabrikam")
        made = await self.frontend.generate_query_document(request)
        await self.author.documents.put_draft("totals", made.data, made.labels, list(made.owners))
        return made

    async def propose(self) -> str:
        held = await self.author.documents.get("totals")
        return await self.author.documents.propose("totals", str(held.version), "ab" * 16)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    await publish_datasets(found.governance)
    return found


# ---------------------------------------------------------------------- details and documents


async def test_the_clean_room_signs_in_with_governances_issuer_and_the_owners_subject(world: World) -> None:
    request = CleanRoomDetailsRequest(collaboration=COLLABORATION, owner_id="u-contosso")
    found = await world.frontend.get_clean_room_identity(request)
    assert (found.issuer_url, found.audience) == (ISSUER, TOKEN_EXCHANGE_AUDIENCE)
    assert found.subject == federated_subject(COLLABORATION, "u-contosso")
    assert (await world.frontend.get_clean_room_policy(request)).host_data == (HOST,)


@pytest.mark.parametrize("issuer", [{"enabled": False, "issuer_url": ISSUER}, {"enabled": True}, {"enabled": True, "issuer_url": ""}])
async def test_an_issuer_that_is_not_enabled_or_has_no_url_is_named(world: World, issuer: dict[str, Any]) -> None:
    world.governance.issuer = OidcIssuerInfo(**issuer)
    work = world.frontend.get_clean_room_identity(CleanRoomDetailsRequest(collaboration=COLLABORATION, owner_id="u-contosso"))
    with pytest.raises(PreconditionFailed) as caught:
        await work
    assert (caught.value.code, caught.value.party) == ("IssuerUrlNotSet", "operator")


async def test_a_request_for_another_collaboration_is_refused(world: World) -> None:
    details = CleanRoomDetailsRequest(collaboration="other", owner_id="u-contosso")
    frontend = world.frontend
    secrets = tuple(StoredSecret(kind=kind, secret_id=kind) for kind in ("connection", "key"))
    descriptor = {"owner_id": "u", "spec": dataset_spec(), "store_url": "https://s3.example", "region": "r", "secrets": secrets}
    assert (
        await frontend.generate_dataset_descriptor(DescriptorRequest(collaboration=COLLABORATION, **descriptor))
    ).document_id == "orders"
    decision = {"query": "totals", "proposal_id": "p", "version": "2.1", "digest": "0" * 64, "owners": OWNERS, "token": "t"}
    known = GovernanceQueryState(state="Draft")
    for work in (
        frontend.get_clean_room_identity(details),
        frontend.get_clean_room_policy(details),
        frontend.generate_dataset_descriptor(DescriptorRequest(collaboration="other", **descriptor)),
        frontend.generate_query_document(GenerateQueryRequest(collaboration="other", spec=query_spec(), proposer_id="u")),
        frontend.determine_dataset_owners(OwnersRequest(collaboration="other", query="totals")),
        frontend.verify_decision(VerifyDecisionRequest(collaboration="other", **decision)),
        frontend.find_query_change(QueryChangeRequest(collaboration="other", query="totals", known=known)),
    ):
        assert await refused(work) == "CollaborationMismatch"


# ---------------------------------------------------------------------- approvers


async def test_the_approvers_are_the_owners_of_every_input_and_of_the_output(world: World) -> None:
    made = await world.draft()
    found = await world.frontend.determine_dataset_owners(OwnersRequest(collaboration=COLLABORATION, query="totals"))
    held = await world.author.documents.get("totals")
    assert (found.owners, found.version, found.digest) == (OWNERS, held.version, made.digest)


@pytest.mark.parametrize("name", ["orders", "out"])
@pytest.mark.parametrize("member", ["version", "data"])
async def test_a_dataset_of_another_version_or_text_than_the_pinned_one_stops_the_proposal(world: World, name: str, member: str) -> None:
    await world.draft()
    held = world.governance.accepted[name]
    changed = "2.999" if member == "version" else str(held.data).replace('"rows"', '"other-rows"')
    world.governance.accepted[name] = held.model_copy(update={member: changed})
    assert (
        await refused(world.frontend.determine_dataset_owners(OwnersRequest(collaboration=COLLABORATION, query="totals")))
        == "DatasetChanged"
    )


async def test_a_draft_that_pins_no_datasets_is_not_proposed(world: World) -> None:
    await world.draft()
    held = world.governance.drafts["totals"]
    data = json.loads(str(held.data))
    del data["approval"]
    world.governance.drafts["totals"] = held.model_copy(update={"data": json.dumps(data)})
    work = world.frontend.determine_dataset_owners(OwnersRequest(collaboration=COLLABORATION, query="totals"))
    assert await refused(work) == "DatasetChanged"


# ---------------------------------------------------------------------- decisions

SUBJECT = {"query": "totals", "version": "2.1", "proposal_id": "p-1", "digest": "1" * 64}


def decision(world: World, **claims: Any) -> str:
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    values = {
        "collaboration": COLLABORATION,
        "signer": "u-contosso",
        "expires": expires,
        "decision": "approve",
        "reason": "ok",
        "max_runs": 3,
    }
    return sign(Decision.model_validate(values | SUBJECT | claims), world.owner.key)


def request(token: str, **changes: Any) -> VerifyDecisionRequest:
    return VerifyDecisionRequest(**{"collaboration": COLLABORATION, "owners": OWNERS, "token": token, **SUBJECT, **changes})


async def test_a_decision_of_an_approver_on_this_proposal_is_verified(world: World) -> None:
    await world.owner.publish_key()
    token = decision(world, nonce="n" * 16)
    found = await world.frontend.verify_decision(request(token))
    assert (found.approver_id, found.decision, found.reason, found.max_runs) == ("u-contosso", "approve", "ok", 3)
    assert (found.nonce, found.expires > dt.datetime.now(dt.UTC)) == ("n" * 16, True)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"query": "other"}, "DecisionQueryMismatch"),
        ({"digest": "2" * 64}, "DecisionDigestMismatch"),
        ({"version": "2.2"}, "DecisionVersionMismatch"),
        ({"proposal_id": "p-2"}, "DecisionProposalMismatch"),
        ({"collaboration": "other"}, "CollaborationMismatch"),
        ({"expires": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}, "StatementExpired"),
    ],
)
async def test_a_decision_on_something_else_is_refused(world: World, claims: dict[str, Any], code: str) -> None:
    await world.owner.publish_key()
    assert await refused(world.frontend.verify_decision(request(decision(world, **claims)))) == code


async def test_a_decision_of_nobody_who_approves_is_refused_before_its_key_is_read(world: World) -> None:
    token = decision(world)
    assert await refused(world.frontend.verify_decision(request(token, owners=("u-litware",)))) == "NotProposalApprover"
    assert await refused(world.frontend.verify_decision(request(token))) == "ApproverKeyNotPublished"
    await world.author.publish_key()
    forged = sign(Decision.model_validate({**_claims(token), "signer": "u-contosso"}), world.author.key)
    await world.owner.publish_key()
    assert await refused(world.frontend.verify_decision(request(forged))) == "ApproverKeyUnknown"


def _claims(token: str) -> dict[str, Any]:
    return peek(Decision, token).model_dump()


# ---------------------------------------------------------------------- the poll


async def poll(world: World, known: GovernanceQueryState) -> GovernanceQueryState | None:
    """What the poll reports, or None for nothing."""
    return await world.frontend.find_query_change(QueryChangeRequest(collaboration=COLLABORATION, query="totals", known=known))


NOTHING_KNOWN = GovernanceQueryState(state="Accepted", version="x")


async def test_the_poll_reports_the_whole_state_and_then_nothing_more(world: World) -> None:
    assert await poll(world, NOTHING_KNOWN) == GovernanceQueryState(state="Missing")
    made = await world.draft()
    held = await world.author.documents.get("totals")
    draft = await poll(world, NOTHING_KNOWN)
    assert draft == GovernanceQueryState(
        state="Draft", version=str(held.version), digest=made.digest, approvers=tuple(sorted(OWNERS)), seen=""
    )  # fmt: skip
    assert await poll(world, draft) is None
    proposal = await world.propose()
    proposed = await poll(world, draft)
    assert proposed is not None
    assert (proposed.state, proposed.proposal_id, proposed.proposal_state, proposed.ballots) == ("Proposed", proposal, "Open", {})
    assert await poll(world, proposed) is None
    await world.owner.client.submit_ballot(proposal, accept=True)
    voted = await poll(world, proposed)
    assert voted is not None
    assert voted.ballots == {"u-contosso": "accepted"}
    assert await poll(world, voted) is None
    await Caller(world.governance, "u-litware").submit_ballot(proposal, accept=True)
    accepted = await poll(world, voted)
    assert accepted is not None
    assert (accepted.state, accepted.proposal_state, len(accepted.ballots)) == ("Accepted", "Accepted", 2)
    assert accepted.version == proposed.version, "the version on which the owners have decided"
    # They have voted in governance directly, without a signed decision.
    assert accepted.approvals is not None
    assert (accepted.approvals.refusal, accepted.approvals.expire) == ("SignedDecisionMissing", None)
    assert await poll(world, accepted) is None
    world.governance.disabled.add("totals")
    assert await poll(world, accepted) is None, "the first reason counts"
    changed = accepted.model_copy(update={"approvals": accepted.approvals.model_copy(update={"refusal": "ApprovalExpired"})})
    assert await poll(world, changed) == accepted


@pytest.mark.parametrize("changes", [{"version": "2.1"}, {"digest": "0" * 64}, {"proposal_id": "p"}])
async def test_the_poll_reports_a_draft_of_another_version_text_or_proposal(world: World, changes: dict[str, str]) -> None:
    await world.draft()
    now = await poll(world, NOTHING_KNOWN)
    assert now is not None
    assert await poll(world, now.model_copy(update=changes)) == now


async def test_the_version_of_a_proposal_does_not_make_a_change(world: World) -> None:
    """A draft and its proposal have different versions for one text."""
    await world.draft()
    await world.propose()
    now = await poll(world, NOTHING_KNOWN)
    assert now is not None
    assert await poll(world, now.model_copy(update={"version": "2.999", "digest": "0" * 64})) is None


async def test_the_poll_does_not_report_a_draft_that_is_older_than_the_known_one(world: World) -> None:
    await world.draft()
    now = await poll(world, NOTHING_KNOWN)
    assert now is not None
    newer = now.model_copy(update={"version": "2.999"})
    assert await poll(world, newer) is None
    assert await poll(world, newer.model_copy(update={"state": "Proposed"})) == now


async def test_an_answer_that_names_its_transaction_is_reported_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workflow compares the transaction, so the poll does not compare versions."""
    await world.draft()
    genuine = world.client.get_document

    async def observed(document_id: str) -> Any:
        observe(TransactionId(2, 500))
        return await genuine(document_id)

    monkeypatch.setattr(world.client, "get_document", observed)
    now = await poll(world, NOTHING_KNOWN)
    assert now is not None
    assert now.seen == "2.500"
    assert await poll(world, now.model_copy(update={"version": "2.999"})) == now


async def test_a_missing_query_is_reported_with_the_transaction_that_misses_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(document_id: str) -> Any:
        observe(TransactionId(2, 500))
        raise NotFound("UserDocumentNotFound", document_id)

    monkeypatch.setattr(world.client, "get_document", missing)
    assert await poll(world, NOTHING_KNOWN) == GovernanceQueryState(state="Missing", seen="2.500")


async def test_governance_that_cannot_be_read_is_no_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(document_id: str) -> Any:
        raise Unavailable("GovernanceUnreachable", "on purpose")

    monkeypatch.setattr(world.client, "get_document", away)
    work = world.frontend.find_query_change(QueryChangeRequest(collaboration=COLLABORATION, query="totals", known=NOTHING_KNOWN))
    assert await refused(work) == "GovernanceUnreachable"
