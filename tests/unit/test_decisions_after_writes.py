"""Decisions that follow a write, against a governance node that lags behind: revocation, closing, counting and overwriting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from activities.clean_room_grants import grant, revoke
from cleanroom.claims import HOST_DATA
from cleanroom.errors import Internal, Unavailable
from cleanroom.governance import CleanRoomClient, GovernanceUserClient, commit_together
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, runs_event_id
from cleanroom.runs.reader import AttestedReader
from cleanroom.secret import Secret
from localcloud.standins.cgs.bootstrap import User, bootstrap
from tests.conformance.governance.standin import MEMBER_TOKEN, TENANT
from tests.prepare_world import CLEAN_ROOM_HOST, COLLABORATION, PEOPLE, PrepareWorld, prepare_world

HOSTS = ("ab" * 32, "cd" * 32)
LAG = 0.7


@dataclass
class Room:
    """The clean room's clients, which share their position, and an observer on the primary."""

    client: CleanRoomClient
    user: GovernanceUserClient

    async def policy(self) -> list[str]:
        return list((await self.user.delegate_policy(COLLABORATION, "secrets", "s")).get(HOST_DATA) or [])


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrepareWorld]:
    with prepare_world(tmp_path_factory.mktemp("after-writes"), lag_ms=1) as found:
        users = [User(oid=name, tenant_id=TENANT) for name in PEOPLE]
        await bootstrap(found._url, found._ca, MEMBER_TOKEN, COLLABORATION, users, [CLEAN_ROOM_HOST], trust=found.trust_document)
        yield found


@pytest.fixture(params=[0, 1], ids=["user-on-one-node", "user-on-the-other-node"])
async def room(world: PrepareWorld, request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    """Clients whose first connections lead to the primary and to the node that lags, and the other way round."""
    world.nodes.lag = 0.0
    async with AsyncExitStack() as stack:
        user = await stack.enter_async_context(world.user("clean-room"))
        client = await stack.enter_async_context(world.clean_room(user.position))
        if request.param:
            await client.contract_consent()
        await user.list_secrets(COLLABORATION)
        await client.contract_consent()
        world.nodes.lag = LAG
        yield Room(client, user)
        world.nodes.lag = 0.0


async def test_a_grant_that_was_just_made_is_revoked(room: Room) -> None:
    for _ in range(3):
        async with commit_together():
            await grant(room.client, "secrets", "s", HOSTS)
            removed = await revoke(room.client, room.user, COLLABORATION, "secrets", "s", HOSTS)
            assert {item.host_data for item in removed} == set(HOSTS)
            assert not set(HOSTS) & set(await room.policy())


async def test_revoking_again_removes_nothing(room: Room) -> None:
    await grant(room.client, "secrets", "s", HOSTS)
    await revoke(room.client, room.user, COLLABORATION, "secrets", "s", HOSTS)
    assert await revoke(room.client, room.user, COLLABORATION, "secrets", "s", HOSTS) == ()


async def test_a_revocation_that_has_no_effect_fails_and_can_be_retried(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await grant(room.client, "secrets", "s", HOSTS)

    async def nothing(*arguments: object) -> None:
        return None

    monkeypatch.setattr(room.client, "set_delegate", nothing)
    with pytest.raises(Unavailable) as failed:
        await revoke(room.client, room.user, COLLABORATION, "secrets", "s", HOSTS)
    assert (failed.value.code, failed.value.retryable) == ("GrantsRemain", True)


async def test_a_value_that_another_process_removed_first_is_no_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await grant(room.client, "secrets", "s", HOSTS)
    real = room.client.set_delegate

    async def late(*arguments: object) -> None:
        await real(*arguments)  # type: ignore[arg-type]
        raise Internal("InternalError", "the value is absent")

    monkeypatch.setattr(room.client, "set_delegate", late)
    assert await revoke(room.client, room.user, COLLABORATION, "secrets", "s", HOSTS) == ()
    assert not set(HOSTS) & set(await room.policy())


async def test_a_run_that_was_just_counted_and_closed_is_in_the_ledger(room: Room) -> None:
    reader = AttestedReader(room.client, room.user, COLLABORATION)
    for number in range(3):
        query, run = f"q{number}", f"r{number}"
        async with commit_together():
            body = {"runId": run}
            await room.client.put_event(body, event_id=runs_event_id(query), scope=RUNS_SCOPE)
            latest = await room.user.latest_event(COLLABORATION, event_id=runs_event_id(query), scope=RUNS_SCOPE)
            assert latest is not None
            await room.client.put_event(body, event_id=closed_event_id(run), scope=RUNS_SCOPE)
            assert await reader.run_closed(run)


async def test_a_secret_that_was_just_stored_is_in_the_list(room: Room) -> None:
    for number in range(3):
        async with commit_together():
            secret = await room.client.put_secret(f"late-{number}", Secret(b"value"))
            assert secret in await room.user.list_secrets(COLLABORATION)
