"""User documents."""

from __future__ import annotations

import json

import pytest

from tests.conformance.governance.target import Target, approver_rows, expect, fresh


def test_draft_has_the_version_of_its_put(cgs: Target) -> None:
    document_id = fresh("doc")
    approvers = approver_rows([cgs.ann, cgs.bob])
    response = cgs.put(document_id, cgs.ann, labels={"type": "dataset"}, approvers=approvers)
    assert cgs.get(document_id, cgs.bob) == {
        "id": document_id,
        "state": "Draft",
        "version": response.headers["x-ms-ccf-transaction-id"],
        "contractId": cgs.contract(),
        "data": '{"name":"sales"}',
        "labels": {"type": "dataset"},
        "approvers": approvers,
        "proposalId": "",
        "proposerId": "",
    }


def test_contract_scoped_read_is_a_post_and_equals_the_get(cgs: Target) -> None:
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann), 200)
    scoped = expect(cgs.call("POST", f"/app/contracts/{cgs.contract()}/userdocuments/{document_id}", cgs.ann), 200)
    assert scoped == cgs.get(document_id)
    expect(cgs.call("GET", f"/app/contracts/{cgs.contract()}/userdocuments/{document_id}", cgs.ann), 405, "UnsupportedHttpVerb")


def test_contract_in_the_path_is_ignored(cgs: Target) -> None:
    document_id = fresh("doc")
    body = {"contractId": cgs.contract(), "data": "x"}
    expect(cgs.call("PUT", f"/app/contracts/other/userdocuments/{document_id}", cgs.ann, json=body), 200)
    assert expect(cgs.call("POST", f"/app/contracts/another/userdocuments/{document_id}", cgs.bob), 200)["contractId"] == cgs.contract()
    rows = expect(cgs.call("GET", "/app/contracts/nowhere/userdocuments", cgs.ann), 200)["value"]
    assert {"id": document_id} in rows


def test_put_compares_versions(cgs: Target) -> None:
    document_id = fresh("doc")
    first = cgs.put(document_id, cgs.ann, version="9.9")
    expect(first, 200)
    expect(cgs.put(document_id, cgs.ann), 409, "UserDocumentAlreadyExists")
    expect(cgs.put(document_id, cgs.ann, version=""), 409, "UserDocumentAlreadyExists")
    expect(cgs.put(document_id, cgs.ann, version="9.9"), 412, "PreconditionFailed")
    version = first.headers["x-ms-ccf-transaction-id"]
    # JavaScript compares them loosely: a number equals the string that spells it.
    expect(cgs.put(document_id, cgs.ann, version=9.9), 412, "PreconditionFailed")
    expect(cgs.put(document_id, cgs.ann, version=True), 412, "PreconditionFailed")
    second = cgs.put(document_id, cgs.bob, version=float(version), data="2")
    expect(second, 200)
    expect(cgs.put(document_id, cgs.ann, version=version), 412, "PreconditionFailed")
    assert cgs.get(document_id)["version"] == second.headers["x-ms-ccf-transaction-id"]


def test_omitted_labels_and_approvers_are_erased_and_empty_approvers_stay(cgs: Target) -> None:
    document_id = fresh("doc")
    version = cgs.put(document_id, cgs.ann, labels={"a": "b"}, approvers=[]).headers["x-ms-ccf-transaction-id"]
    assert cgs.get(document_id)["approvers"] == []
    expect(cgs.put(document_id, cgs.ann, version=version), 200)
    assert not {"labels", "approvers"} & cgs.get(document_id).keys()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"contractId": None}, 400, "ContractIdMissing"),
        ({"contractId": ""}, 400, "ContractIdMissing"),
        ({"contractId": None, "data": None}, 400, "ContractIdMissing"),
        ({"data": None}, 400, "DataMissing"),
        ({"data": ""}, 400, "DataMissing"),
        ({"data": 0}, 400, "DataMissing"),
        ({"data": False}, 400, "DataMissing"),
        ({"data": "", "contractId": "no-such-contract"}, 400, "DataMissing"),
        ({"contractId": "no-such-contract"}, 404, "ContractNotFound"),
    ],
)
def test_put_checks_in_the_order_of_the_original(cgs: Target, changes: dict[str, object], status: int, code: str) -> None:
    body: dict[str, object] = {"contractId": cgs.contract(), "data": "x", **changes}
    body = {name: value for name, value in body.items() if value is not None}
    expect(cgs.call("PUT", f"/app/userdocuments/{fresh('doc')}", cgs.ann, json=body), status, code)


