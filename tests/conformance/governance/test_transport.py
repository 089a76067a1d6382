"""Routing, prefixes, errors, transaction IDs, authentication."""

from __future__ import annotations

import time

import pytest

from tests.conformance.governance.target import Person, Target, expect, fresh
from tests.patience import PATIENCE
from tests.shared_keys import rsa_key


@pytest.mark.parametrize("prefix", ["", "/app"])
def test_routes_answer_with_and_without_the_app_prefix(cgs: Target, prefix: str) -> None:
    assert expect(cgs.call("GET", f"{prefix}/userdocuments", cgs.ann), 200)["value"] is not None


def test_unknown_path_is_404_resource_not_found(cgs: Target) -> None:
    expect(cgs.call("GET", "/app/no/such/route", cgs.ann), 404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/app/userdocuments/x", {"GET", "PUT"}),
        ("GET", "/app/contracts/c/secrets/s", {"POST", "PUT"}),
        ("GET", "/app/users/proposals/p", {"POST", "PUT"}),
        ("POST", "/app/oidc/keys", {"GET"}),
    ],
)
def test_wrong_method_is_405_with_allow(cgs: Target, method: str, path: str, allowed: set[str]) -> None:
    response = cgs.call(method, path, cgs.ann)
    expect(response, 405, "UnsupportedHttpVerb")
    assert {verb.strip() for verb in response.headers["allow"].split(",")} - {"OPTIONS"} == allowed


def test_missing_credential_is_401_with_one_detail_per_policy(cgs: Target) -> None:
    error = expect(cgs.call("GET", "/app/userdocuments"), 401, "InvalidAuthenticationInfo")
    assert [row["auth_policy"] for row in error["details"]] == ["member_cert", "user_cert", "jwt"]
    assert all(row["code"] and row["message"] for row in error["details"])


def test_invalid_token_is_401(cgs: Target) -> None:
    now = int(time.time())
    for token in (
        cgs.token(cgs.ann, exp=now - 60),
        cgs.token(cgs.ann, nbf=now + 600),
        cgs.token(cgs.ann, exp=None),
        cgs.token(cgs.ann, iss="https://elsewhere.example/"),
        cgs.token(cgs.ann, kid="no-such-key"),
        cgs.token(cgs.ann, key=rsa_key("stranger")),
        "not.a.token",
    ):
        expect(cgs.call("GET", "/app/userdocuments", token), 401, "InvalidAuthenticationInfo")


def test_unknown_user_and_other_tenant_are_403_and_missing_oid_is_500(cgs: Target) -> None:
    expect(cgs.call("GET", "/app/userdocuments", cgs.stranger), 403, "CallerNotAuthorized")
    expect(cgs.call("GET", "/app/userdocuments", Person(cgs.ann.oid, "another-tenant")), 403, "CallerTenantNotAuthorized")
    expect(cgs.call("GET", "/app/userdocuments", cgs.token(cgs.ann, tid=None)), 403, "CallerTenantNotAuthorized")
    expect(cgs.call("GET", "/app/userdocuments", cgs.token(cgs.ann, oid=None)), 500, "InternalError")


def test_invalid_token_on_a_clean_room_route_counts_as_a_clean_room(cgs: Target) -> None:
    broken = cgs.token(cgs.ann, exp=int(time.time()) - 60)
    secret = f"/app/contracts/{cgs.contract()}/secrets/{fresh('s')}"
    expect(cgs.call("PUT", secret, broken, json={"value": "v"}), 400, "AttestationMissing")
    consent = f"/app/contracts/{cgs.contract()}/runtimeoptions/execution/status"
    expect(cgs.call("POST", consent, broken, json={}), 400, "AttestationMissing")


def test_user_on_a_member_route_is_401(cgs: Target) -> None:
    expect(cgs.call("PUT", f"/app/contracts/{fresh('c')}", cgs.ann, json={"data": "x"}), 401, "InvalidAuthenticationInfo")
    expect(cgs.call("POST", "/app/oidc/generateSigningKey", cgs.ann), 401, "InvalidAuthenticationInfo")


def test_write_returns_a_committed_transaction_id(cgs: Target) -> None:
    response = cgs.put(fresh("doc"), cgs.ann)
    assert expect(response, 200) is None
    assert "content-type" not in response.headers
    transaction = response.headers["x-ms-ccf-transaction-id"]
    deadline = time.monotonic() + PATIENCE
    for route in ("/app/tx", "/gov/tx"):
        while True:
            body = expect(cgs.http.get(f"{route}?transaction_id={transaction}"), 200)
            assert body["transaction_id"] == transaction
            assert body["status"] in {"Pending", "Committed"}
            if body["status"] == "Committed":
                break
            assert time.monotonic() < deadline


