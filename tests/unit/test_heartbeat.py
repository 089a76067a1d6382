"""``Heartbeater`` outside a worker: interval, resumed position, cancellation, shutdown, and no task left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from cleanroom.temporal.heartbeat import Heartbeater
from tests.patience import PATIENCE


class Position(BaseModel):
    line: int = 0


def environment(details: Any = None, timeout: float = 0.15) -> tuple[ActivityEnvironment, list[Any]]:
    heartbeats: list[Any] = []
    env = ActivityEnvironment()
    env.info = replace(
        ActivityEnvironment.default_info(),
        heartbeat_timeout=timedelta(seconds=timeout),
        heartbeat_details=[] if details is None else [details],
    )
    env.on_heartbeat = lambda *args: heartbeats.append(args[0] if args else None)
    return env, heartbeats


async def test_heartbeats_carry_the_latest_details() -> None:
    env, heartbeats = environment()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as heartbeat:
            assert heartbeat.details is None
            heartbeat.record(Position(line=7))
            while heartbeats.count(Position(line=7)) < 3:
                await asyncio.sleep(0.005)

    async with asyncio.timeout(PATIENCE):
        await env.run(act)
    assert heartbeats[0] is None
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "heartbeater"]


@pytest.mark.parametrize(("details", "expected"), [({"line": 3}, Position(line=3)), ({"line": "x"}, None), ("other", None), (None, None)])
async def test_recorded_details_are_validated_or_ignored(details: Any, expected: Position | None) -> None:
    env, _ = environment(details)

    @activity.defn
    async def act() -> Position | None:
        async with Heartbeater(Position) as heartbeat:
            return heartbeat.details

    assert await env.run(act) == expected


async def test_a_failing_activity_records_its_position_last() -> None:
    env, heartbeats = environment()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as heartbeat:
            heartbeat.details = Position(line=9)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await env.run(act)
    assert heartbeats[-1] == Position(line=9)


async def test_cancellation_interrupts_the_activity() -> None:
    env, heartbeats = environment()
    started = asyncio.Event()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as heartbeat:
            heartbeat.record(Position(line=1))
            started.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(env.run(act))
    await started.wait()
    env.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert heartbeats[-1] == Position(line=1)


async def test_worker_shutdown_records_the_position_at_once() -> None:
    env, heartbeats = environment(timeout=60)

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as heartbeat:
            heartbeat.details = Position(line=5)
            env.worker_shutdown()
            while Position(line=5) not in heartbeats:
                await asyncio.sleep(0.005)

    async with asyncio.timeout(PATIENCE):
        await env.run(act)