@pytest.mark.parametrize("data", [{}, [], {"a": [1, None, True]}, "text", 7, True, "ünï \U0001f512"])
def test_data_is_any_truthy_json_and_comes_back_unchanged(cgs: Target, data: object) -> None:
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann, data=data), 200)
    assert cgs.get(document_id)["data"] == data


def test_null_data_is_missing(cgs: Target) -> None:
    body = {"contractId": cgs.contract(), "data": None}
    expect(cgs.call("PUT", f"/app/userdocuments/{fresh('doc')}", cgs.ann, json=body), 400, "DataMissing")


def test_contract_must_exist_as_a_draft_but_need_not_be_accepted(cgs: Target) -> None:
    document_id = fresh("doc")
    contract_id = fresh("contract")
    cgs.govern("set_contract", {"contractId": contract_id, "contract": {"data": "x"}})
    expect(cgs.put(document_id, cgs.ann, contractId=contract_id), 404, "ContractNotFound")
    expect(cgs.put(document_id, cgs.ann, contractId=cgs.draft_contract()), 200)


def test_unknown_document_is_404(cgs: Target) -> None:
    expect(cgs.call("GET", f"/app/userdocuments/{fresh('none')}", cgs.ann), 404, "UserDocumentNotFound")


def test_accepted_document_is_final(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann])
    expect(cgs.put(document_id, cgs.ann), 405, "UserDocumentAlreadyAccepted")
    expect(cgs.call("PUT", f"/app/userdocuments/{document_id}", cgs.ann, content=b"not json"), 405, "UserDocumentAlreadyAccepted")
    body = cgs.proposal(document_id, [cgs.ann])
    expect(cgs.call("PUT", f"/app/users/proposals/{fresh('p')}", cgs.ann, json=body), 405, "UserDocumentAlreadyAccepted")


def test_accepted_document_has_its_members_in_the_order_of_the_original(cgs: Target) -> None:
    document_id = cgs.accepted([cgs.ann], labels={"type": "query"})
    text = cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann).text
    order = ["id", "version", "state", "contractId", "approvers", "data", "labels", "proposalId", "proposerId", "finalVotes"]
    assert list(json.loads(text)) == order


def test_label_selector_matches(cgs: Target) -> None:
    one, two, none = fresh("doc"), fresh("doc"), fresh("doc")
    mark = fresh("mark")
    expect(cgs.put(one, cgs.ann, labels={"mark": mark, "type": "dataset"}), 200)
    expect(cgs.put(two, cgs.ann, labels={"mark": mark, "type": "query"}), 200)
    expect(cgs.put(none, cgs.ann), 200)

    def select(selector: str) -> set[str]:
        body = expect(cgs.call("GET", f"/app/userdocuments?labelSelector={selector}", cgs.ann), 200)
        return {row["id"] for row in body["value"]}

    assert select(f"mark:{mark}") == {one, two}
    assert select(f"mark:{mark},type:query") == {two}
    assert select(f"mark:{mark},type:none") == set()
    rows = {row["id"]: row for row in expect(cgs.call("GET", "/app/userdocuments", cgs.ann), 200)["value"]}
    assert rows[one] == {"id": one, "labels": {"mark": mark, "type": "dataset"}}
    assert rows[none] == {"id": none}


