"""One delegate policy, the second look after a release, and what undoes the release."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from activities.clean_room_grants import REVOCATION_ROUNDS, grant, revoke
from activities.clean_room_release import UNDO_PAUSES, all_done, undo_unless_confirmed
from cleanroom.claims import HOST_DATA, NOBODY
from cleanroom.errors import Internal, Refused, Unavailable
from tests.refusals import refused

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


# ---------------------------------------------------------------------- one delegate policy


class Policy:
    """One delegate policy in memory. ``fails`` are raised by the next removals."""

    def __init__(self, *held: str, fails: tuple[Exception, ...] = (), keeps: bool = False) -> None:
        self.held, self.fails, self.keeps = list(held), list(fails), keeps
        self.sent: list[tuple[str, str, str, dict[str, Any]]] = []
        self.read: list[tuple[str, str, str]] = []

    async def set_delegate(self, delegate_type: str, delegate_id: str, kind: str, claims: dict[str, Any]) -> None:
        self.sent.append((delegate_type, delegate_id, kind, claims))
        if self.fails:
            raise self.fails.pop(0)
        if kind == "remove" and not self.keeps:
            self.held = [value for value in self.held if value not in claims[HOST_DATA]]

    async def delegate_policy(self, contract_id: str, delegate_type: str, delegate_id: str) -> dict[str, Any]:
        self.read.append((contract_id, delegate_type, delegate_id))
        return {HOST_DATA: list(self.held)} if self.held else {}

    async def revoke(self, *hosts: str) -> tuple[str, ...]:
        client: Any = self
        found = await revoke(client, client, "flights", "events", "writer", hosts)
        assert {(item.delegate_type, item.delegate_id) for item in found} <= {("events", "writer")}
        return tuple(item.host_data for item in found)


async def test_a_grant_adds_the_hosts_and_one_that_no_guest_has() -> None:
    client: Any = Policy()
    made = await grant(client, "events", "writer", [A, B])
    ((*where, claims),) = client.sent
    assert where == ["events", "writer", "add"]
    assert claims[HOST_DATA] == [A, B, NOBODY]
    assert [(item.delegate_type, item.delegate_id, item.host_data) for item in made] == [("events", "writer", host) for host in (A, B)]


async def test_a_revocation_removes_what_is_held_and_reads_until_nothing_is() -> None:
    policy = Policy(B, "x", A, NOBODY)
    assert await policy.revoke(A, B, C) == (A, B)
    assert policy.sent == [("events", "writer", "remove", {HOST_DATA: [A, B]})]
    assert policy.read == [("flights", "events", "writer")] * 2
    assert policy.held == ["x", NOBODY]


async def test_a_policy_without_hosts_has_nothing_to_remove() -> None:
    policy = Policy()
    assert await policy.revoke(A) == ()
    assert policy.sent == []


async def test_what_another_revocation_removed_first_is_not_reported_as_removed() -> None:
    policy = Policy(A, fails=(Internal("InternalError", "absent"),))
    policy_set = policy.set_delegate

    async def raced(*arguments: Any) -> None:
        policy.held = []
        await policy_set(*arguments)

    policy.set_delegate = raced  # type: ignore[method-assign]
    assert await policy.revoke(A) == ()


async def test_another_internal_error_is_raised() -> None:
    with pytest.raises(Internal, match="on purpose"):
        await Policy(A, fails=(Internal("ResponseMalformed", "on purpose"),)).revoke(A)


async def test_grants_that_remain_after_four_rounds_are_an_error() -> None:
    policy = Policy(A, keeps=True)
    with pytest.raises(Unavailable) as caught:
        await policy.revoke(A)
    assert caught.value.code == "GrantsRemain"
    assert len(policy.sent) == REVOCATION_ROUNDS == 4


# ---------------------------------------------------------------------- the second look


class Room:
    """Records the second look and the pauses of an undo."""

    def __init__(self, error: Exception | None = None) -> None:
        self.verifier, self.error = self, error
        self.confirmed: list[Any] = []
        self.pauses: list[float] = []

    async def confirm(self, *arguments: Any) -> None:
        self.confirmed.append(arguments)
        if self.error is not None:
            raise self.error

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def released(room: Any, undo: Any, body: Any = None) -> None:
    verified: Any = "verified"
    datasets: Any = ["d"]
    async with undo_unless_confirmed(room, verified, datasets, undo, together=("d", "e")):
        if body is not None:
            await body


async def test_a_release_that_still_holds_is_looked_at_again_and_not_undone() -> None:
    room, undone = Room(), []

    async def undo() -> None:
        undone.append(1)

    await released(room, undo)
    assert room.confirmed == [("verified", ["d"], ("d", "e"))]
    assert undone == []


@pytest.mark.parametrize(("failures", "pauses"), [(0, 0), (1, 1), (4, 4)])
async def test_an_undo_is_repeated_while_governance_is_away(failures: int, pauses: int) -> None:
    room, attempts = Room(Refused("RunClosed", "on purpose")), 0

    async def undo() -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= failures:
            raise Unavailable("GovernanceUnreachable", "on purpose")

    assert await refused(released(room, undo)) == "RunClosed"
    assert attempts == failures + 1
    assert room.pauses == list(UNDO_PAUSES[:pauses]) == [0.2, 0.5, 1.0, 2.0][:pauses]


async def test_an_undo_that_fails_five_times_is_the_error() -> None:
    room, attempts = Room(Refused("RunClosed", "on purpose")), 0

    async def undo() -> None:
        nonlocal attempts
        attempts += 1
        raise Unavailable("GovernanceUnreachable", "on purpose")

    assert await refused(released(room, undo)) == "GovernanceUnreachable"
    assert (attempts, len(room.pauses)) == (5, 4)


async def test_a_cancelled_release_is_undone_to_the_end() -> None:
    room, started, go, undone = Room(), asyncio.Event(), asyncio.Event(), []

    async def undo() -> None:
        started.set()
        await go.wait()
        undone.append(1)

    task = asyncio.create_task(released(room, undo, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    go.set()
    while not undone:
        await asyncio.sleep(0)
    assert room.confirmed == []


async def test_a_failed_step_waits_for_the_others_and_raises() -> None:
    go, ended = asyncio.Event(), []

    async def fails() -> int:
        raise Unavailable("GovernanceUnreachable", "on purpose")

    async def slow() -> int:
        await go.wait()
        ended.append(1)
        return 2

    work = asyncio.create_task(all_done([fails(), slow()]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not work.done()
    go.set()
    assert await refused(work) == "GovernanceUnreachable"
    assert ended == [1]
    assert await all_done([slow(), slow()]) == [2, 2]
    assert await all_done([]) == []


async def test_cancelled_steps_are_cancelled_and_waited_for() -> None:
    ended: list[int] = []

    async def step(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5 * number):
                await asyncio.sleep(0)
            ended.append(number)

    async def finished() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.append(0)

    for steps in ([step(1), step(2)], [finished()]):
        work = asyncio.create_task(all_done(steps))
        for _ in range(3):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        assert ended[:2] == [1, 2]
    assert ended == [1, 2, 0]


async def test_removed_hosts_are_returned_in_their_order() -> None:
    hosts = tuple(digit * 64 for digit in "0123456789abcdef")
    assert await Policy(*hosts[::-1]).revoke(*hosts[::-1]) == hosts
