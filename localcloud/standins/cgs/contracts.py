"""Routes of contracts, their runtime options and deployments, member documents, and service options."""

from __future__ import annotations

from typing import Any

from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.documents import CONTRACTS, authorize_or_attest, check_version, wrapped_document
from localcloud.standins.cgs.governance_store import open_actions, open_proposals
from localcloud.standins.cgs.http import ANY_CALLER, CLEAN_ROOM, MEMBER, MEMBER_OR_USER, PUBLIC, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import UNDEFINED, Crash, member, omit_undefined, truthy
from localcloud.standins.cgs.store import Tx

ACCEPTED_CONTRACTS = "public:ccf.gov.accepted_contracts"
EXECUTION_STATUS = "public:contracts_execution_status"
DEPLOYMENT_SPECS = "public:ccf.gov.deployment_specs"
DEPLOYMENT_INFOS = "public:ccf.gov.deployment_infos"
MEMBER_DRAFTS = "public:documents"
MEMBER_ACCEPTED = "public:ccf.gov.accepted_member_documents"
SERVICE_OPTIONS_TABLE = "public:ccf.gov.cgs_runtime_options"
SERVICE_OPTIONS = frozenset(
    f"autoapprove-{name}-proposal" for name in ("constitution", "jsapp", "deploymentspec", "deploymentinfo", "cleanroompolicy")
)


def switch_table(option: str) -> str:
    """Return the table of a contract's runtime option ``logging`` or ``telemetry``."""
    return f"public:ccf.gov.contracts_{option}_status"


def _final_votes(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"memberId": who, "vote": vote is True} for who, vote in (item.get("finalVotes") or {}).items()]


def put_contract(call: Call, tx: Tx) -> Reply:
    """Create or update the draft of a contract."""
    key = call.params["contractId"]
    if tx.has(ACCEPTED_CONTRACTS, key):
        raise Fault(405, "ContractAlreadyAccepted", f"Contract {key} is accepted and cannot be changed.")
    body = call.json()
    if not truthy(member(body, "data")):
        raise Fault(400, "DataMissing", "data must be given.")
    check_version(tx, CONTRACTS, key, member(body, "version"), "ContractAlreadyExists")
    tx.put(CONTRACTS, key, {"data": body["data"]})
    return Reply()


def read_contract(tx: Tx, key: str) -> dict[str, Any] | None:
    """Return a contract: Accepted, else Proposed, else Draft, else None."""
    item = tx.get(ACCEPTED_CONTRACTS, key)
    if item is not None:
        version = tx.version(ACCEPTED_CONTRACTS, key)
        head = {"id": key, "version": version, "state": "Accepted", "data": item["data"]}
        return {**head, "proposalId": item["proposalId"], "finalVotes": _final_votes(item)}
    for proposal_id, args in open_actions(tx, "set_contract"):
        if args.get("contractId") == key:
            proposed = args["contract"]
            version = proposed.get("version", UNDEFINED)
            data = proposed.get("data", UNDEFINED)
            return omit_undefined(id=key, version=version, state="Proposed", data=data, proposalId=proposal_id)
    draft = tx.get(CONTRACTS, key)
    if draft is None:
        return None
    return {"id": key, "version": tx.version(CONTRACTS, key), "state": "Draft", "data": draft["data"], "proposalId": ""}


def get_contract(call: Call, tx: Tx) -> Reply:
    """Read a contract."""
    require_active(call.caller, tx)
    found = read_contract(tx, call.params["contractId"])
    if found is None:
        raise Fault(404, "ContractNotFound", f"Contract {call.params['contractId']} does not exist.")
    return Reply(found)


def list_contracts(call: Call, tx: Tx) -> Reply:
    """List contract IDs, optionally of one ``state``."""
    require_active(call.caller, tx)
    state = call.query.get("state")
    if state and state not in ("Draft", "Proposed", "Accepted"):
        raise Fault(400, "InvalidParameter", "state must be Draft, Proposed or Accepted.")
    accepted = tx.keys(ACCEPTED_CONTRACTS)
    pending = [key for key in tx.keys(CONTRACTS) if key not in accepted]
    proposed = [key for key in {args.get("contractId") for _, args in open_actions(tx, "set_contract")} if key in pending]
    keys = {
        "Accepted": accepted,
        "Proposed": sorted(proposed),
        "Draft": [key for key in pending if key not in proposed],
    }.get(state or "", sorted({*accepted, *pending}))
    return Reply({"value": [{"id": key} for key in keys]})


