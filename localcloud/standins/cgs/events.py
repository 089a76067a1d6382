"""Routes of audit events and of the history of governance proposals (docs/facts/governance-service.md#events)."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from localcloud.standins.cgs.attested import decode_base64, match_policy, require_attestation, verify_signature
from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.governance_store import PROPOSALS_INFO
from localcloud.standins.cgs.http import MEMBER_OR_USER, USER_OR_CLEAN_ROOM, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import Crash, member, parse_json, truthy
from localcloud.standins.cgs.store import Tx

PAGE = 2000
"""Default ``max_seqno_per_page``: the number of ledger positions in a page, not of events."""
_MAX_TIMESTAMP = 9_999_999_999_999


def _table(contract_id: str, scope: str | None) -> str:
    return f"public:events-{contract_id}" + (f"-{scope}" if scope else "")


def _iso(timestamp: str) -> str:
    moment = dt.datetime.fromtimestamp(int(timestamp) / 1000, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(timestamp) % 1000:03d}Z"


def _integer(text: str) -> int:
    found = re.match(r"\s*([+-]?\d+)", text)
    if found is None:
        raise Crash(f"{text!r} is not an integer")
    return int(found.group(1))


def put_event(call: Call, tx: Tx) -> Reply:
    """Write an event. It overwrites the value under its ID; the ledger keeps all values."""
    body, contract_id = call.json(), call.params["contractId"]
    assert call.caller is not None
    attested = call.caller.policy == "no_auth"
    if attested and not truthy(member(body, "attestation")):
        raise Fault(400, "AttestationMissing", "attestation must be given.")
    sign, timestamp = member(body, "sign"), member(body, "timestamp")
    if not truthy(sign):
        raise Fault(400, "SignatureMissing", "sign must be given.")
    if not truthy(timestamp):
        raise Fault(400, "TimestampMissing", "timestamp must be given: milliseconds since 1970, as a string.")
    if isinstance(timestamp, str):
        if not re.fullmatch(r"[0-9]+", timestamp):
            # The original accepts any text, and then every read of this event fails.
            raise Fault(400, "TimestampMissing", f"timestamp is {timestamp!r}; it must be milliseconds since 1970 in decimal digits.")
        timestamp = timestamp.lstrip("0") or "0"
    if (isinstance(timestamp, str) and len(timestamp) > 13) or (isinstance(timestamp, int | float) and timestamp > _MAX_TIMESTAMP):
        raise Fault(400, "TimestampTooLarge", f"timestamp must be at most {_MAX_TIMESTAMP} ms.")
    if attested:
        require_attestation(call, tx, body, delegates=[("events", "writer")], bind="sign")
    else:
        mismatch = match_policy(tx, contract_id, call.caller.claims, [("events", "writer")])
        if mismatch is not None:
            raise Fault(400, "VerifyJwtAttestationFailed", mismatch)
    data = decode_base64(member(body, "data"))
    verify_signature(sign, data)
    payload = parse_json(data)
    if not isinstance(timestamp, str):
        raise Crash("timestamp is not a string")
    key = call.query.get("id", contract_id)
    tx.put(_table(contract_id, call.query.get("scope")), key, {"timestamp": timestamp.zfill(13), "data": payload}, history=True)
    return Reply(status=204)


def _event(scope: str, key: str, seqno: int, item: dict[str, Any], iso_name: str) -> dict[str, Any]:
    head = {"scope": scope, "id": key, "seqno": seqno, "timestamp": item["timestamp"]}
    return {**head, iso_name: _iso(item["timestamp"]), "data": item["data"]}


def _bounds(call: Call, tx: Tx, last_write: int | None) -> tuple[int, int, int]:
    """Return the first and last position of the range, and the end of this page. An invalid or uncommitted range throws."""
    query = call.query
    first = _integer(query["from_seqno"]) if "from_seqno" in query else 1
    last = _integer(query["to_seqno"]) if "to_seqno" in query else last_write if last_write is not None else tx.committed
    if last < first:
        raise Crash("to_seqno is before from_seqno")
    size = _integer(query["max_seqno_per_page"]) if "max_seqno_per_page" in query else PAGE
    if last > tx.committed:
        raise Crash("the end of the range is not committed")
    if first < 1 or size < 0:
        raise Crash("not a range")
    return first, last, min(last, first + size)


def get_events(call: Call, tx: Tx) -> Reply:
    """Read the latest value of an event, or a page of the ledger. The two spell the ISO timestamp differently."""
    require_active(call.caller, tx)
    contract_id, query = call.params["contractId"], call.query
    key, scope = query.get("id", contract_id), query.get("scope") or ""
    table = _table(contract_id, scope)
    last_write = tx.last_write(table, key)
    if not query.get("from_seqno") and not query.get("to_seqno"):
        if last_write is None:
            return Reply({"value": []})
        return Reply({"value": [_event(scope, key, last_write, tx.get(table, key), "timestamp_iso")]})
    first, last, end = _bounds(call, tx, last_write)
    body: dict[str, Any] = {
        "value": [_event(scope, key, seqno, item, "timestampIso") for seqno, item in tx.range(table, key, first, end)],
    }
    if end != last:
        body["nextLink"] = f"/app/contracts/{contract_id}/events?from_seqno={end + 1}&to_seqno={last}&id={key}&scope={scope}"
    return Reply(body)


def proposal_history(call: Call, tx: Tx) -> Reply:
    """Read a page of a governance proposal's states."""
    require_active(call.caller, tx)
    key = call.params["proposalId"]
    first, last, end = _bounds(call, tx, tx.last_write(PROPOSALS_INFO, key))
    rows = tx.range(PROPOSALS_INFO, key, first, end)
    body: dict[str, Any] = {"value": [{"seqno": seqno, "proposalId": key, "proposalState": item["state"]} for seqno, item in rows]}
    if end != last:
        body["nextLink"] = f"/app/proposals/{key}/historical?from_seqno={end + 1}&to_seqno={last}"
    return Reply(body)


ROUTES = [
    Route("GET", "/contracts/{contractId}/events", MEMBER_OR_USER, get_events),
    Route("PUT", "/contracts/{contractId}/events", USER_OR_CLEAN_ROOM, put_event, write=True),
    Route("GET", "/proposals/{proposalId}/historical", MEMBER_OR_USER, proposal_history),
]
