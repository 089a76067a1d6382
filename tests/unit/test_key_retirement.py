"""Retired signing keys: what a thief signs does not count, and what governance recorded before stays valid."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from activities.authorisations import AuthorisationVerifier
from cleanroom.errors import CleanRoomError
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import approver_key_document_id, decision_document_id, document_digest, retirement_document_id, sha256_hex
from cleanroom.messages.query import AuthorisedCommand, VoteRequest
from cleanroom.messages.run import RunTicket
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.decisions import DECISION_LABELS, decision_document_data
from cleanroom.runs.published_keys import MAX_RETIREMENTS, published_keys
from cleanroom.runs.reader import UserReader
from cleanroom.settings import Settings
from cleanroom.statements import Decision, KeyHistory, SigningKey, load_or_create_signing_key, sign, verify
from starters.operations.keys import publish_key, retire_key
from starters.operations.session import Session
from tests.prepare_world import COLLABORATION, QUERY, PrepareWorld, published_world
from tests.refusals import refused

VICTIM, CALLER, THIEF = "litware", "fabrikam", "contosso"


class OwnSession(Session):
    """A session of a collaborator whose governance client needs no credential."""

    def __init__(self, world: PrepareWorld, folder: Path, name: str) -> None:
        parties = {person: person for person in (VICTIM, CALLER, THIEF)}
        super().__init__(Settings(profile=name, collaboration=COLLABORATION, party=name, parties=parties, keys_dir=folder / name))
        self._world = world

    def governance(self) -> GovernanceUserClient:
        return self._world.user(self.party)


def play(folder: Path, work: Callable[[PrepareWorld, OwnSession], Coroutine[Any, Any, None]], user: str = VICTIM) -> None:
    """Run ``work`` in a world with an approved query. The signing key of ``user`` is the one that the world has published."""
    with published_world(folder, 2) as world:
        asyncio.run(work(world, OwnSession(world, folder, user)))


async def history(world: PrepareWorld, user: str = VICTIM) -> KeyHistory:
    async with world.user(CALLER) as client:
        return await published_keys(UserReader(client, COLLABORATION), COLLABORATION, user)


async def authorise(world: PrepareWorld, ticket: RunTicket, *, requested_at: int | None = None) -> None:
    async with world.user(CALLER) as client:
        authority = RunAuthority(UserReader(client, COLLABORATION), COLLABORATION, requested_at=requested_at)
        await authority.authorise(ticket)


def test_retirement_replaces_the_local_key_and_can_be_repeated(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        old = session.key().public.kid
        assert (await history(world)).retired == {}
        first = await retire_key(session)
        found = await history(world)
        assert first["retired"] == [old]
        assert [key.kid for key in found.active] == [session.key().public.kid] == [first["kid"]]
        assert set(found.retired) == {old}
        assert first["kid"] != old
        assert (await publish_key(session))["kid"] == first["kid"]
        second = await retire_key(session)
        found = await history(world)
        assert set(found.retired) == {old, first["kid"]}
        assert [key.kid for key in found.active] == [second["kid"]]
        assert found.retired[old] < found.retired[first["kid"]]

    play(tmp_path, work)


def test_a_lost_key_is_retired_from_a_new_folder(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        old = session.key().public.kid
        session.settings = session.settings.model_copy(update={"keys_dir": tmp_path / "another-machine"})
        assert await refused(publish_key(session)) == "ApproverKeyDiffers"
        assert await retire_key(session) == {"retired": [old], "kid": session.key().public.kid, "user": VICTIM}
        assert [key.kid for key in (await history(world)).active] == [session.key().public.kid]

    play(tmp_path, work)


def test_a_retirement_that_was_interrupted_is_completed_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        old = session.key().public.kid
        for step in ("cleanroom.governance.GovernanceUserClient.set_document_consent", "starters.operations.keys.install_next_signing_key"):
            with monkeypatch.context() as patch:
                patch.setattr(step, interrupt)
                with pytest.raises(KeyboardInterrupt):
                    await retire_key(session)
            assert session.key().public.kid == old
        done = await retire_key(session)
        found = await history(world)
        assert (set(found.retired), [key.kid for key in found.active]) == ({old}, [done["kid"]])
        assert session.key().public.kid == done["kid"]

    play(tmp_path, work)


def interrupt(*_arguments: object, **_options: object) -> None:
    raise KeyboardInterrupt


def test_a_run_with_decisions_from_before_the_retirement_stays_authorised(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        ticket = await world.ticket("r-1")
        await retire_key(session)
        await authorise(world, ticket)

    play(tmp_path, work)


def test_a_decision_recorded_after_the_retirement_does_not_count_whatever_time_it_contains(tmp_path: Path) -> None:
    """The thief has the key and everything that the operator has. The victim's own worker publishes what it is sent."""

    async def work(world: PrepareWorld, session: OwnSession) -> None:
        stolen = session.key()
        await retire_key(session)
        ticket = await reapproved(world, "again", stolen)
        assert await refused(authorise(world, ticket)) == "ApproverKeyRetired"
        assert (await history(world)).find(session.key().public.kid)

    play(tmp_path, work)


