"""Intervals of schedules, as a user gives them."""

from __future__ import annotations

import datetime as dt
import re

from cleanroom.errors import InvalidInput

SHORTEST = dt.timedelta(minutes=1)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_interval(text: str) -> dt.timedelta:
    """Parse an interval such as ``90s``, ``15m``, ``1h`` or ``1d``.

    Raises:
        InvalidInput: ``IntervalInvalid``.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    interval = dt.timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else dt.timedelta()
    if interval < SHORTEST:
        raise InvalidInput(
            "IntervalInvalid", f"--schedule: {text!r} is not an interval of at least a minute.", hint="Write it as 15m, 1h or 1d."
        )
    return interval
