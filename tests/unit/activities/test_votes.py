"""Votes that an owner's worker casts: only under the trust document that the owner's card showed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from activities.collaborator import CollaboratorGovernance
from cleanroom.errors import CleanRoomError
from cleanroom.governance import MemberDocument
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import VoteRequest
from tests.shared_keys import shared_hardware
from tests.unit.spark_support import make_trust_document

CONTRACT, TEXT = "flights", "{}"
VOTE = VoteRequest(collaboration=CONTRACT, query="q", proposal_id="p", version="2.1", digest=document_digest(TEXT), token="t")


class Owner:
    """An owner's worker, whose owner has signed a decision under ``trust``. ``members`` are the accepted trust documents."""

    def __init__(self, trust: str | None, members: list[Any]) -> None:
        self.cast: list[bool] = []
        self.members = {document.id: document for document in members}
        settings: Any = SimpleNamespace(collaboration=CONTRACT)
        authorisations: Any = SimpleNamespace(verify_vote=self.verify, user_id="u")
        documents: Any = SimpleNamespace(client=self, publish_own=self.publish, vote=self.vote)
        keys: Any = None
        self.decision = SimpleNamespace(version="2.1", trust=trust)
        self.worker = CollaboratorGovernance(settings, authorisations, documents, keys)

    async def verify(self, request: VoteRequest, decision: str) -> Any:
        return self.decision

    async def get_proposal(self, proposal_id: str) -> Any:
        return SimpleNamespace(args={"documentId": "q", "document": {"data": TEXT, "version": "2.1"}})

    async def get_member_document(self, document_id: str) -> MemberDocument:
        found = self.members.get(document_id)
        if found is None:
            return MemberDocument(id=document_id, state="Draft")
        return MemberDocument(id=document_id, state="Accepted", contract_id=CONTRACT, data=found.to_data())

    async def publish(self, *arguments: Any) -> None:
        pass

    async def vote(self, proposal_id: str, user: str, *, accept: bool) -> Any:
        self.cast.append(accept)
        return SimpleNamespace(state="Open", ballots=[])


@pytest.fixture(scope="module")
def trust() -> tuple[Any, Any]:
    hardware = shared_hardware()
    return make_trust_document(hardware), make_trust_document(hardware, number=2)


@pytest.mark.parametrize("accepted", [1, 2])
async def test_an_approval_is_cast_only_under_the_trust_document_that_the_owner_saw(trust: tuple[Any, Any], accepted: int) -> None:
    owner = Owner(trust[0].digest, list(trust[:accepted]))
    if accepted == 1:
        await owner.worker.accept_query(VOTE)
        assert owner.cast == [True]
        return
    with pytest.raises(CleanRoomError) as caught:
        await owner.worker.accept_query(VOTE)
    assert (caught.value.code, owner.cast) == ("TrustDocumentChanged", [])


async def test_a_rejection_is_cast_under_every_trust_document(trust: tuple[Any, Any]) -> None:
    owner = Owner(trust[0].digest, list(trust))
    await owner.worker.reject_query(VOTE)
    assert owner.cast == [False]