def test_accepted_labels_win_in_the_list_and_ids_appear_once(cgs: Target) -> None:
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann, labels={"from": "draft"}), 200)
    proposal_id = cgs.propose(document_id, cgs.ann, [cgs.ann], labels={"from": "proposal"})
    expect(cgs.vote(proposal_id, cgs.ann), 200)
    rows = [row for row in expect(cgs.call("GET", "/app/userdocuments", cgs.ann), 200)["value"] if row["id"] == document_id]
    assert rows == [{"id": document_id, "labels": {"from": "proposal"}}]


def test_labels_that_are_not_an_object_make_filtered_lists_fail(cgs: Target) -> None:
    document_id = fresh("doc")
    expect(cgs.put(document_id, cgs.ann, labels="x"), 200)
    try:
        expect(cgs.call("GET", "/app/userdocuments?labelSelector=type:dataset", cgs.ann), 500, "InternalError")
        rows = {row["id"]: row for row in expect(cgs.call("GET", "/app/userdocuments", cgs.ann), 200)["value"]}
        assert rows[document_id] == {"id": document_id, "labels": "x"}
    finally:
        expect(cgs.put(document_id, cgs.ann, labels={}, version=cgs.get(document_id)["version"]), 200)


@pytest.mark.parametrize("selector", ["", "a", "a:", ":b", "a:b:c", "a:b,", "%20:b"])
def test_malformed_label_selector_is_400(cgs: Target, selector: str) -> None:
    expect(cgs.call("GET", f"/app/userdocuments?labelSelector={selector}", cgs.ann), 400, "InvalidParameter")


def test_clean_room_reads_the_accepted_document_as_users_do(cgs: Target) -> None:
    guest = cgs.guest()
    document_id = cgs.accepted([cgs.ann, cgs.bob], labels={"type": "query"})
    path = f"/app/contracts/{cgs.contract()}/userdocuments/accepted/{document_id}"
    plain = guest.unwrap(expect(cgs.call("POST", path, json=guest.read()), 200)).decode()
    assert plain == cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann).text


def test_accepted_read_checks_in_the_order_of_the_original(cgs: Target) -> None:
    guest, other = cgs.guest(), cgs.guest("other")
    draft = fresh("doc")
    expect(cgs.put(draft, cgs.ann), 200)
    path = f"/app/contracts/{cgs.contract()}/userdocuments/accepted/"
    expect(cgs.call("POST", path + draft, json={}), 400, "AttestationMissing")
    expect(cgs.call("POST", path + draft, json={"encrypt": guest.read()["encrypt"]}), 400, "AttestationMissing")
    expect(cgs.call("POST", path + draft, json=guest.consent()), 400, "EncryptionMissing")
    expect(cgs.call("POST", path + "none", json=other.read()), 400, "VerifySnpAttestationFailed")
    expect(cgs.call("POST", path + draft, json=guest.read()), 404, "UserDocumentNotFound")
    expect(cgs.call("POST", path + draft, content=b"null"), 500, "InternalError")


def test_accepted_document_of_another_contract_is_a_mismatch(cgs: Target) -> None:
    elsewhere = cgs.accepted_contract(cgs.policy())
    document_id = cgs.accepted([cgs.ann])
    path = f"/app/contracts/{elsewhere}/userdocuments/accepted/{document_id}"
    expect(cgs.call("POST", path, json=cgs.guest().read()), 400, "ContractIdMismatch")


def test_a_number_beyond_the_range_is_null(cgs: Target) -> None:
    document_id = fresh("doc")
    raw = f'{{"contractId": "{cgs.contract()}", "data": {{"a": 1e999, "b": 1e9}}}}'
    headers = {"content-type": "application/json"}
    expect(cgs.call("PUT", f"/app/userdocuments/{document_id}", cgs.ann, content=raw.encode(), headers=headers), 200)
    assert cgs.get(document_id)["data"] == {"a": None, "b": 1e9}