async def reapproved(world: PrepareWorld, query: str, key: SigningKey) -> RunTicket:
    """Approve the same query under another name, with a decision of the victim that is signed with ``key``."""
    async with world.user(CALLER) as caller, world.user(VICTIM) as victim, world.user(THIEF) as thief:
        held = await caller.get_document(QUERY)
        data = str(held.data).replace(f'"name":"{QUERY}"', f'"name":"{query}"')
        documents = UserDocuments(caller, COLLABORATION)
        version = await documents.put_draft(query, data, held.labels or {}, [VICTIM, THIEF])
        proposal = await documents.propose(query, version, sha256_hex(query.encode())[:32])
        for name, client, signer in ((VICTIM, victim, key), (THIEF, thief, world.keys[THIEF])):
            decision = Decision(
                collaboration=COLLABORATION,
                signer=name,
                expires=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
                query=query,
                version=version,
                proposal_id=proposal,
                digest=document_digest(data),
                decision="approve",
            )
            own = UserDocuments(client, COLLABORATION)
            await own.publish_own(
                decision_document_id(proposal, name), decision_document_data(sign(decision, signer)), DECISION_LABELS, name
            )
            await own.vote(proposal, name, accept=True)
    return await world.ticket("r-2", query)


def test_a_decision_by_the_successor_counts(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        await retire_key(session)
        await authorise(world, await reapproved(world, "again", session.key()))

    play(tmp_path, work)


def test_a_run_request_by_a_retired_key_starts_nothing_and_an_earlier_one_stays_valid_for_the_audit(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        ticket = await world.ticket("r-1")
        await retire_key(session)
        retired_at = next(iter((await history(world, CALLER)).retired.values()))
        assert await refused(authorise(world, ticket)) == "ApproverKeyRetired"
        await authorise(world, ticket, requested_at=retired_at - 1)
        assert await refused(authorise(world, ticket, requested_at=retired_at)) == "ApproverKeyRetired"

    play(tmp_path, work, CALLER)


def test_the_owners_worker_refuses_what_a_retired_key_signs(tmp_path: Path) -> None:
    """The worker has its own copy of the key folder, which still holds the stolen key."""

    async def work(world: PrepareWorld, session: OwnSession) -> None:
        copy = tmp_path / "worker"
        copy.mkdir(mode=0o700)
        (copy / "signing-key.pem").write_bytes((session.settings.keys_dir / "signing-key.pem").read_bytes())
        (copy / "signing-key.pem").chmod(0o600)
        settings = session.settings.model_copy(update={"keys_dir": copy})
        token = Session(settings).authorise("withdraw-query", QUERY, "0" * 64, version="2.1", proposal_id="p")
        command = AuthorisedCommand(party=VICTIM, collaboration=COLLABORATION, query=QUERY, authorisation=token)
        decision = Decision(
            collaboration=COLLABORATION,
            signer=VICTIM,
            expires=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
            query=QUERY,
            version="2.1",
            proposal_id="p",
            digest="0" * 64,
            decision="approve",
        )
        vote = VoteRequest(
            collaboration=COLLABORATION,
            query=QUERY,
            proposal_id="p",
            version="2.1",
            digest="0" * 64,
            token=sign(decision, load_or_create_signing_key(copy)),
        )
        async with world.user(VICTIM) as client:
            verifier = AuthorisationVerifier(settings, UserReader(client, COLLABORATION))
            await verifier.verify_command(command, {"withdraw-query"})
            await verifier.verify_vote(vote, "approve")
            await retire_key(session)
            assert await refused(verifier.verify_command(command, {"withdraw-query"})) == "ApproverKeyRetired"
            assert await refused(verifier.verify_vote(vote, "approve")) == "ApproverKeyRetired"

    play(tmp_path, work)


def test_another_user_neither_retires_a_key_nor_prevents_or_hides_its_retirement(tmp_path: Path) -> None:
    async def work(world: PrepareWorld, session: OwnSession) -> None:
        old = session.key().public.kid
        text = f'{{"userId":"{VICTIM}","retires":["{old}"],"keys":[]}}'
        async with world.user(THIEF) as client:
            own = UserDocuments(client, COLLABORATION)
            accepted, proposed, drafted = (retirement_document_id(VICTIM, number) for number in (1, 2, 3))
            await own.publish_own(accepted, text, {}, THIEF)
            version = await own.put_draft(proposed, text, {}, [THIEF])
            await own.propose(proposed, version, "ef" * 16)
            await own.put_draft(drafted, "draft", {}, [THIEF])
            assert await refused(client.set_document_consent(COLLABORATION, approver_key_document_id(VICTIM), enabled=False)) == (
                "NotUserDocumentApprover"
            )
            assert (await history(world)).retired == {}
            await retire_key(session)
            found = await history(world)
            assert (set(found.retired), [key.kid for key in found.active]) == ({old}, [session.key().public.kid])
            assert await refused(client.set_document_consent(COLLABORATION, approver_key_document_id(VICTIM), enabled=True)) == (
                "NotUserDocumentApprover"
            )

    play(tmp_path, work)


def test_occupied_numbers_leave_the_emergency_brake(tmp_path: Path) -> None:
    """With the consent switched off and no retirement, no key of the user counts for anything."""

    async def work(world: PrepareWorld, session: OwnSession) -> None:
        ticket = await world.ticket("r-1")
        async with world.user(THIEF) as client:
            for number in range(1, MAX_RETIREMENTS + 1):
                await UserDocuments(client, COLLABORATION).publish_own(retirement_document_id(VICTIM, number), "taken", {}, THIEF)
        assert await refused(retire_key(session)) == "TooManyRetirements"
        async with session.governance() as client:
            await client.set_document_consent(COLLABORATION, approver_key_document_id(VICTIM), enabled=False)
        assert (await history(world)).active == ()
        assert await refused(authorise(world, ticket)) == "ApproverKeyRetired"

    play(tmp_path, work)


@pytest.mark.parametrize(
    ("recorded_at", "code"), [(None, "ApproverKeyRetired"), (9, ""), (10, "ApproverKeyRetired"), (11, "ApproverKeyRetired")]
)
def test_a_retired_key_verifies_only_what_was_recorded_before(tmp_path: Path, recorded_at: int | None, code: str) -> None:
    key = load_or_create_signing_key(tmp_path / "keys")
    keys = KeyHistory(user_id="u", keys=(key.public,), retired={key.public.kid: 10})
    decision = Decision(
        collaboration="c",
        signer="u",
        expires=dt.datetime(2100, 1, 1, tzinfo=dt.UTC),
        query="q",
        version="1.1",
        proposal_id="p",
        digest="0" * 64,
        decision="approve",
    )

    def check() -> None:
        found = verify(Decision, sign(decision, key), keys, collaboration="c", now=dt.datetime.now(dt.UTC), recorded_at=recorded_at)
        assert found == decision

    if not code:
        check()
        return
    with pytest.raises(CleanRoomError) as caught:
        check()
    assert caught.value.code == code
