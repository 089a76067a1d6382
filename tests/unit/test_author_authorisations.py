"""An author's authorisation, seen by an attacker who has read it: it acts on the text and version that it names, and once."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from activities.authorisations import AuthorisationVerifier
from activities.collaborator import CollaboratorGovernance
from cleanroom.datasets.keystore import KeyStore
from cleanroom.documents.specs import QuerySpec
from cleanroom.governance import Document, GovernanceUserClient
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import (
    AuthorisedCommand,
    DraftRequest,
    GenerateQueryRequest,
    ProposeQueryRequest,
    QueryProposed,
    WithdrawRequest,
)
from cleanroom.publishing.query_document import generate_query
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.reader import UserReader
from cleanroom.settings import Settings
from cleanroom.statements import Authorisation
from starters.operations.session import Session
from tests.prepare_world import COLLABORATION, PrepareWorld, published_world
from tests.refusals import refused

Mode = Literal["app", "cgs-client"]
MODES: tuple[Mode, ...] = ("app", "cgs-client")
AUTHOR, OWNERS, QUERY = "fabrikam", ("contosso", "litware"), "later"


class Author:
    """Fabrikam's own worker, a draft in governance, and an attacker who has everything that Temporal has."""

    def __init__(self, world: PrepareWorld, folder: Path, client: GovernanceUserClient, other: GovernanceUserClient) -> None:
        parties = {name: name for name in (AUTHOR, *OWNERS)}
        self.settings = Settings(
            profile=AUTHOR, collaboration=COLLABORATION, party=AUTHOR, parties=parties, keys_dir=folder / "author-keys"
        )
        self.session = Session(self.settings)
        self.client, self.other = client, other
        self.documents, self.others = UserDocuments(client, COLLABORATION), UserDocuments(other, COLLABORATION)
        self.reader = UserReader(client, COLLABORATION)
        self.worker = CollaboratorGovernance(
            self.settings,
            AuthorisationVerifier(self.settings, self.reader),
            self.documents,
            KeyStore(self.settings.keys_dir, COLLABORATION),
        )

    def spec(self, minimum: int = 10) -> QuerySpec:
        sql = f"SELECT v0.region AS region, COUNT(*) AS total FROM v0 GROUP BY v0.region HAVING COUNT(*) >= {minimum}"
        return QuerySpec(name=QUERY, inputs={"v0": "contosso-0"}, output="litware-output", sql=sql)

    async def draft_request(self, spec: QuerySpec, token: str) -> DraftRequest:
        draft = await generate_query(self.reader, GenerateQueryRequest(collaboration=COLLABORATION, spec=spec, proposer_id=AUTHOR))
        return DraftRequest(command=self.command(token, spec), draft=draft)

    def command(self, token: str, spec: QuerySpec | None = None) -> AuthorisedCommand:
        return AuthorisedCommand(party=AUTHOR, collaboration=COLLABORATION, query=QUERY, spec=spec, authorisation=token)

    def sign(self, action: str, document: Document, **claims: str) -> str:
        digest = document_digest(str(document.data))
        return self.session.authorise(action, QUERY, digest, **{"version": document.version or "", **claims})

    async def held(self) -> Document:
        return await self.documents.get(QUERY)

    async def create(self) -> None:
        spec = self.spec()
        await self.worker.create_document(await self.draft_request(spec, self.session.authorise("create-query", QUERY, spec.digest())))

    async def update(self, spec: QuerySpec, token: str) -> None:
        await self.worker.update_document(await self.draft_request(spec, token))

    async def propose(self, token: str) -> QueryProposed:
        return await self.worker.propose_query(ProposeQueryRequest(command=self.command(token), owners=OWNERS))

    async def withdraw(self, token: str, proposal_id: str, *, expired: bool = False) -> None:
        await self.worker.withdraw_proposal(WithdrawRequest(command=self.command(token), proposal_id=proposal_id, expired=expired))

    async def replace_draft(self, text: str) -> None:
        """Another user edits the draft in governance, which lets every user do so."""
        document = await self.held()
        await self.other.put_document(
            QUERY, COLLABORATION, text, version=document.version, labels=document.labels, approvers=document.approvers or ()
        )


@asynccontextmanager
async def author(folder: Path, mode: Mode) -> AsyncIterator[Author]:
    with published_world(folder, 2) as world:
        async with world.user(AUTHOR, mode) as client, world.user("litware") as other:
            found = Author(world, folder, client, other)
            await found.create()
            yield found


def attack(folder: Path, play: Callable[[Author], Awaitable[None]], mode: Mode = "app") -> None:
    async def run() -> None:
        async with author(folder, mode) as found:
            await play(found)

    asyncio.run(run())


@pytest.mark.parametrize("mode", MODES)
def test_text_that_another_user_put_into_the_draft_is_not_proposed(tmp_path: Path, mode: Mode) -> None:
    async def play(author: Author) -> None:
        signed = author.sign("propose-query", await author.held())
        await author.replace_draft('{"sql": "SELECT * FROM flights"}')
        assert await refused(author.propose(signed)) == "DraftChanged"
        # The text of the author under another version: its approvers may differ.
        await author.replace_draft((await generate_draft(author)).data)
        assert await refused(author.propose(signed)) == "DraftChanged"
        assert (await author.held()).state == "Draft"

    attack(tmp_path, play, mode)


async def generate_draft(author: Author):
    return await generate_query(author.reader, GenerateQueryRequest(collaboration=COLLABORATION, spec=author.spec(), proposer_id=AUTHOR))


