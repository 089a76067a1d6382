"""Activities of the Clean Room Application that find what ended runs have left in governance. They undo nothing.

Temporal says which runs are open. Its operator can lie about that: then a run is stopped or a leftover stays, as if the operator had
terminated the run or had started no cleanup. Nothing is released on the strength of these answers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, MutableMapping

from cachetools import LRUCache
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus

from activities.clean_room_context import CleanRoomContext
from cleanroom.concurrency import gather_limited
from cleanroom.errors import CleanRoomError, Refused, Unavailable
from cleanroom.identifiers import conclude_workflow_id, run_workflow_id
from cleanroom.messages.cleanup import (
    HeldFound,
    HeldRequest,
    Kind,
    RunHeld,
    StatesFound,
    StatesRequest,
    WorkflowState,
)
from cleanroom.messages.run import RunTicket
from cleanroom.runs.held import SUBJECTS, Held, HeldByRuns, Place, read_held
from cleanroom.runs.ledger import PinnedRequest
from cleanroom.statements import RunRequest
from cleanroom.statements.signing import peek
from cleanroom.temporal.heartbeat import Heartbeater
from cleanroom.temporal.run_states import namespace_exists, namespace_id, workflow_status

MOST_RUNS = 500
"""Largest number of runs in one answer, which is then far smaller than Temporal's limit of 2 MiB."""
MOST_DERIVED = 100
"""For how many runs one look derives the host data of their guests, which takes the query gate."""
SETTLED = 100_000
"""How many runs that hold nothing a process remembers."""
SETTLED_AFTER = dt.timedelta(days=1)
"""Age from which a closed run that holds nothing is not looked at again. A release that was under way at its end has ended by then."""