def test_future_transaction_is_unknown(cgs: Target) -> None:
    # A position in the current view. A position that an earlier view has not reached is Invalid.
    view = cgs.put(fresh("doc"), cgs.ann).headers["x-ms-ccf-transaction-id"].split(".")[0]
    assert expect(cgs.http.get(f"/app/tx?transaction_id={view}.999999999"), 200)["status"] == "Unknown"


def test_transaction_ids_grow_and_rejected_writes_leave_no_trace(cgs: Target) -> None:
    document_id = fresh("doc")
    first = cgs.put(document_id, cgs.ann).headers["x-ms-ccf-transaction-id"]
    expect(cgs.put(document_id, cgs.bob, data="changed"), 409, "UserDocumentAlreadyExists")
    second = cgs.put(fresh("doc"), cgs.ann).headers["x-ms-ccf-transaction-id"]
    assert int(second.split(".")[1]) > int(first.split(".")[1])
    assert cgs.get(document_id)["data"] == '{"name":"sales"}'


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"nonsense"])
def test_invalid_json_is_500(cgs: Target, content: bytes) -> None:
    expect(cgs.call("PUT", f"/app/userdocuments/{fresh('d')}", cgs.ann, content=content), 500, "InternalError")


def test_deeply_nested_value_does_not_break_lists(cgs: Target) -> None:
    """The value may be accepted or rejected, but other reads must not fail."""
    for depth in (150, 900, 960, 5000):
        body = b'{"contractId":"%s","data":%s}' % (cgs.contract().encode(), b"[" * depth + b"]" * depth)
        document_id = fresh("deep")
        response = cgs.call("PUT", f"/app/userdocuments/{document_id}", cgs.ann, content=body)
        if response.status_code == 200:
            expect(cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann), 200)
        else:
            assert response.status_code in {400, 413, 500}
            expect(cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann), 404, "UserDocumentNotFound")
    expect(cgs.call("GET", "/app/userdocuments", cgs.ann), 200)
    if cgs.settings.client_url is not None:
        expect(cgs.proxy("GET", "/userdocuments"), 200)


def test_path_parameters_are_not_percent_decoded(cgs: Target) -> None:
    document_id = fresh("a") + "%20b"
    expect(cgs.put(document_id, cgs.ann), 200)
    assert cgs.get(document_id)["id"] == document_id


def test_a_repeated_query_key_keeps_the_last_value_and_a_leading_ampersand_is_harmless(cgs: Target) -> None:
    label = fresh("label")
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann, labels={"kind": label}), 200)
    body = expect(cgs.call("GET", f"/app/userdocuments?&labelSelector=kind:none&labelSelector=kind:{label}", cgs.ann), 200)
    assert [row["id"] for row in body["value"]] == [document_id]


def test_members_are_public(cgs: Target) -> None:
    rows = expect(cgs.http.get("/gov/service/members?api-version=2024-07-01"), 200)["value"]
    assert rows
    for row in rows:
        assert len(row["memberId"]) == 64
        assert row["status"] in {"Accepted", "Active"}
        assert {"memberData", "certificate", "recoveryRole"} <= row.keys()


def test_lists_have_different_shapes(cgs: Target) -> None:
    contract = f"/app/contracts/{cgs.contract()}"
    for path in (
        "/app/contracts",
        "/app/userdocuments",
        "/app/users/identities",
        "/app/users/invitations",
        f"{contract}/secrets",
        f"{contract}/userdocuments",
        f"{contract}/events",
        f"{contract}/cleanroompolicy/delegates",
    ):
        body = expect(cgs.call("GET", path, cgs.ann), 200)
        assert isinstance(body["value"], list), path
    for path in ("/app/memberdocuments", f"{contract}/memberdocuments"):
        assert isinstance(expect(cgs.call("GET", path, cgs.ann), 200), list)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/app/contracts/{c}/secrets"),
        ("POST", "/app/contracts/{c}/consentcheck/execution"),
        ("POST", "/app/contracts/{c}/acceptedUserDocuments/d"),
        ("GET", "/app/contracts/{c}/secrets/s/cleanroompolicy"),
        ("GET", "/app/contracts/{c}/oauth/federation/subjects/s/cleanroompolicy"),
    ],
)
def test_routes_of_outdated_descriptions_do_not_exist(cgs: Target, method: str, path: str) -> None:
    response = cgs.call(method, path.replace("{c}", cgs.contract()), cgs.ann, json={})
    assert (response.status_code, response.json()["error"]["code"]) in {(404, "ResourceNotFound"), (405, "UnsupportedHttpVerb")}