def option_status(call: Call, tx: Tx) -> Reply:
    """Read a contract's runtime option, as any caller."""
    authorize_or_attest(call, tx)
    key, option = call.params["contractId"], call.params["option"]
    if option not in ("execution", "logging", "telemetry"):
        raise Fault(400, "InvalidOption", f"{option} is not an option of a contract; use execution, logging or telemetry.")
    if not tx.has(ACCEPTED_CONTRACTS, key):
        message = f"Contract {key} does not exist or is not accepted."
        return Reply({"status": "disabled", "reason": {"code": "ContractNotAccepted", "message": message}})
    if option != "execution":
        status = tx.get(switch_table(option), key) or "disabled"
        return Reply({"status": status, "proposalIds": open_proposals(tx, f"set_contract_runtime_options_enable_{option}", key)})
    disabled = [who for who, state in (tx.get(EXECUTION_STATUS, key) or {}).items() if state == "disabled"]
    if not disabled:
        return Reply({"status": "enabled"})
    message = f"The contract was disabled by: m[{','.join(disabled)}]."
    return Reply({"status": "disabled", "reason": {"code": "ContractDisabled", "message": message}})


def _set_execution(call: Call, tx: Tx, state: str) -> Reply:
    assert call.caller is not None
    key = call.params["contractId"]
    if call.params["option"] != "execution":
        raise Fault(
            400,
            "InvalidOption",
            f"{call.params['option']} needs a governance proposal; only execution can be changed here.",
        )
    if not tx.has(ACCEPTED_CONTRACTS, key):
        raise Fault(400, "ContractNotAccepted", f"Contract {key} does not exist or is not accepted.")
    tx.put(EXECUTION_STATUS, key, {**(tx.get(EXECUTION_STATUS, key) or {}), call.caller.id: state})
    return Reply()


def enable_execution(call: Call, tx: Tx) -> Reply:
    """Withdraw the calling member's veto against execution."""
    return _set_execution(call, tx, "enabled")


def disable_execution(call: Call, tx: Tx) -> Reply:
    """Disable execution for the calling member."""
    return _set_execution(call, tx, "disabled")


def service_option(call: Call, tx: Tx) -> Reply:
    """Read a service-wide option."""
    require_active(call.caller, tx)
    option = call.params["option"]
    if option not in SERVICE_OPTIONS:
        raise Fault(400, "InvalidOption", f"{option} is not a service option; use one of {', '.join(sorted(SERVICE_OPTIONS))}.")
    return Reply({"status": tx.get(SERVICE_OPTIONS_TABLE, option) or "disabled"})


def deployment_spec(call: Call, tx: Tx) -> Reply:
    """Read a contract's deployment specification."""
    key = call.params["contractId"]
    return Reply({"proposalIds": open_proposals(tx, "set_deployment_spec", key), "data": tx.get(DEPLOYMENT_SPECS, key) or {}})


def deployment_info(call: Call, tx: Tx) -> Reply:
    """Read a contract's deployment information."""
    key = call.params["contractId"]
    return Reply({"proposalIds": open_proposals(tx, "set_deployment_info", key), "data": tx.get(DEPLOYMENT_INFOS, key) or {}})


def put_member_document(call: Call, tx: Tx) -> Reply:
    """Create or update the draft of a member document."""
    key = call.params["documentId"]
    if tx.has(MEMBER_ACCEPTED, key):
        raise Fault(405, "DocumentAlreadyAccepted", f"Document {key} is accepted and cannot be changed.")
    body = call.json()
    contract_id = member(body, "contractId")
    if not truthy(contract_id):
        raise Fault(400, "ContractIdMissing", "contractId must be given.")
    if not truthy(member(body, "data")):
        raise Fault(400, "DataMissing", "data must be given.")
    if not isinstance(contract_id, str):
        raise Crash("contractId is not a string")
    if not tx.has(CONTRACTS, contract_id):
        raise Fault(404, "ContractNotFound", f"Contract {contract_id} does not exist.")
    check_version(tx, MEMBER_DRAFTS, key, member(body, "version"), "DocumentAlreadyExists")
    tx.put(MEMBER_DRAFTS, key, {"contractId": contract_id, "data": body["data"]})
    return Reply()


