"""The state of a query's workflow, rebuilt from governance."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import NotFound
from cleanroom.governance import Document
from cleanroom.identifiers import decision_document_id, document_digest
from cleanroom.publishing.adoption import AdoptedQuery, adopted_query
from cleanroom.publishing.verification import verify_draft_matches_spec
from tests.audit_records import COLLABORATION, QUERY
from tests.audit_world import AuditWorld
from tests.refusals import refused


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(Path(tmp_path_factory.mktemp("adoption")), max_runs=5)


class Documents:
    """Governance with the world's documents, some of them changed."""

    def __init__(self, world: AuditWorld, **changed: Any) -> None:
        self.world, self.changed, self.hidden = world, changed, set[str]()
        self.client = self
        self.ballots: dict[str, str] = {}

    async def get(self, name: str) -> Document:
        found: Document = self.world.documents[name]
        return found.model_copy(update=self.changed) if name == QUERY else found

    async def proposal_status(self, proposal_id: str) -> Any:
        votes = [type("Ballot", (), {"approver_id": user, "ballot": ballot}) for user, ballot in self.ballots.items()]
        return type("Status", (), {"ballots": votes})

    async def get_proposal(self, proposal_id: str) -> Any:
        return type("Proposal", (), {"args": {"document": {"version": "2.1"}}})

    async def accepted_document(self, document_id: str) -> Any:
        if document_id in self.hidden:
            raise NotFound("UserDocumentNotFound", document_id)
        return await self.world.accepted_document(document_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    async def adopt(self, *, now: dt.datetime | None = None) -> AdoptedQuery:
        own: Any = self
        names = {user: name for name, user in self.world.users.items()}
        return await adopted_query(own, own, COLLABORATION, QUERY, names, "fabrikam", now or self.world.now)


async def test_an_approved_query_keeps_its_text_votes_and_the_first_expiry(world: AuditWorld) -> None:
    found = await Documents(world).adopt()
    document = world.documents[QUERY]
    state = found.state
    assert (state.stage, state.version, state.digest) == ("Approved", "2.1", document_digest(str(document.data)))
    assert document.version != "2.1", "governance gives the accepted text another version than the owners decided on"
    assert state.accepted == ("contosso", "litware")
    assert state.owners == tuple(sorted(world.users[name] for name in ("contosso", "litware")))
    assert found.approvals_expire_at == state.expires
    assert state.expires is not None
    assert state.expires > world.now
    assert found.proposer_id == world.users["fabrikam"]
    # The rebuilt specification gives exactly the accepted text.
    verify_draft_matches_spec(str(document.data), found.spec, COLLABORATION)
    assert [(entry.event, entry.by) for entry in state.history] == [("adopted", "fabrikam")]
    assert "floors" in state.card


async def test_a_proposal_with_one_vote_waits_for_the_other(world: AuditWorld) -> None:
    governance = Documents(world, state="Proposed", final_votes=None)
    governance.ballots = {world.users["litware"]: "accepted"}
    state = (await governance.adopt()).state
    assert (state.stage, state.accepted, state.rejected) == ("Proposed", ("litware",), ())
    assert state.proposal_id == world.documents[QUERY].proposal_id
    assert state.expires is not None


async def test_a_draft_has_no_votes_and_no_deadline_yet(world: AuditWorld) -> None:
    found = await Documents(world, state="Draft", final_votes=None, proposal_id="").adopt()
    assert (found.state.stage, found.state.accepted, found.state.expires) == ("Draft", (), None)


async def test_an_approval_without_a_signed_decision_is_named(world: AuditWorld) -> None:
    governance = Documents(world)
    governance.hidden.add(decision_document_id(world.documents[QUERY].proposal_id, world.users["litware"]))
    found = await governance.adopt()
    assert [text for text in found.not_rebuilt if "litware" in text and "SignedDecisionMissing" in text]
    assert found.state.expires is not None


async def test_a_query_whose_approvals_have_expired_is_not_adopted(world: AuditWorld) -> None:
    expires = (await Documents(world).adopt()).state.expires
    assert expires is not None
    assert await refused(Documents(world).adopt(now=expires)) == "ApprovalExpired"


async def test_a_card_that_cannot_be_computed_again_is_left_out(world: AuditWorld) -> None:
    governance = Documents(world)
    governance.hidden.add("contosso-flights")
    found = await governance.adopt()
    assert "DatasetNotAccepted" in found.state.card
    assert any("card" in text for text in found.not_rebuilt)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"labels": {"type": "dataset"}}, "DocumentIsNoQuery"),
        ({"labels": None}, "DocumentIsNoQuery"),
        ({"data": "{}"}, "QueryDocumentInvalid"),
    ],
    ids=["dataset", "no label", "no document"],
)
async def test_other_documents_are_not_adopted(changes: dict[str, Any], code: str, world: AuditWorld) -> None:
    assert await refused(Documents(world, **changes).adopt()) == code


async def test_a_query_of_another_collaboration_is_not_adopted(world: AuditWorld) -> None:
    text = str(world.documents[QUERY].data).replace(f'"collaboration":"{COLLABORATION}"', '"collaboration":"other"')
    assert await refused(Documents(world, data=text).adopt()) == "QueryNotPinned"
