"""Scopes and IDs of the entries that a run leaves in governance's ledger."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from cleanroom.identifiers import Name, sha256_hex
from cleanroom.statements.model import RunRequest

CLEAN_ROOM_SOURCE = "cleanroom-application"
"""Member ``source`` of the clean room's entries. Pods have another one."""
RUN_PINNED = "RUN_PINNED"
"""Name of the entry that pins a run ID to one signed request."""
RUNS_SCOPE = "runs"
"""Scope of the entries that say which request a run ID stands for, and which runs have started and are closed."""


def event_scope(run_id: str) -> str:
    """Return the scope of one run's own audit events."""
    return f"run-{run_id}"


def runs_event_id(query: str) -> str:
    """Return the ID (in :data:`RUNS_SCOPE`) that collects one entry per started run of ``query``."""
    return f"query.{query}"


def closed_event_id(run_id: str) -> str:
    """Return the ID (in :data:`RUNS_SCOPE`) of the entry that closes a run. A closed run gets no further grants."""
    return f"closed.{run_id}"


def pinned_event_id(run_id: str) -> str:
    """Return the ID (in :data:`RUNS_SCOPE`) of the entry that pins a run to its request. The earliest entry counts."""
    return f"pinned.{run_id}"


def request_digest(request: str) -> str:
    """Return the digest of a signed run request (JWS). It identifies a run; the run ID is only its name."""
    return sha256_hex(request.encode())


class PinnedRequest(BaseModel):
    """The request that a run ID stands for, as the ledger has it."""

    model_config = ConfigDict(frozen=True)

    run_id: Name
    query: Name
    request: str
    """The signed run request (JWS)."""
    at: dt.datetime
    """Time of the entry, by the clock of the clean room that entered it."""
    origin: str = ""
    """ID of the Temporal namespace in which the run began, or empty if it is unknown. Temporal's operator decides what it says."""

    @property
    def digest(self) -> str:
        """Digest of the signed request."""
        return request_digest(self.request)


def run_facts(request: RunRequest, token: str) -> dict[str, Any]:
    """Return the members that every entry of the clean room about a run has. All follow from the signed request ``token``."""
    return {
        "source": CLEAN_ROOM_SOURCE,
        "runId": request.run_id,
        "query": request.query,
        "queryDigest": request.digest,
        "requestDigest": request_digest(token),
        "caller": request.signer,
    }


def pin_entry(request: RunRequest, token: str, origin: str = "") -> dict[str, Any]:
    """Return the entry that pins a run to the signed request ``token``; ``origin`` is that of :class:`PinnedRequest`."""
    entry = run_facts(request, token) | {"name": RUN_PINNED, "message": "this request is the run", "request": token}
    return entry | {"origin": origin} if origin else entry


def read_pin(run_id: str, data: object, at: dt.datetime) -> PinnedRequest | None:
    """Return the request that a ledger entry pins ``run_id`` to, or None if the entry is not a pin of this run."""
    if not isinstance(data, Mapping) or data.get("name") != RUN_PINNED or data.get("runId") != run_id:
        return None
    query, request = data.get("query"), data.get("request")
    if not isinstance(query, str) or not isinstance(request, str):
        return None
    origin = data.get("origin", "")
    return PinnedRequest(run_id=run_id, query=query, request=request, at=at, origin=origin if isinstance(origin, str) else "")


def run_key(run_id: str, digest: str) -> str:
    """Return what identifies a run when runs are counted: its ID with the digest of its request."""
    return f"{run_id}.{digest}"


def started_key(data: object) -> str | None:
    """Return the :func:`run_key` of an entry that counts a start. An entry without a request counts too."""
    if not isinstance(data, Mapping) or not isinstance(data.get("runId"), str):
        return None
    return run_key(data["runId"], str(data.get("requestDigest", "")))