def _accepted_member_document(tx: Tx, key: str) -> dict[str, Any] | None:
    item = tx.get(MEMBER_ACCEPTED, key)
    if item is None:
        return None
    head = {
        "id": key,
        "version": tx.version(MEMBER_ACCEPTED, key),
        "state": "Accepted",
        "contractId": item["contractId"],
        "data": item["data"],
    }
    return {**head, "proposalId": item["proposalId"], "finalVotes": _final_votes(item)}


def read_member_document(tx: Tx, key: str) -> dict[str, Any] | None:
    """Return a member document: Accepted, else Proposed, else Draft, else None."""
    found = _accepted_member_document(tx, key)
    if found is not None:
        return found
    for proposal_id, args in open_actions(tx, "set_member_document"):
        if args.get("documentId") == key:
            document = args["document"]
            part = {name: document.get(name, UNDEFINED) for name in ("version", "contractId", "data")}
            return omit_undefined(id=key, state="Proposed", **part, proposalId=proposal_id)
    draft = tx.get(MEMBER_DRAFTS, key)
    if draft is None:
        return None
    return {"id": key, "state": "Draft", "version": tx.version(MEMBER_DRAFTS, key), **draft, "proposalId": ""}


def get_member_document(call: Call, tx: Tx) -> Reply:
    """Read a member document."""
    require_active(call.caller, tx)
    found = read_member_document(tx, call.params["documentId"])
    if found is None:
        raise Fault(404, "DocumentNotFound", f"Document {call.params['documentId']} does not exist.")
    return Reply(found)


def list_member_documents(call: Call, tx: Tx) -> Reply:
    """List the IDs of member documents, as a bare array like the original."""
    require_active(call.caller, tx)
    return Reply([{"id": key} for key in sorted({*tx.keys(MEMBER_DRAFTS), *tx.keys(MEMBER_ACCEPTED)})])


def get_accepted_member_document(call: Call, tx: Tx) -> Reply:
    """Read an accepted member document as a clean room; the answer is wrapped."""
    return wrapped_document(call, tx, _accepted_member_document, "DocumentNotFound")


_CONTRACT = "/contracts/{contractId}"
ROUTES = [
    Route("GET", "/contracts", MEMBER_OR_USER, list_contracts),
    Route("PUT", _CONTRACT, MEMBER, put_contract, write=True),
    Route("POST", _CONTRACT, MEMBER_OR_USER, get_contract),
    Route("POST", _CONTRACT + "/runtimeoptions/{option}/status", ANY_CALLER, option_status),
    Route("POST", _CONTRACT + "/runtimeoptions/{option}/enable", MEMBER, enable_execution, write=True),
    Route("POST", _CONTRACT + "/runtimeoptions/{option}/disable", MEMBER, disable_execution, write=True),
    Route("POST", _CONTRACT + "/deploymentspec", PUBLIC, deployment_spec),
    Route("POST", _CONTRACT + "/deploymentinfo", PUBLIC, deployment_info),
    Route("GET", _CONTRACT + "/memberdocuments", MEMBER_OR_USER, list_member_documents),
    Route("PUT", _CONTRACT + "/memberdocuments/{documentId}", MEMBER, put_member_document, write=True),
    Route("POST", _CONTRACT + "/memberdocuments/{documentId}", MEMBER_OR_USER, get_member_document),
    Route("POST", _CONTRACT + "/memberdocuments/accepted/{documentId}", CLEAN_ROOM, get_accepted_member_document),
    Route("GET", "/memberdocuments", MEMBER_OR_USER, list_member_documents),
    Route("PUT", "/memberdocuments/{documentId}", MEMBER, put_member_document, write=True),
    Route("GET", "/memberdocuments/{documentId}", MEMBER_OR_USER, get_member_document),
    Route("POST", "/runtimeoptions/{option}/status", MEMBER_OR_USER, service_option),
]
