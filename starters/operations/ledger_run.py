"""Shows and lists runs from governance's ledger alone, without Temporal."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from cleanroom.audit.export import run_events
from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS, parse_query
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Event, GovernanceUserClient
from cleanroom.identifiers import job_name, require_name, run_of_secret
from cleanroom.runs.held import read_held
from cleanroom.runs.ledger import CLEAN_ROOM_SOURCE, RUNS_SCOPE, PinnedRequest, closed_event_id, event_scope, runs_event_id
from cleanroom.runs.reader import UserReader
from cleanroom.spark.job import ResultReceipt
from cleanroom.spark.run_events import event_id, parse_event
from cleanroom.statements import RunRequest
from cleanroom.statements.signing import peek
from starters.operations.session import Session
from starters.terminal.output import with_names

NOT_IN_LEDGER = (
    "whether a run without an end is still running; `cleanroom cleanup` compares it with Temporal",
    "durations of the steps, retries, and the text of failures",
)
"""What the ledger does not hold of a run."""
_ENDS = {"RUN_COMPLETED": "COMPLETED", "RUN_FAILED": "FAILED", "RUN_CANCELLED": "CANCELLED"}
LISTED = 200
"""Maximum number of runs of a list."""
CONCURRENT = 20
"""Queries or runs that are read at the same time."""
_PROGRESS = {"SUBMITTED": "Running", "PREPARED": "Submitting"}


async def show_run_from_ledger(session: Session, run_id: str) -> dict[str, Any]:
    """Return where a run stands according to the ledger.

    Raises:
        NotFound: ``RunNotInLedger``.
    """
    require_name("run_id", run_id)
    async with session.governance() as client:
        pinned = await UserReader(client, session.collaboration).pinned_request(run_id)
        if pinned is None:
            raise NotFound(
                "RunNotInLedger",
                f"the ledger has no run {run_id!r}.",
                hint="A run is in the ledger from its first check on. `cleanroom run list` shows the runs that Temporal knows.",
            )
        events = await _own_events(session, client, pinned)
        closed = await client.latest_event(session.collaboration, event_id=closed_event_id(run_id), scope=RUNS_SCOPE)
        held = (await read_held(client, session.collaboration, runs={run_id})).runs.get(run_id)
    return _record(session, pinned, events, closed) | {"grants_held": sum(map(len, held.grants.values())) if held else 0}


async def _own_events(session: Session, client: GovernanceUserClient, pinned: PinnedRequest) -> list[Event]:
    """Return the entries of the pinned run in the order of the ledger, without those of another request with the same run ID."""
    try:
        text = str((await session.documents(client).get(pinned.query)).data)
        query = parse_query(text, document_id=pinned.query).application
        datasets = [item.specification for item in (*query.input_dataset, query.output_dataset)]
    except CleanRoomError:
        datasets = []
    found = [event async for event in run_events(client, session.collaboration, pinned.run_id, datasets)]
    return sorted((event for event in found if _is_own(event, pinned)), key=lambda event: event.seqno)


def _is_own(event: Event, pinned: PinnedRequest) -> bool:
    data = event.data if isinstance(event.data, dict) else {}
    return data.get("source") != CLEAN_ROOM_SOURCE or data.get("requestDigest") == pinned.digest


def _record(session: Session, pinned: PinnedRequest, events: list[Event], closed: Event | None) -> dict[str, Any]:
    by_name = {_member(event, "name"): event for event in reversed(events)}
    end = next((by_name[name] for name in _ENDS if name in by_name), None)
    request, receipt = _request(pinned), _receipt(by_name.get("QUERY_COMPLETED"))
    state = _ENDS[_member(end, "name")] if end else _open_state(by_name, closed)
    failure = _member(end, "message") if state == "FAILED" else _member(by_name.get("QUERY_FAILED"), "code")
    return {
        "run_id": pinned.run_id,
        "query": pinned.query,
        "caller": with_names(request.signer) if request else "",
        "parameters": request.parameters.model_dump(mode="json", exclude_none=True) if request else {},
        "state": state,
        "rows": receipt.rows if receipt else None,
        "suppressed_rows": receipt.suppressed_rows if receipt else None,
        "digest": receipt.digest if receipt else None,
        "failure": failure or None,
        "started": pinned.at.isoformat(timespec="seconds"),
        "ended": end.at.isoformat(timespec="seconds") if end else None,
        "closed": closed.at.isoformat(timespec="seconds") if closed else None,
        "steps": [_line(event) for event in events],
        "job": job_name(session.collaboration, pinned.query, pinned.run_id) if "SUBMITTED" in by_name else "",
        "spark_seconds": round(receipt.spark_seconds, 2) if receipt else None,
        "revoked": _member(by_name.get("REVOKED"), "message") or None,
        "origin": pinned.origin,
        "not_in_ledger": list(NOT_IN_LEDGER),
    }


def _open_state(by_name: dict[str, Event], closed: Event | None) -> str:
    """Return the state of a run without a recorded end. ``CLOSED``: its grants were revoked, and its end was not recorded."""
    if closed is not None:
        return "CLOSED"
    return next((state for name, state in _PROGRESS.items() if name in by_name), "Preparing")


def _member(event: Event | None, name: str) -> str:
    value = event.data.get(name) if event is not None and isinstance(event.data, dict) else None
    return value if isinstance(value, str) else ""


def _line(event: Event) -> str:
    what = " ".join(text for text in (_member(event, "name"), _member(event, "step")) if text)
    return f"{event.at:%Y-%m-%d %H:%M:%S} {what}"


def _request(pinned: PinnedRequest) -> RunRequest | None:
    try:
        return peek(RunRequest, pinned.request)
    except CleanRoomError:
        return None


def _receipt(event: Event | None) -> ResultReceipt | None:
    """Return the receipt that the run's pod entered. ``cleanroom run result`` compares it with the documents."""
    if event is None or not isinstance(event.data, dict):
        return None
    try:
        return parse_event(event.data).receipt
    except CleanRoomError:
        return None