def test_another_users_proposal_of_another_text_is_not_copied_into_the_authors_name(tmp_path: Path) -> None:
    """A proposal is a snapshot with any text under any version, and a read returns the proposal instead of the draft."""

    async def play(author: Author) -> None:
        document = await author.held()
        forged = {"contractId": COLLABORATION, "version": document.version, "data": "forged", "labels": document.labels}
        await author.other.create_proposal("f" * 32, QUERY, forged, document.approvers or ())
        digest = document_digest(str(document.data))
        for wanted in (digest, document_digest("forged")):
            work = author.client.propose_text(QUERY, version=str(document.version), digest=wanted, proposal_id="e" * 32)
            assert await refused(work) == "UserDocumentModified"

    attack(tmp_path, play)


@pytest.mark.parametrize("mode", MODES)
def test_a_used_authorisation_to_propose_makes_no_second_proposal(tmp_path: Path, mode: Mode) -> None:
    async def play(author: Author) -> None:
        document = await author.held()
        token = author.sign("propose-query", document)
        made = await author.propose(token)
        assert await author.propose(token) == made  # Temporal retries the activity.
        await author.withdraw(author.sign("withdraw-query", document, proposal_id=made.proposal_id), made.proposal_id)
        assert (await author.held()).version == document.version
        assert await refused(author.propose(token)) == "AuthorisationUsed"
        assert (await author.held()).state == "Draft"
        assert (await author.propose(author.sign("propose-query", document))).proposal_id != made.proposal_id

    attack(tmp_path, play, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_used_authorisation_to_update_or_create_does_not_bring_back_the_old_text(tmp_path: Path, mode: Mode) -> None:
    async def play(author: Author) -> None:
        first, second = author.spec(11), author.spec(12)
        token = author.session.authorise("update-query", QUERY, first.digest(), version=str((await author.held()).version))
        await author.update(first, token)
        newer = author.session.authorise("update-query", QUERY, second.digest(), version=str((await author.held()).version))
        await author.update(second, newer)
        text = (await author.held()).data
        assert await refused(author.update(first, token)) == "PreconditionFailed"
        assert await refused(author.create()) == "DocumentDiffers"
        assert (await author.held()).data == text

    attack(tmp_path, play, mode)


def test_an_authorisation_to_withdraw_is_for_one_proposal_or_one_draft(tmp_path: Path) -> None:
    async def play(author: Author) -> None:
        document = await author.held()
        close = author.sign("withdraw-query", document)
        await author.worker.confirm_withdrawal(author.command(close))
        first = author.sign("propose-query", document)
        made = await author.propose(first)
        withdraw = author.sign("withdraw-query", document, proposal_id=made.proposal_id)
        assert await refused(author.withdraw(close, made.proposal_id)) == "OrderMismatch"
        assert await refused(author.worker.confirm_withdrawal(author.command(close))) == "DraftChanged"
        await author.withdraw(withdraw, made.proposal_id)
        again = await author.propose(author.sign("propose-query", document))
        # Everything that was signed for the first proposal, on the second one.
        for token, expired in ((withdraw, False), (withdraw, True), (first, True), (first, False)):
            assert await refused(author.withdraw(token, again.proposal_id, expired=expired)) == "OrderMismatch"
        assert (await author.held()).proposal_id == again.proposal_id

    attack(tmp_path, play)


@pytest.mark.parametrize("mode", MODES)
def test_the_authorisation_that_made_a_proposal_withdraws_it_at_its_deadline(tmp_path: Path, mode: Mode) -> None:
    async def play(author: Author) -> None:
        document = await author.held()
        token = author.sign("propose-query", document)
        made = await author.propose(token)
        late = dt.datetime.now(dt.UTC) + dt.timedelta(days=365)
        worker = CollaboratorGovernance(
            author.settings,
            AuthorisationVerifier(author.settings, author.reader, now=lambda: late),
            author.documents,
            KeyStore(author.settings.keys_dir, COLLABORATION),
        )
        await worker.withdraw_proposal(WithdrawRequest(command=author.command(token), proposal_id=made.proposal_id, expired=True))
        assert (await author.held()).state == "Draft"

    attack(tmp_path, play, mode)


@pytest.mark.parametrize(
    ("action", "claims"),
    [
        ("propose-query", {}),
        ("update-query", {}),
        ("withdraw-query", {"proposal_id": "p"}),
        ("create-query", {"version": "2.1"}),
        ("publish-dataset", {"version": "2.1"}),
        ("propose-query", {"version": "2.1", "proposal_id": "p"}),
    ],
)
def test_an_authorisation_without_the_version_that_its_action_needs_is_malformed(
    action: str, claims: dict[str, str], tmp_path: Path
) -> None:
    session = Session(
        Settings(profile=AUTHOR, collaboration=COLLABORATION, party=AUTHOR, parties={AUTHOR: AUTHOR}, keys_dir=tmp_path / "keys")
    )
    with pytest.raises(ValidationError):
        session.authorise(action, QUERY, "0" * 64, **claims)


def test_proposal_ids_differ_for_every_claim_and_nonce() -> None:
    claims = {
        "collaboration": "c",
        "signer": "s",
        "expires": dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
        "nonce": "n" * 16,
        "action": "propose-query",
        "subject": "q",
        "digest": "0" * 64,
        "version": "2.1",
    }
    changed = [{}, {"nonce": "m" * 16}, {"collaboration": "d"}, {"signer": "t"}, {"digest": "1" * 64}, {"version": "2.2"}, {"subject": "r"}]
    ids = [Authorisation.model_validate(claims | change).own_proposal_id() for change in changed]
    assert len(set(ids)) == len(ids)
    later = Authorisation.model_validate(claims | {"expires": dt.datetime(2031, 1, 1, tzinfo=dt.UTC)})
    assert later.own_proposal_id() == ids[0]
