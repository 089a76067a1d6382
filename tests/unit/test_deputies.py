"""Deputies: whose second key counts for an owner's decisions, from when, until when, and who could change that."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from activities.authorisations import AuthorisationVerifier
from activities.frontend import Frontend
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import deputy_document_id, sha256_hex
from cleanroom.messages.query import AuthorisedCommand, VerifyDecisionRequest, VoteRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.deputies import DEPUTY_LABELS, deputy_document_data, verify_decision
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.statements import Decision, Deputation, KeyHistory, SigningKey, load_or_create_signing_key, sign
from starters.operations.deputies import deputy_key, list_deputies, name_deputy, revoke_deputy
from starters.operations.keys import retire_key
from starters.operations.query_workflow import serve_own_queue
from starters.operations.session import now
from tests.prepare_world import COLLABORATION, PrepareWorld, prepare_world
from tests.refusals import refused
from tests.unit.test_key_retirement import THIEF, VICTIM, OwnSession, authorise, reapproved

OWNER = VICTIM
DAY = dt.timedelta(days=1)


class Deputies:
    """An owner and a deputy with a key folder of the deputy's own."""

    def __init__(self, world: PrepareWorld, owner: OwnSession, folder: Path) -> None:
        self.world, self.owner = world, owner
        settings = owner.settings.model_copy(update={"keys_dir": folder / "maria", "deputy": True})
        self.session = OwnSession(world, folder, OWNER)
        self.session.settings = settings
        self.key = load_or_create_signing_key(folder / "maria")
        self.file = folder / "maria.json"
        self.file.write_text(json.dumps(deputy_key(self.session)))

    async def name(self, start: dt.datetime | None = None, end: dt.datetime | None = None) -> dict[str, Any]:
        return await name_deputy(self.owner, "maria", self.file, start or now() - DAY, end or now() + 30 * DAY)

    async def publish(self, deputation: Deputation, by: SigningKey, *, user: str = OWNER) -> None:
        """Store a deputation as any user can."""
        async with self.world.user(user) as client:
            documents = UserDocuments(client, COLLABORATION)
            document_id = deputy_document_id(OWNER, self.key.public.kid)
            await documents.publish_own(document_id, deputy_document_data(sign(deputation, by)), DEPUTY_LABELS, user)

    def deputation(self, **changes: Any) -> Deputation:
        return Deputation(
            **{
                "collaboration": COLLABORATION, "signer": OWNER, "expires": now() + 30 * DAY, "deputy": "maria", "key": self.key.public,
                "valid_from": now() - DAY, **changes,
            }
        )  # fmt: skip

    def decision(self, **changes: Any) -> Decision:
        return Decision(
            **{
                "collaboration": COLLABORATION, "signer": OWNER, "expires": now() + DAY, "query": "q", "version": "2.1", "proposal_id": "p",
                "digest": "0" * 64, "decision": "approve", **changes,
            }
        )  # fmt: skip

    async def decided_query(self) -> RunTicket:
        """A run ticket for a query that the deputy has approved."""
        name = f"again-{sha256_hex(self.key.public.kid.encode())[:8]}"
        return await reapproved(self.world, name, self.key)

    async def states(self) -> list[str]:
        """The states in which the list shows this deputy."""
        document_id = deputy_document_id(OWNER, self.key.public.kid)
        rows = await list_deputies(self.owner)
        return [row["state"] for row in rows if row.get("kid") == self.key.public.kid or row["deputy"] == document_id]

    async def vote(self, *, at: dt.datetime | None = None, key: SigningKey | None = None) -> str:
        """Let the frontend and the owner's worker verify a decision by the deputy; return the deputy's name."""
        token = sign(self.decision(expires=(at or now()) + DAY), key or self.key)
        async with self.world.user(OWNER) as client:
            reader = UserReader(client, COLLABORATION)
            keys = await published_keys(reader, COLLABORATION, OWNER)
            found = await verify_decision(reader, token, keys, collaboration=COLLABORATION, now=at or now())
            worker = AuthorisationVerifier(self.owner.settings, reader, lambda: at or now())
            members = {"collaboration": COLLABORATION, "query": "q", "proposal_id": "p", "version": "2.1", "digest": "0" * 64}
            await worker.verify_vote(VoteRequest(**members, token=token), "approve")
            if at is None:
                frontend = Frontend(UserDocuments(client, COLLABORATION), reader, COLLABORATION)
                verified = await frontend.verify_decision(VerifyDecisionRequest(**members, owners=(OWNER,), token=token))
                assert (verified.approver_id, verified.deputy) == (OWNER, found.deputy)
        return found.deputy


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrepareWorld, Path]]:
    """One world for all tests. Each has its own deputy."""
    folder = tmp_path_factory.mktemp("deputies")
    with prepare_world(folder) as world:
        asyncio.run(world.publish(1))
        yield world, folder


