"""A clock of the workers that is set forward and back. The product takes its clock as an argument; SDKs and TLS keep the real one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

from workers import boundaries

JUMP = dt.timedelta(seconds=50)
"""Less than :data:`cleanroom.spark.consent_receipt.CLOCK_SECONDS`, by which clocks may differ."""


class JumpingClock:
    """Is ahead by :data:`JUMP`, right, and behind by :data:`JUMP`, by turns."""

    def __init__(self) -> None:
        self._turn = 0

    def jump(self, *attempt: str) -> None:
        """Set the clock."""
        self._turn += 1

    def now(self) -> dt.datetime:
        """Return the time of this clock."""
        return dt.datetime.now(dt.UTC) + (self._turn % 3 - 1) * JUMP


@contextmanager
def jumping(clock: JumpingClock) -> Iterator[None]:
    """Give ``clock`` to all workers that are created in the block."""
    with ExitStack() as stack:
        for name in ("CleanRoomContext", "AuthorisationVerifier", "SparkServiceActivities"):
            stack.enter_context(patch.object(boundaries, name, partial(getattr(boundaries, name), now=clock.now)))
        yield
