"""How much of the ledger a reader reads: the pin of a run, and the runs of a query that have started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cleanroom.governance import Event
from cleanroom.governance.position import observe
from cleanroom.identifiers import TransactionId
from cleanroom.runs.ledger import RUN_PINNED, pinned_event_id, run_key, runs_event_id
from cleanroom.runs.reader import UserReader


class Ledger:
    """A governance client on a ledger; each read notes the position from which it read."""

    def __init__(self) -> None:
        self.entries: list[Event] = []
        self.view, self.seqno = 2, 10
        self.positioned = True
        """Whether governance says up to which position it has answered."""
        self.reads: list[int | str] = []

    def write(self, event_id: str, data: dict[str, Any]) -> None:
        self.seqno += 1
        self.entries.append(Event(scope="runs", id=event_id, seqno=self.seqno, timestamp="0000000000005", data=data))

    def pin(self, request: str) -> None:
        self.write(pinned_event_id("r-1"), {"name": RUN_PINNED, "runId": "r-1", "query": "totals", "request": request})

    def start(self, run_id: str) -> None:
        self.write(runs_event_id("totals"), {"runId": run_id, "requestDigest": "d"})

    async def latest_event(self, contract_id: str, *, event_id: str, scope: str) -> Event | None:
        self.reads.append("latest")
        if self.positioned:
            observe(TransactionId(self.view, self.seqno))
        found = [event for event in self.entries if event.id == event_id]
        return found[-1] if found else None

    async def events(self, contract_id: str, *, event_id: str, scope: str, from_seqno: int = 1) -> AsyncIterator[Event]:
        self.reads.append(from_seqno)
        for event in self.entries:
            if event.id == event_id and event.seqno >= from_seqno:
                yield event


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def reader_of(ledger: Ledger) -> UserReader:
    client: Any = ledger
    return UserReader(client, "flights")


async def pinned(reader: UserReader) -> str:
    found = await reader.pinned_request("r-1")
    return found.request if found is not None else ""


# ---------------------------------------------------------------------- the pin


async def test_the_pin_that_directly_follows_its_absence_needs_no_range(ledger: Ledger) -> None:
    reader = reader_of(ledger)
    assert await pinned(reader) == ""
    ledger.pin("first")
    assert await pinned(reader) == "first"
    assert ledger.reads == ["latest", "latest"]


async def test_of_two_pins_the_earliest_counts_and_is_read_from_where_there_was_none(ledger: Ledger) -> None:
    reader = reader_of(ledger)
    assert await pinned(reader) == ""
    ledger.pin("first")
    ledger.pin("second")
    assert await pinned(reader) == "first"
    assert ledger.reads == ["latest", "latest", 11]


async def test_the_pin_is_read_from_the_beginning_without_a_known_absence(ledger: Ledger) -> None:
    ledger.pin("first")
    ledger.pin("second")
    assert await pinned(reader_of(ledger)) == "first"
    assert ledger.reads == ["latest", 1]


async def test_the_pin_is_read_from_the_beginning_after_a_change_of_the_primary(ledger: Ledger) -> None:
    """The new primary may have rolled back what showed the absence."""
    reader = reader_of(ledger)
    assert await pinned(reader) == ""
    ledger.view, ledger.seqno = 3, 8
    ledger.pin("first")
    ledger.seqno = 10
    ledger.pin("second")
    assert await pinned(reader) == "first"
    assert ledger.reads == ["latest", "latest", 1]


@pytest.mark.parametrize("first", [True, False])
async def test_the_pin_is_read_from_the_beginning_after_an_answer_without_a_position(ledger: Ledger, first: bool) -> None:
    reader = reader_of(ledger)
    ledger.positioned = not first
    assert await pinned(reader) == ""
    ledger.positioned = first
    ledger.pin("first")
    assert await pinned(reader) == "first"
    assert ledger.reads == ["latest", "latest", 1]


@pytest.mark.parametrize(("others", "read"), [(1023, []), (1024, [1])])
async def test_absences_of_the_latest_1024_runs_are_remembered(ledger: Ledger, others: int, read: list[int]) -> None:
    reader = reader_of(ledger)
    assert await pinned(reader) == ""
    for number in range(others):
        await reader.pinned_request(f"other-{number}")
    ledger.pin("first")
    ledger.reads.clear()
    assert await pinned(reader) == "first"
    assert ledger.reads == ["latest", *read]


async def test_an_entry_that_is_no_pin_is_not_one(ledger: Ledger) -> None:
    reader = reader_of(ledger)
    assert await pinned(reader) == ""
    ledger.write(pinned_event_id("r-1"), {"name": RUN_PINNED, "runId": "r-2", "query": "totals", "request": "x"})
    assert await pinned(reader) == ""


# ---------------------------------------------------------------------- the runs that have started


async def test_a_query_without_runs_needs_no_range(ledger: Ledger) -> None:
    assert await reader_of(ledger).runs_started("totals") == frozenset()
    assert ledger.reads == ["latest"]


async def test_started_runs_are_read_from_the_last_known_entry(ledger: Ledger) -> None:
    reader = reader_of(ledger)
    ledger.start("r-1")
    ledger.start("r-2")
    assert await reader.runs_started("totals") == {run_key("r-1", "d"), run_key("r-2", "d")}
    assert await reader.runs_started("totals") == {run_key("r-1", "d"), run_key("r-2", "d")}
    ledger.start("r-3")
    assert len(await reader.runs_started("totals")) == 3
    assert ledger.reads == ["latest", 1, "latest", "latest", 12]


async def test_every_count_asks_governance(ledger: Ledger) -> None:
    reader = reader_of(ledger)
    for number in range(3):
        ledger.start(f"r-{number}")
        assert len(await reader.runs_started("totals")) == number + 1
