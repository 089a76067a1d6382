"""What an owner's worker accepts as the owner's word: the key, the collaboration, the action, the subject, the text and the time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from activities.authorisations import AuthorisationVerifier
from cleanroom.errors import NotFound, PreconditionFailed, Unavailable
from cleanroom.identifiers import approver_key_document_id, retirement_document_id
from cleanroom.messages.query import AuthorisedCommand, VoteRequest
from cleanroom.statements import Decision, load_or_create_signing_key, sign
from cleanroom.statements.keys import KEY_LABELS, RetirementDocument
from tests.refusals import refused
from tests.unit.activities.governance import COLLABORATION, Governance
from tests.unit.activities.owners import NOW, Owner, dataset_spec, query_spec

SPEC, OTHER = dataset_spec(), "0" * 64


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(Governance(), tmp_path)


def dataset_with(owner: Owner, token: str, collaboration: str = COLLABORATION) -> Any:
    return owner.dataset().model_copy(update={"authorisation": token, "collaboration": collaboration})


async def test_the_owners_authorisation_is_accepted_until_it_expires(owner: Owner) -> None:
    signed = await owner.authorisations.verify_dataset(owner.dataset())
    assert (signed.action, signed.subject, signed.signer) == ("publish-dataset", "orders", "u-contosso")
    owner.now += dt.timedelta(minutes=59, seconds=59)
    await owner.authorisations.verify_dataset(owner.dataset())
    owner.now += dt.timedelta(seconds=1)
    assert await refused(owner.authorisations.verify_dataset(owner.dataset())) == "StatementExpired"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"collaboration": "other"}, "CollaborationMismatch"),
        ({"signer": "u-litware"}, "SignerMismatch"),
        ({"subject": "customers"}, "OrderMismatch"),
        ({"digest": OTHER}, "OrderMismatch"),
        ({"action": "create-query"}, "OrderMismatch"),
    ],
)
async def test_an_authorisation_for_something_else_is_refused(owner: Owner, claims: dict[str, str], code: str) -> None:
    values = {"action": "publish-dataset", "subject": "orders", "digest": SPEC.digest()} | claims
    token = owner.sign(values.pop("action"), values.pop("subject"), values.pop("digest"), **values)
    assert await refused(owner.authorisations.verify_dataset(dataset_with(owner, token))) == code


async def test_a_key_that_is_not_the_workers_own_signs_nothing(owner: Owner, tmp_path: Path) -> None:
    thief = load_or_create_signing_key(tmp_path / "thief")
    token = owner.sign("publish-dataset", "orders", SPEC.digest(), key=thief)
    assert await refused(owner.authorisations.verify_dataset(dataset_with(owner, token))) == "ApproverKeyUnknown"


async def test_a_request_for_another_collaboration_is_refused_although_it_is_signed(owner: Owner) -> None:
    token = owner.sign("publish-dataset", "orders", SPEC.digest(), collaboration="other")
    assert await refused(owner.authorisations.verify_dataset(dataset_with(owner, token, "other"))) == "CollaborationMismatch"


@pytest.mark.parametrize("party", ["", "mallory"])
async def test_a_worker_without_a_user_acts_for_nobody(owner: Owner, party: str) -> None:
    settings = owner.settings.model_copy(update={"party": party})
    verifier = AuthorisationVerifier(settings, owner.reader)
    with pytest.raises(PreconditionFailed) as caught:
        _ = verifier.user_id
    assert (caught.value.code, caught.value.party) == ("PartyUnknown", "operator")


async def test_a_worker_has_the_clock_of_its_machine(owner: Owner) -> None:
    verifier = AuthorisationVerifier(owner.settings, owner.reader)
    assert await refused(verifier.verify_dataset(owner.dataset())) == "StatementExpired"
    hours = (dt.datetime.now(dt.UTC) - NOW) / dt.timedelta(hours=1) + 1
    token = owner.sign("publish-dataset", "orders", SPEC.digest(), hours=hours)
    await verifier.verify_dataset(dataset_with(owner, token))


async def test_a_retired_key_authorises_nothing_more(owner: Owner) -> None:
    await owner.publish_key()
    await owner.authorisations.verify_dataset(owner.dataset())
    # Consent to the key document is off and no retirement is found: all its keys are retired.
    owner.governance.disabled.add(approver_key_document_id(owner.user))
    assert await refused(owner.authorisations.verify_dataset(owner.dataset())) == "ApproverKeyRetired"


async def test_governance_that_cannot_tell_whether_the_key_is_retired_stops_the_worker(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object) -> None:
        raise Unavailable("GovernanceUnreachable", "on purpose")

    monkeypatch.setattr(owner.client, "get_document", away)
    assert await refused(owner.authorisations.verify_dataset(owner.dataset())) == "GovernanceUnreachable"


async def test_a_published_dataset_ends_its_authorisation(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = owner.dataset()
    await owner.authorisations.verify_unpublished(dataset)
    await owner.documents.put_draft("orders", "{}", {}, [owner.user])
    await owner.authorisations.verify_unpublished(dataset)
    await owner.documents.publish_own("orders", "{}", {}, owner.user)
    assert await refused(owner.authorisations.verify_unpublished(dataset)) == "AuthorisationUsed"

    async def no_contract(*arguments: object) -> None:
        raise NotFound("ContractNotFound", "on purpose")

    monkeypatch.setattr(owner.client, "get_document", no_contract)
    assert await refused(owner.authorisations.verify_unpublished(dataset)) == "ContractNotFound"


# ---------------------------------------------------------------------- commands


def command(owner: Owner, token: str, spec: Any = None, **changes: Any) -> AuthorisedCommand:
    return AuthorisedCommand(party=owner.name, collaboration=COLLABORATION, query="totals", authorisation=token, spec=spec, **changes)


async def test_a_command_is_accepted_for_its_actions_and_its_text(owner: Owner) -> None:
    verify = owner.authorisations.verify_command
    create = owner.sign("create-query", "totals", query_spec().digest())
    assert (await verify(command(owner, create, query_spec()), {"create-query"})).action == "create-query"
    assert await refused(verify(command(owner, create, query_spec(11)), {"create-query"})) == "OrderMismatch"
    assert await refused(verify(command(owner, create, query_spec()), {"update-query"})) == "OrderMismatch"
    assert await refused(verify(command(owner, owner.sign("create-query", "other", OTHER)), {"create-query"})) == "OrderMismatch"
    # A command without text is compared with governance by its caller.
    propose = owner.sign("propose-query", "totals", OTHER, version="2.1")
    assert (await verify(command(owner, propose), {"withdraw-query", "propose-query"})).version == "2.1"
    assert await refused(verify(command(owner, create), set())) == "OrderMismatch"


async def test_an_expired_authorisation_counts_only_where_it_may(owner: Owner) -> None:
    verify = owner.authorisations.verify_command
    token = owner.sign("propose-query", "totals", OTHER, version="2.1")
    owner.now += dt.timedelta(days=30)
    assert await refused(verify(command(owner, token), {"propose-query"})) == "StatementExpired"
    assert await refused(verify(command(owner, token), {"propose-query"}, allow_expired=False)) == "StatementExpired"
    signed = await verify(command(owner, token), {"propose-query"}, allow_expired=True)
    assert signed.expires < owner.now
    assert await refused(verify(command(owner, token), {"withdraw-query"}, allow_expired=True)) == "OrderMismatch"


async def test_a_key_that_was_retired_later_still_withdraws_what_it_proposed(owner: Owner) -> None:
    """The proposal is in the ledger since before the retirement."""
    verify = owner.authorisations.verify_command
    await owner.publish_key()
    token = owner.sign("propose-query", "totals", OTHER, version="2.1")
    document = owner.governance.accepted[approver_key_document_id(owner.user)]
    owner.governance.disabled.add(document.id)
    await retire(owner)
    assert (await verify(command(owner, token), {"propose-query"}, allow_expired=True)).action == "propose-query"
    assert await refused(verify(command(owner, token), {"propose-query"})) == "ApproverKeyRetired"


async def retire(owner: Owner) -> None:
    body = RetirementDocument(user_id=owner.user, retires=(owner.key.public.kid,), keys=()).to_data()
    await owner.documents.publish_own(retirement_document_id(owner.user, 1), body, KEY_LABELS, owner.user)


# ---------------------------------------------------------------------- votes

VOTE = {"query": "totals", "version": "2.1", "proposal_id": "p-1", "digest": OTHER}


def decision(owner: Owner, **claims: Any) -> str:
    values = {"collaboration": COLLABORATION, "signer": owner.user, "expires": NOW + dt.timedelta(hours=1), "decision": "approve", **VOTE}
    return sign(Decision.model_validate(values | claims), owner.key)


async def test_a_vote_is_accepted_as_it_was_signed(owner: Owner) -> None:
    request = VoteRequest(collaboration=COLLABORATION, token=decision(owner), **VOTE)
    assert (await owner.authorisations.verify_vote(request, "approve")).decision == "approve"
    assert await refused(owner.authorisations.verify_vote(request, "reject")) == "DecisionMismatch"
    owner.now += dt.timedelta(hours=1)
    assert await refused(owner.authorisations.verify_vote(request, "approve")) == "StatementExpired"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"query": "other"}, "DecisionMismatch"),
        ({"version": "2.2"}, "DecisionMismatch"),
        ({"proposal_id": "p-2"}, "DecisionMismatch"),
        ({"digest": "1" * 64}, "DecisionMismatch"),
        ({"decision": "reject"}, "DecisionMismatch"),
        ({"collaboration": "other"}, "CollaborationMismatch"),
        ({"signer": "u-litware"}, "SignerMismatch"),
    ],
)
async def test_a_vote_on_something_else_is_refused(owner: Owner, claims: dict[str, str], code: str) -> None:
    request = VoteRequest(collaboration=COLLABORATION, token=decision(owner, **claims), **VOTE)
    assert await refused(owner.authorisations.verify_vote(request, "approve")) == code


async def test_a_vote_for_another_collaboration_is_refused_although_it_is_signed(owner: Owner) -> None:
    request = VoteRequest(collaboration="other", token=decision(owner, collaboration="other"), **VOTE)
    assert await refused(owner.authorisations.verify_vote(request, "approve")) == "CollaborationMismatch"
