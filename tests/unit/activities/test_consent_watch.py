"""When the watch checks consent and renews the receipt, and the context that it uses."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import clean_room_context
from cleanroom.errors import Internal
from cleanroom.messages.run import (
    ConsentWatchRequest,
    RunTicket,
)
from cleanroom.spark.consent_receipt import RECEIPT_SECONDS, ConsentReceipt
from cleanroom.spark.tombstone import is_tombstone
from tests.audit_records import COLLABORATION
from tests.audit_world import BOOTSTRAP
from tests.run_world import RunWorld

# ---------------------------------------------------------------------- the watch


class Watch:
    """Drives ``watch_consent`` by its pauses: ``ages`` are the seconds that pass in each."""

    def __init__(self, runs: RunWorld, ages: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self.written: list[float] = []
        """Number of pauses before each receipt."""
        self._runs, self._ages = runs, ages
        monkeypatch.setattr(runs.process.room, "pause", self._pause)
        genuine = runs.process.client.put_secret

        async def put_secret(name: str, value: Any) -> str:
            self.written.append(len(self.pauses))
            return await genuine(name, value)

        monkeypatch.setattr(runs.process.client, "put_secret", put_secret)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) > len(self._ages):
            raise RuntimeError("enough")
        self._runs.now += dt.timedelta(seconds=self._ages[len(self.pauses) - 1])

    async def run(self, ticket: RunTicket, seconds: int = 5) -> Any:
        request = ConsentWatchRequest(ticket=ticket, proof=self._runs.proof(ticket), interval_seconds=seconds)
        return await self._runs.call(self._runs.process.secrets.watch_consent, request)


@pytest.mark.parametrize(
    ("ages", "written"),
    [([29, 1, 1], [0, 3]), ([30, 0.5], [0, 2]), ([31, 1], [0, 1]), ([-1, 1], [0, 1])],
    ids=["at 30 s", "older than 30 s", "beyond", "clock set back"],
)
async def test_a_receipt_is_renewed_when_it_is_older_than_a_quarter_of_its_life_or_the_clock_went_back(
    runs: RunWorld, ticket: RunTicket, ages: list[float], written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RECEIPT_SECONDS == 120
    watch = Watch(runs, ages, monkeypatch)
    with pytest.raises(RuntimeError, match="enough"):
        await watch.run(ticket)
    assert watch.written == written


@pytest.mark.parametrize(("asked", "pause"), [(0, 1), (5, 5), (15, 15), (3600, 15)])
async def test_consent_is_checked_every_second_at_most_and_every_15_seconds_at_least(
    runs: RunWorld, ticket: RunTicket, asked: int, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(runs, [], monkeypatch)
    with pytest.raises(RuntimeError, match="enough"):
        await watch.run(ticket, asked)
    assert watch.pauses == [pause]


async def test_withdrawn_consent_between_two_renewals_ends_the_watch_with_a_withdrawn_receipt(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(runs, [5], monkeypatch)
    genuine = runs.process.room.pause

    async def pause(seconds: float) -> None:
        await genuine(seconds)
        runs.governance.withdrawn.add("contosso-flights")

    monkeypatch.setattr(runs.process.room, "pause", pause)
    found = await watch.run(ticket)
    assert (found.document_id, bool(found.message)) == ("contosso-flights", True)
    assert found.message.endswith("m[contosso]")
    receipt = ConsentReceipt.model_validate_json(runs.governance.secrets[runs.job(ticket).consent_secret_id].reveal())
    assert receipt.consent == "withdrawn"


async def test_an_internal_error_ends_the_watch_and_leaves_the_receipt(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confirm(*arguments: Any) -> None:
        raise Internal("InternalError", "on purpose")

    watch = Watch(runs, [5], monkeypatch)
    genuine = runs.process.room.pause

    async def pause(seconds: float) -> None:
        await genuine(seconds)
        monkeypatch.setattr(runs.process.room.verifier, "confirm", confirm)

    monkeypatch.setattr(runs.process.room, "pause", pause)
    with pytest.raises(Internal):
        await watch.run(ticket)
    receipt = ConsentReceipt.model_validate_json(runs.governance.secrets[runs.job(ticket).consent_secret_id].reveal())
    assert receipt.consent == "enabled"


# ---------------------------------------------------------------------- the context


async def test_the_context_uses_the_real_clock_and_pause_and_the_attestation_agent(runs: RunWorld) -> None:
    room: Any = runs.process.client
    made = clean_room_context.CleanRoomContext(runs.settings, BOOTSTRAP, room, room)
    assert abs(made.now() - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert made.pause is asyncio.sleep
    assert made.authority is made.verifier.authority
    await made.write_barrier()
    assert is_tombstone(runs.governance.secrets["cleanroom_barrier"])
    assert BOOTSTRAP.contract_id == COLLABORATION


async def test_revocation_lists_are_read_at_every_use(runs: RunWorld, tmp_path: Path) -> None:
    files = tuple(tmp_path / name for name in ("one.crl", "two.crl"))
    settings = runs.settings.model_copy(update={"attestation": runs.settings.attestation.model_copy(update={"crl_files": files})})
    trust: Any = clean_room_context.run_trust(settings, BOOTSTRAP, runs.process.client.accepted_member_document)
    read = next(value for value in vars(trust).values() if callable(value) and getattr(value, "__name__", "") == "<lambda>")
    for text in (b"1", b"2"):
        for file in files:
            file.write_bytes(file.name[:1].encode() + text)
        assert read() == (b"o" + text, b"t" + text)
    files[1].unlink()
    with pytest.raises(FileNotFoundError):
        read()


async def test_each_check_is_in_the_heartbeat(runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch) -> None:
    Watch(runs, [1, 1], monkeypatch)
    environment, beats = ActivityEnvironment(), list[Any]()
    environment.on_heartbeat = lambda *details: beats.append(details)
    request = ConsentWatchRequest(ticket=ticket, proof=runs.proof(ticket), interval_seconds=5)
    with pytest.raises(RuntimeError, match="enough"):
        await environment.run(runs.process.secrets.watch_consent, request)
    assert ("enabled",) in beats
