"""Control: a history that differs from a diagram fails the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.diagrams.diagrams import DIAGRAMS
from tests.diagrams.history import Event, recorded_events

PREPARE = DIAGRAMS[3]


def index(events: list[Event], activity: str) -> int:
    return next(number for number, event in enumerate(events) if event.what == activity)


def without(activity: str) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [event for number, event in enumerate(events) if number != index(events, activity)]


def swapped(events: list[Event]) -> list[Event]:
    first, second = index(events, "get_users"), index(events, "fetch_query")
    changed = list(events)
    changed[first], changed[second] = events[second], events[first]
    return changed


CHANGES: dict[str, Callable[[list[Event]], list[Event]]] = {
    "a step is missing": without("verify_spark"),
    "a secret is not granted": without("set_secret"),
    "a loop is missing": without("configure_idp"),
    "a step is repeated": lambda events: [*events, events[-1]],
    "a secret is granted twice": lambda events: [*events[: (at := index(events, "set_secret"))], events[at], *events[at:]],
    "two steps are swapped": swapped,
    "another worker performs a step": lambda events: [
        replace(event, queue="frontend") if event.what == "verify_spark" else event for event in events
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_changed_history_fails_the_comparison(change: Callable[[list[Event]], list[Event]]) -> None:
    events = await recorded_events("prepare")
    PREPARE.check_history(events)
    with pytest.raises(AssertionError):
        PREPARE.check_history(change(events))