@pytest.fixture
def maria(shared: tuple[PrepareWorld, Path], tmp_path: Path) -> Deputies:
    return Deputies(shared[0], OwnSession(*shared, OWNER), tmp_path)


async def test_a_deputy_decides_from_the_date_on_until_the_end(maria: Deputies) -> None:
    assert await refused(maria.vote()) == "ApproverKeyUnknown"
    start, end = now() + 10 * DAY, now() + 20 * DAY
    assert (await maria.name(start, end))["state"] == "not yet valid"
    assert await refused(maria.vote()) == "DeputyNotYetValid"
    assert await refused(maria.vote(at=start - dt.timedelta(seconds=1))) == "DeputyNotYetValid"
    assert await maria.vote(at=start) == "maria"
    assert await maria.vote(at=end - dt.timedelta(seconds=1)) == "maria"
    assert await refused(maria.vote(at=end)) == "DeputyExpired"
    assert await maria.states() == ["not yet valid"]
    assert (await maria.name(start, end))["kid"] == maria.key.public.kid
    assert await refused(maria.name(start, end + DAY)) == "DocumentDiffers"


async def test_runs_rely_on_a_deputys_recorded_decision_also_after_the_deputy_is_revoked(maria: Deputies) -> None:
    await maria.name()
    assert await maria.vote() == "maria"
    before = await maria.decided_query()
    await authorise(maria.world, before)
    assert (await revoke_deputy(maria.owner, maria.key.public.kid))["state"] == "revoked"
    assert (await revoke_deputy(maria.owner, maria.key.public.kid))["state"] == "revoked"
    await authorise(maria.world, before)
    assert await refused(maria.vote()) == "ApproverKeyRetired"
    # The owner's own key counts as before.
    assert await maria.vote(key=maria.owner.key()) == ""


async def test_a_decision_that_is_recorded_after_the_revocation_does_not_count(maria: Deputies) -> None:
    await maria.name()
    await revoke_deputy(maria.owner, maria.key.public.kid)
    assert await refused(authorise(maria.world, await maria.decided_query())) == "ApproverKeyRetired"


async def test_a_decision_that_was_recorded_before_the_deputy_was_named_does_not_count(maria: Deputies) -> None:
    ticket = await maria.decided_query()
    assert await refused(authorise(maria.world, ticket)) == "ApproverKeyUnknown"
    await maria.name()
    assert await refused(authorise(maria.world, ticket)) == "DeputyNamedLater"


async def test_a_deputy_ends_with_the_key_that_named_it(maria: Deputies) -> None:
    """A thief of the owner's key could have named the deputy, together with the owner's sign-in at governance."""
    await maria.name()
    before = await maria.decided_query()
    await retire_key(maria.owner)
    await authorise(maria.world, before)
    assert await refused(maria.vote()) == "ApproverKeyRetired"