async def recorded_ends(session: Session, runs: list[str]) -> dict[str, str]:
    """Return how closed runs have ended, by run ID. A run whose grants are not revoked, or whose end is not recorded, is left out."""
    async with session.governance() as client:
        reader = UserReader(client, session.collaboration)

        async def end(run_id: str) -> tuple[str, str]:
            pinned = await reader.pinned_request(run_id)
            if pinned is None or not await reader.run_closed(run_id):
                return run_id, ""
            state, _ = await _state(session, client, _Started(run_id, pinned.query, "", pinned.digest, pinned.at))
            return run_id, state if state in _ENDS.values() else ""

        return {run_id: state for run_id, state in await gather_limited(end, runs, CONCURRENT) if state}


class _Started(NamedTuple):
    """A run in the ledger."""

    run_id: str
    query: str
    caller: str
    digest: str
    at: dt.datetime


async def list_runs_from_ledger(session: Session) -> list[dict[str, Any]]:
    """List the latest runs that the ledger knows, newest first.

    A run is in the ledger's list of its query from the moment at which it counts against the owners' limits. Runs that have stored
    secrets before are found by these.
    """
    async with session.governance() as client:

        async def of_query(name: str) -> list[_Started]:
            if await client.latest_event(session.collaboration, event_id=runs_event_id(name), scope=RUNS_SCOPE) is None:
                return []
            events = client.events(session.collaboration, event_id=runs_event_id(name), scope=RUNS_SCOPE)
            return [_started(event, name) async for event in events if _member(event, "runId")]

        async def of_secret(run_id: str) -> _Started | None:
            pinned = await UserReader(client, session.collaboration).pinned_request(run_id)
            if pinned is None:
                return None
            request = _request(pinned)
            return _Started(run_id, pinned.query, request.signer if request else "", pinned.digest, pinned.at)

        async def row(run: _Started) -> dict[str, Any]:
            state, failure = await _state(session, client, run)
            return {
                "run": run.run_id,
                "query": run.query,
                "caller": with_names(run.caller),
                "state": state,
                "failure": failure,
                "started": run.at.isoformat(timespec="seconds"),
            }

        queries = [item.id for item in await client.list_documents(QUERY_LABELS)]
        counted = [run for runs in await gather_limited(of_query, queries, CONCURRENT) for run in runs]
        known = {run.run_id for run in counted}
        holding = {run_of_secret(secret_id) for secret_id in await client.list_secrets(session.collaboration)} - known - {None}
        pinned = [run for run in await gather_limited(of_secret, filter(None, holding), CONCURRENT) if run is not None]
        # A retried step counts a run twice; its first entry has the time at which it began.
        runs: dict[tuple[str, str], _Started] = {}
        for run in sorted((*counted, *pinned), key=lambda run: run.at):
            runs.setdefault((run.run_id, run.digest), run)
        latest = sorted(runs.values(), key=lambda run: (run.at, run.run_id), reverse=True)[:LISTED]
        return await gather_limited(row, latest, CONCURRENT)


def _started(event: Event, query: str) -> _Started:
    return _Started(_member(event, "runId"), query, _member(event, "caller"), _member(event, "requestDigest"), event.at)


async def _state(session: Session, client: GovernanceUserClient, run: _Started) -> tuple[str, str]:
    """Return the state of a run and the code of its failure, from as few entries as possible."""
    progress = "Preparing"
    for name in (*_ENDS, *_PROGRESS):
        event = await client.latest_event(session.collaboration, event_id=event_id(run.run_id, name), scope=event_scope(run.run_id))
        if event is None or _member(event, "requestDigest") != run.digest:
            continue
        if name in _ENDS:
            return _ENDS[name], _member(event, "message") if name == "RUN_FAILED" else ""
        progress = _PROGRESS[name]
        break
    closed = await client.latest_event(session.collaboration, event_id=closed_event_id(run.run_id), scope=RUNS_SCOPE)
    return ("CLOSED" if closed is not None else progress), ""
