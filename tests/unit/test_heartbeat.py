"""Heartbeaters outside a worker: pace, resumed details, and an end that leaves nothing running."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from cleanroom.temporal.heartbeat import Heartbeater, ThreadHeartbeater


class Position(BaseModel):
    line: int = 0


def environment(details: Any = None, timeout: float = 0.15) -> tuple[ActivityEnvironment, list[Any]]:
    beats: list[Any] = []
    env = ActivityEnvironment()
    env.info = replace(
        ActivityEnvironment.default_info(),
        heartbeat_timeout=timedelta(seconds=timeout),
        heartbeat_details=[] if details is None else [details],
    )
    env.on_heartbeat = lambda *args: beats.append(args[0] if args else None)
    return env, beats


async def test_beats_by_itself_with_the_latest_details() -> None:
    env, beats = environment()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as beat:
            assert beat.details is None
            beat.beat(Position(line=7))
            while beats.count(Position(line=7)) < 3:
                await asyncio.sleep(0.005)

    async with asyncio.timeout(5):
        await env.run(act)
    assert beats[0] is None
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "heartbeater"]


@pytest.mark.parametrize(("details", "expected"), [({"line": 3}, Position(line=3)), ({"line": "x"}, None), ("other", None), (None, None)])
async def test_resumes_typed_or_starts_over(details: Any, expected: Position | None) -> None:
    env, _ = environment(details)

    @activity.defn
    async def act() -> Position | None:
        async with Heartbeater(Position) as beat:
            return beat.details

    assert await env.run(act) == expected


async def test_an_error_records_the_position_last() -> None:
    env, beats = environment()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as beat:
            beat.details = Position(line=9)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await env.run(act)
    assert beats[-1] == Position(line=9)


async def test_cancellation_stops_the_body() -> None:
    env, beats = environment()
    started = asyncio.Event()

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as beat:
            beat.beat(Position(line=1))
            started.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(env.run(act))
    await started.wait()
    env.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert beats[-1] == Position(line=1)


async def test_worker_shutdown_records_at_once() -> None:
    env, beats = environment(timeout=60)

    @activity.defn
    async def act() -> None:
        async with Heartbeater(Position) as beat:
            beat.details = Position(line=5)
            env.worker_shutdown()
            while Position(line=5) not in beats:
                await asyncio.sleep(0.005)

    async with asyncio.timeout(5):
        await env.run(act)


def test_threads_beat_too_and_end() -> None:
    env, beats = environment()

    @activity.defn
    def act() -> None:
        with ThreadHeartbeater(Position) as beat:
            beat.beat(Position(line=2))
            assert not beat.stopping
            waiting = threading.Event()
            while beats.count(Position(line=2)) < 3:
                waiting.wait(0.005)

    env.run(act)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeater"]
