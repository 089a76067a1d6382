"""Routes of user documents and of their runtime options (docs/facts/governance-service.md#documents)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from localcloud.standins.cgs.attested import require_attestation, require_reading
from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.http import ANY_CALLER, CLEAN_ROOM, MEMBER_OR_USER, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import UNDEFINED, Crash, member, omit_undefined, truthy
from localcloud.standins.cgs.store import Tx

CONTRACTS = "public:contracts"
DRAFTS = "public:user_documents"
ACCEPTED = "public:accepted_user_documents"
PROPOSALS = "public:user_proposals"
PROPOSALS_INFO = "public:user_proposals_info"
OPEN_BY_DOCUMENT = "local:open_user_proposals"
"""Index of open proposals by document ID; the original scans all proposals."""
OPTION_STATUS = "public:user_documents_runtime_option_status"
OPTIONS = ("execution", "telemetry")


def check_version(tx: Tx, table: str, key: str, incoming: Any, exists_code: str) -> None:
    """Check the version that a client sends with an existing draft.

    Raises:
        Fault: 409 ``exists_code`` without a version, 412 with another version than the current one.
    """
    current = tx.version(table, key)
    if current is None:
        return
    if not truthy(incoming):
        raise Fault(409, exists_code, f"{key} exists already; to update it, read it and send its version.")
    if not _loosely_equal(incoming, current):
        raise Fault(412, "PreconditionFailed", f"{key} has version {current}, not {incoming}; read it again and retry.")


def _loosely_equal(incoming: Any, current: str) -> bool:
    """Compare with a string like JavaScript's ``==``: a number equals its decimal text."""
    if isinstance(incoming, int | float):
        return float(incoming) == float(current)
    return bool(incoming == current)


def put_document(call: Call, tx: Tx) -> Reply:
    """Create or update the draft of a user document."""
    require_active(call.caller, tx)
    key = call.params["documentId"]
    if tx.has(ACCEPTED, key):
        raise Fault(405, "UserDocumentAlreadyAccepted", f"Document {key} is accepted and cannot be changed.")
    body = call.json()
    contract_id, data = member(body, "contractId"), member(body, "data")
    if not truthy(contract_id):
        raise Fault(400, "ContractIdMissing", "contractId must be given.")
    if not truthy(data):
        raise Fault(400, "DataMissing", "data must be given.")
    if not isinstance(contract_id, str):
        raise Crash("contractId is not a string")
    if not tx.has(CONTRACTS, contract_id):
        raise Fault(404, "ContractNotFound", f"Contract {contract_id} does not exist.")
    check_version(tx, DRAFTS, key, member(body, "version"), "UserDocumentAlreadyExists")
    labels, approvers = member(body, "labels"), member(body, "approvers")
    tx.put(DRAFTS, key, omit_undefined(contractId=contract_id, data=data, labels=labels, approvers=approvers))
    return Reply()


def _accepted(tx: Tx, key: str) -> dict[str, Any] | None:
    item = tx.get(ACCEPTED, key)
    if item is None:
        return None
    get = item.get
    return omit_undefined(
        id=key,
        version=tx.version(ACCEPTED, key),
        state="Accepted",
        contractId=get("contractId", UNDEFINED),
        approvers=get("approvers", UNDEFINED),
        data=get("data", UNDEFINED),
        labels=get("labels", UNDEFINED),
        proposalId=item["proposalId"],
        proposerId=item["proposerId"],
        finalVotes=item["finalVotes"],
    )


def _proposed(tx: Tx, key: str) -> dict[str, Any] | None:
    proposal_id = tx.get(OPEN_BY_DOCUMENT, json.dumps(key))
    if proposal_id is None:
        return None
    action = tx.get(PROPOSALS, proposal_id)["actions"][0]
    document = action["args"].get("document", UNDEFINED)
    return omit_undefined(
        id=key,
        version=member(document, "version"),
        state="Proposed",
        contractId=member(document, "contractId"),
        approvers=action["approvers"],
        data=member(document, "data"),
        labels=member(document, "labels"),
        proposalId=proposal_id,
        proposerId=tx.get(PROPOSALS_INFO, proposal_id)["proposerId"],
    )


def read_document(tx: Tx, key: str) -> dict[str, Any] | None:
    """Return a document: Accepted, else Proposed, else Draft, else None."""
    found = _accepted(tx, key) or _proposed(tx, key)
    draft = tx.get(DRAFTS, key) if found is None else None
    if draft is None:
        return found
    return omit_undefined(
        id=key,
        version=tx.version(DRAFTS, key),
        state="Draft",
        contractId=draft["contractId"],
        approvers=draft.get("approvers", UNDEFINED),
        data=draft["data"],
        labels=draft.get("labels", UNDEFINED),
        proposalId="",
        proposerId="",
    )


def get_document(call: Call, tx: Tx) -> Reply:
    """Read a document."""
    require_active(call.caller, tx)
    found = read_document(tx, call.params["documentId"])
    if found is None:
        raise Fault(404, "UserDocumentNotFound", f"Document {call.params['documentId']} does not exist.")
    return Reply(found)


