"""Routes of user proposals and ballots (docs/facts/governance-service.md#proposals-and-ballots)."""

from __future__ import annotations

import json
from typing import Any

from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.documents import ACCEPTED, OPEN_BY_DOCUMENT, PROPOSALS, PROPOSALS_INFO
from localcloud.standins.cgs.http import MEMBER_OR_USER, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import UNDEFINED, Crash, member, omit_undefined
from localcloud.standins.cgs.store import Tx


def _not_found(proposal_id: str) -> Fault:
    return Fault(404, "ProposalNotFound", f"Proposal {proposal_id} does not exist.")


def _approver_ids(approvers: Any) -> list[Any]:
    if not isinstance(approvers, list):
        raise Crash("approvers is not an array")
    return [member(approver, "approverId") for approver in approvers]


def create(call: Call, tx: Tx) -> Reply:
    """Propose a document to its approvers."""
    require_active(call.caller, tx)
    assert call.caller is not None
    proposal_id = call.params["proposalId"]
    if tx.has(PROPOSALS, proposal_id):
        raise Fault(409, "ProposalAlreadyExists", f"Proposal {proposal_id} exists already.")
    body = call.json()
    approvers = member(body, "approvers")
    if approvers is UNDEFINED:
        raise Fault(400, "ApproversMissing", "approvers must be given.")
    if approvers is None:
        raise Crash("approvers is null")
    if approvers in ([], ""):
        raise Fault(400, "EmptyApprovers", "approvers must not be empty.")
    if member(body, "name") != "set_user_document":
        raise Fault(400, "InvalidProposalType", f"{member(body, 'name')!r} is not a kind of proposal; use set_user_document.")
    args = member(body, "args")
    document_id = member(args, "documentId")
    if document_id is None or document_id is UNDEFINED:
        raise Fault(400, "InvalidUserDocumentId", "args.documentId must be given.")
    if not isinstance(document_id, str):
        raise Crash("documentId is not a string")
    if tx.has(ACCEPTED, document_id):
        raise Fault(405, "UserDocumentAlreadyAccepted", f"Document {document_id} is accepted already.")
    other = tx.get(OPEN_BY_DOCUMENT, json.dumps(document_id))
    if other is not None:
        raise Fault(409, "UserDocumentAlreadyProposed", f"Document {document_id} has the open proposal {other}.")
    tx.put(PROPOSALS, proposal_id, {"actions": [body]})
    tx.put(PROPOSALS_INFO, proposal_id, {"proposerId": call.caller.id, "state": "Open", "ballots": []})
    tx.put(OPEN_BY_DOCUMENT, json.dumps(document_id), proposal_id)
    return Reply({"proposalId": proposal_id})


def get(call: Call, tx: Tx) -> Reply:
    """Read a proposal."""
    require_active(call.caller, tx)
    item = tx.get(PROPOSALS, call.params["proposalId"])
    if item is None:
        raise _not_found(call.params["proposalId"])
    action = item["actions"][0]
    return Reply(
        {"proposalId": call.params["proposalId"], "name": action["name"], "approvers": action["approvers"], "args": action["args"]}
    )


def status(call: Call, tx: Tx) -> Reply:
    """Read a proposal's state and ballots."""
    require_active(call.caller, tx)
    info = tx.get(PROPOSALS_INFO, call.params["proposalId"])
    if info is None:
        raise _not_found(call.params["proposalId"])
    return Reply(info)


def _close(tx: Tx, action: dict[str, Any]) -> None:
    tx.delete(OPEN_BY_DOCUMENT, json.dumps(action["args"]["documentId"]))


def withdraw(call: Call, tx: Tx) -> Reply:
    """Withdraw a proposal, as its proposer."""
    require_active(call.caller, tx)
    assert call.caller is not None
    proposal_id = call.params["proposalId"]
    item, info = tx.get(PROPOSALS, proposal_id), tx.get(PROPOSALS_INFO, proposal_id)
    if item is None:
        raise _not_found(proposal_id)
    if info["proposerId"] != call.caller.id:
        raise Fault(403, "NotProposalOwner", f"Only {info['proposerId']} can withdraw proposal {proposal_id}.")
    if info["state"] != "Open":
        raise Fault(409, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']}.")
    info["state"] = "Withdrawn"
    tx.put(PROPOSALS_INFO, proposal_id, info)
    _close(tx, item["actions"][0])
    return Reply(info)


def submit_ballot(call: Call, tx: Tx) -> Reply:
    """Submit a ballot. Clients rely on the order of the checks, so it is that of the original."""
    require_active(call.caller, tx)
    assert call.caller is not None
    proposal_id, voter = call.params["proposalId"], call.caller.id
    info = tx.get(PROPOSALS_INFO, proposal_id)
    if info is None:
        raise _not_found(proposal_id)
    action = tx.get(PROPOSALS, proposal_id)["actions"][0]
    approvers = _approver_ids(action["approvers"])
    if voter not in approvers:
        raise Fault(403, "NotProposalApprover", f"{voter} is not an approver of proposal {proposal_id}.")
    if info["state"] != "Open":
        raise Fault(409, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']}.")
    if any(ballot["approverId"] == voter for ballot in info["ballots"]):
        raise Fault(409, "BallotAlreadySubmitted", f"{voter} has voted on proposal {proposal_id} already.")
    ballot = member(call.json(), "ballot")
    if ballot not in ("accepted", "rejected"):
        raise Fault(400, "InvalidBallotValue", f"ballot is {ballot!r}; it must be accepted or rejected.")
    info["ballots"].append({"approverId": voter, "ballot": ballot})
    if ballot == "rejected":
        info["state"] = "Rejected"
        _close(tx, action)
    elif set(approvers) <= {cast["approverId"] for cast in info["ballots"]}:
        document = member(action["args"], "document")
        accepted = omit_undefined(
            contractId=member(document, "contractId"),
            data=member(document, "data"),
            labels=member(document, "labels"),
            proposalId=proposal_id,
            proposerId=info["proposerId"],
            approvers=action["approvers"],
            finalVotes=info["ballots"],
        )
        tx.put(ACCEPTED, action["args"]["documentId"], accepted)
        info["state"] = "Accepted"
        _close(tx, action)
    tx.put(PROPOSALS_INFO, proposal_id, info)
    return Reply(info)


_PROPOSAL = "/users/proposals/{proposalId}"
ROUTES = [
    Route("PUT", _PROPOSAL, MEMBER_OR_USER, create, write=True),
    Route("POST", _PROPOSAL, MEMBER_OR_USER, get),
    Route("POST", _PROPOSAL + "/status", MEMBER_OR_USER, status),
    Route("POST", _PROPOSAL + "/withdraw", MEMBER_OR_USER, withdraw, write=True),
    Route("POST", _PROPOSAL + "/ballots/submit", MEMBER_OR_USER, submit_ballot, write=True),
]