@pytest.mark.parametrize(
    ("by", "user", "changes", "code"),
    [
        ("thief", OWNER, {}, "ApproverKeyUnknown"),  # A stolen sign-in at governance
        ("maria", OWNER, {}, "ApproverKeyUnknown"),  # The deputy
        ("owner", THIEF, {}, "DeputyInvalid"),  # A stolen signing key
        ("owner", OWNER, {"signer": THIEF}, "SignerMismatch"),
        ("owner", OWNER, {"collaboration": "other"}, "CollaborationMismatch"),
        ("owner", OWNER, {"key": "thief"}, "DeputyInvalid"),
    ],
)
async def test_nobody_but_the_owner_names_a_deputy(
    maria: Deputies, tmp_path: Path, by: str, user: str, changes: dict[str, Any], code: str
) -> None:
    thief = load_or_create_signing_key(tmp_path / "thief")
    keys = {"thief": thief, "maria": maria.key, "owner": maria.owner.key()}
    changed = {name: keys[value].public if name == "key" else value for name, value in changes.items()}
    await maria.publish(maria.deputation(**changed), keys[by], user=user)
    assert await refused(maria.vote()) == code
    assert await maria.states() == [code if user == OWNER else "SignerMismatch"]


async def test_a_deputy_decides_and_does_nothing_else(maria: Deputies, tmp_path: Path) -> None:
    await maria.name()
    token = maria.session.authorise("withdraw-query", "q", "0" * 64, version="2.1", proposal_id="p")
    command = AuthorisedCommand(party=OWNER, collaboration=COLLABORATION, query="q", authorisation=token)
    async with maria.world.user(OWNER) as client:
        verifier = AuthorisationVerifier(maria.owner.settings, UserReader(client, COLLABORATION))
        assert await refused(verifier.verify_command(command, {"withdraw-query"})) == "ApproverKeyUnknown"
    second = Deputies(maria.world, maria.session, tmp_path / "second")
    assert await refused(second.name()) == "ApproverKeyUnknown"
    async with serve_own_queue(maria.session):
        pass  # A deputy has no credentials for the owner's queue, so nothing is served.


@pytest.mark.parametrize("kid", ["", ".", "x" * 42, "../approver-key.litware", "x" * 44])
async def test_a_hostile_key_id_asks_governance_for_nothing(tmp_path: Path, kid: str) -> None:
    key, stranger = load_or_create_signing_key(tmp_path / "own"), load_or_create_signing_key(tmp_path / "stranger")
    stranger.public = stranger.public.model_copy(update={"kid": kid})
    keys, no_reader = KeyHistory(user_id=OWNER, keys=(key.public,)), cast(Any, None)
    decision = Decision(
        collaboration="c", signer=OWNER, expires=now() + DAY, query="q", version="2.1", proposal_id="p", digest="0" * 64, decision="approve"
    )
    work = verify_decision(no_reader, sign(decision, stranger), keys, collaboration="c", now=now())
    assert await refused(work) == "ApproverKeyUnknown"


@pytest.mark.parametrize("change", [{"valid_from": dt.datetime(2100, 1, 1, tzinfo=dt.UTC)}, {"kid": "x" * 43}, {"deputy": "Maria <b>"}])
def test_an_inconsistent_deputation_cannot_be_made(tmp_path: Path, change: dict[str, Any]) -> None:
    key = load_or_create_signing_key(tmp_path).public
    if "kid" in change:
        change = {"key": key.model_copy(update=change)}
    with pytest.raises((ValueError, CleanRoomError)):
        Deputation(
            **{
                "collaboration": "c", "signer": "u", "expires": dt.datetime(2099, 1, 1, tzinfo=dt.UTC), "deputy": "maria", "key": key,
                "valid_from": dt.datetime(2098, 1, 1, tzinfo=dt.UTC), **change,
            }
        )  # fmt: skip


async def test_the_deputys_key_file_must_be_another_public_key(maria: Deputies) -> None:
    maria.file.write_text(json.dumps(deputy_key(maria.owner)))
    assert await refused(maria.name()) == "DeputyKeyInvalid"
    maria.file.write_text("{}")
    assert await refused(maria.name()) == "DeputyKeyInvalid"
    assert await refused(revoke_deputy(maria.owner, "x" * 43)) == "UserDocumentNotFound"