def _selector(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        halves = [half.strip() for half in part.split(":")]
        if len(halves) != 2 or not all(halves):
            raise Fault(400, "InvalidParameter", f"labelSelector is {text!r}; it must be key:value[,key:value...].")
        pairs[halves[0]] = halves[1]
    return pairs


def list_documents(call: Call, tx: Tx) -> Reply:
    """List the IDs and labels of documents, optionally by label."""
    require_active(call.caller, tx)
    text = call.query.get("labelSelector")
    wanted = None if text is None else _selector(text)
    found = {key: item.get("labels", UNDEFINED) for key, item in tx.items(DRAFTS)}
    found |= {key: item.get("labels", UNDEFINED) for key, item in tx.items(ACCEPTED)}
    rows = []
    for key, labels in found.items():
        if wanted is not None and truthy(labels) and not isinstance(labels, dict):
            raise Crash(f"the labels of {key} are not an object")
        if wanted is None or (isinstance(labels, dict) and all(labels.get(name) == value for name, value in wanted.items())):
            rows.append(omit_undefined(id=key, labels=labels))
    return Reply({"value": rows})


def get_accepted_document(call: Call, tx: Tx) -> Reply:
    """Read an accepted document as a clean room; the answer is wrapped."""
    return wrapped_document(call, tx, _accepted, "UserDocumentNotFound")


def wrapped_document(call: Call, tx: Tx, find: Callable[[Tx, str], dict[str, Any] | None], missing: str) -> Reply:
    """Return the accepted document that ``find`` returns, wrapped with the clean room's key; ``missing`` is the code of the 404."""
    body = call.json()
    require_reading(body)
    pem = require_attestation(call, tx, body, bind="encrypt")
    found = find(tx, call.params["documentId"])
    if found is None:
        raise Fault(404, missing, f"Document {call.params['documentId']} does not exist or is not accepted.")
    if found.get("contractId") != call.params["contractId"]:
        raise Fault(400, "ContractIdMismatch", f"Document {found['id']} belongs to another contract than {call.params['contractId']}.")
    return Reply(wrap=(json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"), pem))


def authorize_or_attest(call: Call, tx: Tx) -> None:
    """Admit registered users, members and attested clean rooms to a consent route. No key is bound, and the platform is ignored."""
    if call.caller is not None and call.caller.policy != "no_auth":
        require_active(call.caller, tx)
        return
    body = call.json()
    if not truthy(member(body, "attestation")):
        raise Fault(400, "AttestationMissing", "attestation must be given.")
    require_attestation(call, tx, body, bind=None, ignore_platform=True)


def _require_option(option: str) -> None:
    if option not in OPTIONS:
        raise Fault(400, "InvalidUserDocumentRuntimeOption", f"{option} is not an option of a document; use execution or telemetry.")


def option_status(call: Call, tx: Tx) -> Reply:
    """Read a document's runtime option, as any caller."""
    authorize_or_attest(call, tx)
    key, option = call.params["documentId"], call.params["option"]
    item = tx.get(ACCEPTED, key)
    if item is None:
        reason = {"code": "UserDocumentNotAccepted", "message": f"Document {key} does not exist or is not accepted."}
        return Reply({"status": "disabled", "reason": reason})
    _require_option(option)
    if item.get("contractId") != call.params["contractId"]:
        raise Fault(400, "ContractIdMismatch", f"Document {key} belongs to another contract than {call.params['contractId']}.")
    disabled = [who for who, state in (tx.get(OPTION_STATUS, f"{key}_{option}") or {}).items() if state == "disabled"]
    if not disabled:
        return Reply({"status": "enabled"})
    message = f"Option {option} of the document was disabled by: m[{','.join(disabled)}]."
    return Reply({"status": "disabled", "reason": {"code": "UserDocumentRuntimeOptionDisabled", "message": message}})


def _set_option(call: Call, tx: Tx, state: str) -> Reply:
    require_active(call.caller, tx)
    assert call.caller is not None
    key, option = call.params["documentId"], call.params["option"]
    item = tx.get(ACCEPTED, key)
    if item is None:
        raise Fault(400, "UserDocumentNotAccepted", f"Document {key} does not exist or is not accepted.")
    if "approvers" not in item:
        raise Fault(400, "ApproversNotFound", f"Document {key} has no approvers.")
    if call.caller.id not in [member(approver, "approverId") for approver in item["approvers"]]:
        raise Fault(403, "NotUserDocumentApprover", f"{call.caller.id} is not an approver of document {key}.")
    _require_option(option)
    tx.put(OPTION_STATUS, f"{key}_{option}", {**(tx.get(OPTION_STATUS, f"{key}_{option}") or {}), call.caller.id: state})
    return Reply()


def enable_option(call: Call, tx: Tx) -> Reply:
    """Enable a runtime option for the calling approver."""
    return _set_option(call, tx, "enabled")


def disable_option(call: Call, tx: Tx) -> Reply:
    """Disable a runtime option for the calling approver."""
    return _set_option(call, tx, "disabled")


_DOCUMENT = "/contracts/{contractId}/userdocuments/{documentId}"
ROUTES = [
    Route("GET", "/userdocuments", MEMBER_OR_USER, list_documents),
    Route("GET", "/contracts/{contractId}/userdocuments", MEMBER_OR_USER, list_documents),
    Route("PUT", "/userdocuments/{documentId}", MEMBER_OR_USER, put_document, write=True),
    Route("PUT", _DOCUMENT, MEMBER_OR_USER, put_document, write=True),
    Route("GET", "/userdocuments/{documentId}", MEMBER_OR_USER, get_document),
    Route("POST", _DOCUMENT, MEMBER_OR_USER, get_document),
    Route("POST", "/contracts/{contractId}/userdocuments/accepted/{documentId}", CLEAN_ROOM, get_accepted_document),
    Route("POST", _DOCUMENT + "/runtimeoptions/{option}/status", ANY_CALLER, option_status),
    Route("POST", _DOCUMENT + "/runtimeoptions/{option}/enable", MEMBER_OR_USER, enable_option, write=True),
    Route("POST", _DOCUMENT + "/runtimeoptions/{option}/disable", MEMBER_OR_USER, disable_option, write=True),
]
