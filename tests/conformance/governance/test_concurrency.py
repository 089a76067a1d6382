"""Many callers at once: the rules of documents, proposals and policies hold under races."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conformance.governance.target import Person, Target, expect, fresh


def together(work: Any, items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(24) as pool:
        return list(pool.map(work, items))


def code_of(response: Any) -> str:
    return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])


def test_one_of_many_updates_with_the_same_version_succeeds(cgs: Target) -> None:
    document_id = fresh("doc")
    version = cgs.put(document_id, cgs.ann).headers["x-ms-ccf-transaction-id"]
    codes = Counter(together(lambda n: code_of(cgs.put(document_id, cgs.ann, version=version, data=f"{n}")), list(range(24))))
    assert codes == {"ok": 1, "PreconditionFailed": 23}


def test_one_of_many_proposals_for_a_document_succeeds(cgs: Target) -> None:
    document_id = fresh("doc")
    body = cgs.proposal(document_id, [cgs.ann])
    codes = Counter(together(lambda n: code_of(cgs.call("PUT", f"/app/users/proposals/{fresh('p')}", cgs.ann, json=body)), list(range(24))))
    assert codes == {"ok": 1, "UserDocumentAlreadyProposed": 23}


def test_concurrent_ballots_of_a_voter_count_once(cgs: Target) -> None:
    people = [cgs.ann, cgs.bob, cgs.eve]
    proposal_id = cgs.propose(fresh("doc"), cgs.ann, people)
    voters: list[Person] = [people[n % 3] for n in range(24)]
    codes = Counter(together(lambda who: code_of(cgs.vote(proposal_id, who)), voters))
    assert codes["ok"] == 3
    status = expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/status", cgs.ann), 200)
    assert status["state"] == "Accepted"
    assert Counter(row["approverId"] for row in status["ballots"]) == {who.oid: 1 for who in people}


def test_concurrent_rejection_and_acceptance_give_one_consistent_state(cgs: Target) -> None:
    for _ in range(5):
        document_id = fresh("doc")
        proposal_id = cgs.propose(document_id, cgs.ann, [cgs.ann, cgs.bob])
        together(lambda row: cgs.vote(proposal_id, *row), [(cgs.ann, "accepted"), (cgs.bob, "rejected")])  # noqa: B023
        status = expect(cgs.call("POST", f"/app/users/proposals/{proposal_id}/status", cgs.ann), 200)
        assert status["state"] == "Rejected"
        expect(cgs.call("GET", f"/app/userdocuments/{document_id}", cgs.ann), 404, "UserDocumentNotFound")


def test_concurrently_added_delegate_values_are_all_kept(cgs: Target) -> None:
    guest, delegate_id = cgs.guest(), fresh("d")
    path = f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates/secrets/{delegate_id}"
    values = [f"{n:064x}" for n in range(24)]
    bodies = [guest.write({"type": "add", "claims": {"x-ms-sevsnpvm-hostdata": [value]}}) for value in values]
    together(lambda body: expect(cgs.call("PUT", path, json=body), 200), bodies)
    claims = expect(cgs.call("POST", path, cgs.ann), 200)["claims"]
    assert sorted(claims["x-ms-sevsnpvm-hostdata"]) == values


def test_failed_write_leaves_no_trace_among_concurrent_writes(cgs: Target) -> None:
    guest, delegate_id = cgs.guest(), fresh("d")
    path = f"/app/contracts/{cgs.contract()}/cleanroompolicy/delegates/secrets/{delegate_id}"
    kept = {"x-ms-sevsnpvm-hostdata": ["aa" * 32, "bb" * 32]}
    expect(cgs.call("PUT", path, json=guest.write({"type": "add", "claims": kept})), 200)
    failing = guest.write({"type": "remove", "claims": {"x-ms-sevsnpvm-hostdata": "aa" * 32, "x-ms-ver": "3"}})

    def work(number: int) -> str:
        if number % 2:
            return code_of(cgs.put(fresh("doc"), cgs.ann))
        return code_of(cgs.call("PUT", path, json=failing))

    for _ in range(3):
        assert Counter(together(work, list(range(24)))) == {"ok": 12, "InternalError": 12}
    assert expect(cgs.call("POST", path, cgs.ann), 200)["claims"] == kept
