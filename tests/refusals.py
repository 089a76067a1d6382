"""How an operation fails."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from cleanroom.errors import CleanRoomError


async def refused(work: Awaitable[object]) -> str:
    """Return the code of the error with which ``work`` fails."""
    with pytest.raises(CleanRoomError) as caught:
        await work
    return caught.value.code
