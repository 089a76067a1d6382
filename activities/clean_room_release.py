"""Looks again after a release to a run's pods, and undoes the release when it no longer holds.

A request to governance takes as long as the host of its sender likes. Between the verification and the write, the run can be
closed and consent can end. So the verification alone does not bound when a secret or a grant appears.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from temporalio import activity

from activities.clean_room_context import CleanRoomContext
from cleanroom.errors import Unavailable
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.verification import VerifiedRun

T = TypeVar("T")

UNDO_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Pauses in seconds between the attempts to undo a release while governance does not answer."""


@asynccontextmanager
async def undo_unless_confirmed(
    room: CleanRoomContext,
    verified: VerifiedRun,
    datasets: Sequence[Dataset],
    undo: Callable[[], Awaitable[None]],
    *,
    together: Collection[str] = (),
) -> AsyncIterator[None]:
    """Write to governance in the body; afterwards look again, and undo what was written if the body or the look fails.

    Args:
        room: The clean room.
        verified: The verified run.
        datasets: The datasets that the release concerns.
        undo: Takes back everything that the body may have written. Idempotent.
        together: Names of the datasets of which secrets are released at the same time.

    Raises:
        Refused: The code of the check that no longer holds. The release is undone.
    """
    try:
        yield
        await room.verifier.confirm(verified, datasets, together)
    except BaseException:
        # A cancelled activity must not leave its release behind.
        await asyncio.shield(_attempt(room, undo))
        raise


async def all_done(steps: Iterable[Awaitable[T]]) -> list[T]:
    """Perform steps at the same time, and return when all have ended; raises what the first failed one raised.

    An undo must not begin while one of the steps that it undoes is still on its way.
    """
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [task.result() for task in tasks]


async def _attempt(room: CleanRoomContext, undo: Callable[[], Awaitable[None]]) -> None:
    for pause in (*UNDO_PAUSES, None):
        try:
            await undo()
        except Unavailable as error:
            activity.logger.warning("a release could not be undone yet: %s", error.code)
            if pause is None:
                raise
            await room.pause(pause)
        else:
            return
