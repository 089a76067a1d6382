"""Audit events."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.conformance.governance.target import HOST_DATA, Target, expect, fresh
from tests.patience import PATIENCE


def put(cgs: Target, payload: Any, query: str = "", kind: str = "good", **changes: Any) -> httpx.Response:
    body = {**cgs.guest(kind).write(payload), **changes}
    body = {name: value for name, value in body.items() if value is not ...}
    return cgs.call("PUT", f"/app/contracts/{cgs.contract()}/events{query}", json=body)


def get(cgs: Target, query: str) -> dict[str, Any]:
    """GET; repeat it on 202, while the node loads the range."""
    deadline = time.monotonic() + PATIENCE
    while True:
        response = cgs.call("GET", f"/app/contracts/{cgs.contract()}/events{query}", cgs.ann)
        if response.status_code != 202:
            return dict(expect(response, 200))
        assert not response.content
        assert int(response.headers["retry-after"]) >= 0
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_read_without_a_range_returns_the_latest_event(cgs: Target) -> None:
    event_id = fresh("run")
    assert get(cgs, f"?id={event_id}") == {"value": []}
    for step in range(3):
        response = put(cgs, {"step": step}, f"?id={event_id}", timestamp=str(1750000000123 + step))
        assert expect(response, 204) is None
    (event,) = get(cgs, f"?id={event_id}")["value"]
    assert event == {
        "scope": "",
        "id": event_id,
        "seqno": int(response.headers["x-ms-ccf-transaction-id"].split(".")[1]),
        "timestamp": "1750000000125",
        "timestamp_iso": "2025-06-15T15:06:40.125Z",
        "data": {"step": 2},
    }


def test_range_returns_all_events_and_spells_the_timestamp_differently(cgs: Target) -> None:
    event_id = fresh("run")
    seqnos = [int(put(cgs, step, f"?id={event_id}").headers["x-ms-ccf-transaction-id"].split(".")[1]) for step in range(4)]
    everything = get(cgs, f"?id={event_id}&from_seqno={seqnos[0]}")
    assert [row["seqno"] for row in everything["value"]] == seqnos
    assert [row["data"] for row in everything["value"]] == [0, 1, 2, 3]
    assert set(everything["value"][0]) == {"scope", "id", "seqno", "timestamp", "timestampIso", "data"}
    some = get(cgs, f"?id={event_id}&from_seqno={seqnos[1]}&to_seqno={seqnos[2]}")
    assert [row["seqno"] for row in some["value"]] == seqnos[1:3]
    assert "nextLink" not in some


def test_pages_follow_ledger_positions_and_may_be_empty(cgs: Target) -> None:
    event_id = fresh("run")
    first = int(put(cgs, "first", f"?id={event_id}&scope=s").headers["x-ms-ccf-transaction-id"].split(".")[1])
    for _ in range(6):
        expect(cgs.put(fresh("noise"), cgs.ann), 200)
    last = int(put(cgs, "last", f"?id={event_id}&scope=s").headers["x-ms-ccf-transaction-id"].split(".")[1])
    query = f"?id={event_id}&scope=s&from_seqno={first}&to_seqno={last}&max_seqno_per_page=2"
    page = get(cgs, query)
    assert [row["data"] for row in page["value"]] == ["first"]
    link = page["nextLink"]
    assert link.startswith(f"/app/contracts/{cgs.contract()}/events?from_seqno={first + 3}&to_seqno={last}&id={event_id}&scope=s")
    assert "max_seqno_per_page" not in link
    rest = get(cgs, link.partition("/events")[2])
    assert [row["data"] for row in rest["value"]] == ["last"]
    hole = get(cgs, f"?id={event_id}&scope=s&from_seqno={first + 1}&to_seqno={last}&max_seqno_per_page=1")
    assert hole["value"] == []
    assert "nextLink" in hole


def test_event_id_defaults_to_the_contract_and_scopes_are_separate(cgs: Target) -> None:
    scope = fresh("scope")
    expect(put(cgs, "scoped", f"?scope={scope}"), 204)
    (event,) = get(cgs, f"?scope={scope}")["value"]
    assert (event["id"], event["scope"], event["data"]) == (cgs.contract(), scope, "scoped")
    assert get(cgs, f"?scope={fresh('other')}")["value"] == []


@pytest.mark.parametrize("query", ["from_seqno=x", "from_seqno=9&to_seqno=8", "to_seqno=999999999", "from_seqno=1&max_seqno_per_page=x"])
def test_invalid_range_is_500(cgs: Target, query: str) -> None:
    event_id = fresh("run")
    expect(put(cgs, "x", f"?id={event_id}"), 204)
    expect(cgs.call("GET", f"/app/contracts/{cgs.contract()}/events?id={event_id}&{query}", cgs.ann), 500, "InternalError")


def test_put_checks_in_the_order_of_the_original(cgs: Target) -> None:
    expect(put(cgs, 1, attestation=..., sign=...), 400, "AttestationMissing")
    expect(put(cgs, 1, sign=..., timestamp=...), 400, "SignatureMissing")
    expect(put(cgs, 1, "", "other", timestamp=...), 400, "TimestampMissing")
    expect(put(cgs, 1, "", "other", timestamp=""), 400, "TimestampMissing")
    expect(put(cgs, 1, "", "other", timestamp="10000000000000"), 400, "TimestampTooLarge")
    expect(put(cgs, 1, "", "other"), 400, "VerifySnpAttestationFailed")
    expect(put(cgs, 1, sign=cgs.guest("other").sign(b"1")), 400, "ReportDataMismatch")
    expect(put(cgs, 1, sign=cgs.guest().sign(b"2")), 400, "SignatureMismatch")
    expect(put(cgs, b"not json"), 500, "InternalError")


def test_timestamp_must_be_a_string_and_is_padded(cgs: Target) -> None:
    event_id = fresh("run")
    expect(put(cgs, 1, f"?id={event_id}", timestamp=1750000000123), 500, "InternalError")
    assert get(cgs, f"?id={event_id}")["value"] == []
    expect(put(cgs, 1, f"?id={event_id}", timestamp="5"), 204)
    (event,) = get(cgs, f"?id={event_id}")["value"]
    assert (event["timestamp"], event["timestamp_iso"]) == ("0000000000005", "1970-01-01T00:00:00.005Z")


def test_events_bind_the_signing_key(cgs: Target) -> None:
    expect(put(cgs, 1, encrypt=cgs.guest("other").read()["encrypt"]), 204)
    expect(put(cgs, 1, encrypt=...), 204)


def test_delegated_writer_writes_events(cgs: Target) -> None:
    pod = cgs.guest("other")
    delegate = f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates/events/writer"
    claims = {HOST_DATA: [pod.host_data]}
    expect(put(cgs, 1, "", "other"), 400, "VerifySnpAttestationFailed")
    expect(cgs.call("PUT", delegate, json=cgs.guest().write({"type": "add", "claims": claims})), 200)
    try:
        expect(put(cgs, 1, f"?id={fresh('run')}", "other"), 204)
    finally:
        expect(cgs.call("PUT", delegate, json=cgs.guest().write({"type": "remove", "claims": claims})), 200)


def test_token_writes_events_under_a_jwt_policy(cgs: Target) -> None:
    contract_id = cgs.accepted_contract()
    path = f"/app/contracts/{contract_id}/events"
    body = {name: value for name, value in cgs.guest().write({"a": 1}).items() if name != "attestation"}
    expect(cgs.call("PUT", path, cgs.stranger, json=body), 400, "VerifyJwtAttestationFailed")
    args = {"contractId": contract_id, "type": "add", "policyType": "jwt", "claims": {"oid": cgs.stranger.oid}}
    cgs.govern("set_clean_room_policy", args)
    # Writers need no registration, only the policy.
    expect(cgs.call("PUT", path, cgs.stranger, json=body), 204)
    expect(cgs.call("PUT", path, cgs.ann, json=body), 400, "VerifyJwtAttestationFailed")
    expect(cgs.call("GET", path, cgs.stranger), 403, "CallerNotAuthorized")


def test_events_of_a_missing_contract_are_empty(cgs: Target) -> None:
    assert expect(cgs.call("GET", f"/app/contracts/{fresh('none')}/events", cgs.ann), 200) == {"value": []}