class CleanRoomCleanup:
    """Compares governance with the open runs."""

    def __init__(self, room: CleanRoomContext) -> None:
        self._room = room
        self._settled: MutableMapping[str, None] = LRUCache(SETTLED)

    @activity.defn
    async def find_held(self, request: HeldRequest) -> HeldFound:
        """Find what runs hold in governance: secrets that are not overwritten, and grants of each kind.

        Raises:
            Refused: ``CollaborationMismatch``.
        """
        contract = self._contract(request.collaboration)
        async with Heartbeater(str) as heartbeat:
            # Without it, a node that lags behind could show grants that are revoked, or no pin of a run that has one.
            await self._room.write_barrier()
            read_at = self._room.now()
            found = await read_held(self._room.user, contract, runs=request.runs, settled=self._settled)
            wanted = sorted({*found.runs, *request.jobs})
            done = 0

            async def look(run_id: str) -> tuple[RunHeld, PinnedRequest | None]:
                nonlocal done
                result = await self._run(run_id, found.runs.get(run_id, Held()), named=request.runs is not None)
                done += 1
                heartbeat.record(f"{done} of {len(wanted)} runs")
                return result

            looked = dict(zip(wanted, await gather_limited(look, wanted), strict=True))
            shared, unattributed = await self._shared(found, {run_id: pinned for run_id, (_, pinned) in looked.items()})
        runs = [run.model_copy(update={"held": _counts(run.held, shared.get(run_id, {}))}) for run_id, (run, _) in looked.items()]
        if not unattributed and request.runs is None:
            self._settle(runs, read_at)
        runs = [run for run in runs if run.held or run.run_id in request.jobs]
        runs.sort(key=lambda run: (run.pinned_at or read_at, run.run_id))
        return HeldFound(read_at=read_at, runs=tuple(runs[:MOST_RUNS]), unattributed=unattributed, more=len(runs) > MOST_RUNS)

    def _contract(self, requested: str) -> str:
        contract = self._room.collaboration
        if requested != contract:
            raise Refused("CollaborationMismatch", f"cleanup: this process serves {contract!r}, not {requested!r}.")
        return contract

    async def _run(self, run_id: str, held: Held, *, named: bool) -> tuple[RunHeld, PinnedRequest | None]:
        """Read what the ledger says about a run, and which of its secrets have a value."""
        room, contract = self._room, self._room.collaboration
        pinned = await room.authority.pinned_request(run_id)
        closed = await room.reader.run_closed(run_id)
        counts: dict[Kind, int] = {
            "secrets": sum([await room.has_value(secret_id) for secret_id in sorted(held.secrets)]),
            "secret grants": sum(map(len, held.grants.values())),
            "not closed": int(pinned is not None and not closed),
        }
        run = RunHeld(run_id=run_id, closed=closed, held=_counts(counts, {}))
        if pinned is None:
            return run, None
        facts = {"query": pinned.query, "pinned": True, "pinned_at": pinned.at, "origin": pinned.origin}
        expires = _expiry(pinned)
        return run.model_copy(update=facts | {"expires": expires, "ticket": _ticket(contract, pinned) if named else None}), pinned

    async def _shared(self, found: HeldByRuns, pins: Mapping[str, PinnedRequest | None]) -> tuple[Mapping[str, Mapping[Kind, int]], int]:
        """Attribute the host data in shared policies to runs; returns counts by run, and how many values no run has.

        A run's guests are those that may read its secrets. For values that are left, the guests of further runs are derived, the latest
        run first.
        """
        hosts: dict[str, frozenset[str]] = {run_id: held.host_data for run_id, held in found.runs.items()}
        left = {value for values in found.shared.values() for value in values}.difference(*hosts.values())
        others = sorted((pin for pin in pins.values() if pin is not None), key=lambda pin: pin.at, reverse=True)
        for pin in others[:MOST_DERIVED]:
            if not left:
                break
            derived = await self._derived(pin)
            hosts[pin.run_id] = hosts.get(pin.run_id, frozenset()) | derived
            left -= derived
        counts = {run_id: _shared_counts(found.shared, values) for run_id, values in hosts.items()}
        unattributed = sum(len(values & left) for values in found.shared.values())
        return counts, unattributed

    async def _derived(self, pin: PinnedRequest) -> frozenset[str]:
        """Return the host data of a run's guests, as its documents give it."""
        try:
            past = await self._room.verifier.past_run(_ticket(self._room.collaboration, pin))
        except Unavailable:
            raise
        except CleanRoomError as error:
            activity.logger.info("the guests of run %s cannot be derived: %s", pin.run_id, error.code)
            return frozenset()
        return frozenset(past.host_data)

    def _settle(self, runs: Iterable[RunHeld], read_at: dt.datetime) -> None:
        for run in runs:
            if run.closed and not run.held and run.pinned_at is not None and read_at - run.pinned_at > SETTLED_AFTER:
                self._settled[run.run_id] = None

    @activity.defn
    async def describe_runs(self, request: StatesRequest) -> StatesFound:
        """Read from Temporal whether each run's workflow is open. It describes each by its ID, because lists lag behind.

        Raises:
            Refused: ``NamespaceNotLost``, ``CollaborationMismatch``.
            Unavailable: ``TemporalUnavailable``.
        """
        collaboration, client = self._contract(request.collaboration), activity.client()

        async def state(run_id: str) -> WorkflowState:
            status = await workflow_status(client, run_workflow_id(collaboration, run_id))
            if status is WorkflowExecutionStatus.RUNNING:
                return WorkflowState(state="open")
            concluding = await workflow_status(client, conclude_workflow_id(collaboration, run_id))
            if concluding is WorkflowExecutionStatus.RUNNING:
                return WorkflowState(state="concluding")
            return WorkflowState(state="unknown") if status is None else WorkflowState(state="ended", status=status.name)

        async with Heartbeater(str):
            for each in request.lost:
                if await namespace_exists(client, each):
                    raise Refused(
                        "NamespaceNotLost",
                        f"cleanup: Temporal has a namespace with the ID {each}, so its runs may be in progress.",
                        hint="Clean up in that namespace, or delete it first.",
                        party="operator",
                    )
            states = await gather_limited(state, request.runs)
            return StatesFound(namespace_id=await namespace_id(client), states=dict(zip(request.runs, states, strict=True)))


def _counts(first: Mapping[Kind, int], second: Mapping[Kind, int]) -> dict[Kind, int]:
    return {kind: count for kind, count in {**first, **second}.items() if count}


def _shared_counts(shared: Mapping[Place, frozenset[str]], hosts: frozenset[str]) -> dict[Kind, int]:
    counts: dict[Kind, int] = {"token grants": 0, "event grants": 0}
    for (delegate_type, _), values in shared.items():
        counts["token grants" if delegate_type == SUBJECTS else "event grants"] += len(values & hosts)
    return counts


def _expiry(pinned: PinnedRequest) -> dt.datetime | None:
    """Return when a pinned request expires. None if it cannot be read, which the clean room would not have pinned."""
    try:
        return peek(RunRequest, pinned.request).expires
    except CleanRoomError:
        return None


def _ticket(collaboration: str, pinned: PinnedRequest) -> RunTicket:
    return RunTicket(collaboration=collaboration, query=pinned.query, run_id=pinned.run_id, request=pinned.request)
