"""Routes of clean room policies and delegate policies, the allowed claims, and how policies are merged.

See docs/facts/governance-service.md#clean-room-policies.
"""

from __future__ import annotations

import json
from typing import Any

from localcloud.standins.cgs.attested import contract_policy_table, delegate_policy_table, require_attestation, require_signature, same
from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.governance_store import open_proposals
from localcloud.standins.cgs.http import CLEAN_ROOM, MEMBER_OR_USER, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import UNDEFINED, Crash, member, truthy
from localcloud.standins.cgs.store import Tx

_SNP = "x-ms-sevsnpvm-"
CACI_CLAIMS = frozenset(
    {"x-ms-attestation-type", "x-ms-compliance-status", "x-ms-policy-hash", "x-ms-ver"}
    | {f"vm-configuration-{name}" for name in ("secure-boot", "secure-boot-template-id", "tpm-enabled", "vmUniqueId")}
    | {f"{_SNP}{name}" for name in ("authorkeydigest", "familyId", "guestsvn", "hostdata", "idkeydigest", "imageId", "is-debuggable")}
    | {f"{_SNP}{name}" for name in ("launchmeasurement", "reportdata", "reportid", "smt-allowed", "vmpl", "migration-allowed")}
    | {f"{_SNP}{name}-svn" for name in ("bootloader", "microcode", "snpfw", "tee")}
)
CVM_CLAIMS = frozenset(f"pcr{number}" for number in range(24))
JWT_CLAIMS = frozenset({"oid", "appid", "tid", "sub", "iss"})
_ALLOWED = {"snp-caci": CACI_CLAIMS, "snp-cvm": CVM_CLAIMS, "jwt": JWT_CLAIMS}


def validate(args: Any, *, jwt_allowed: bool) -> None:
    """Validate ``{type, claims, policyType?}``.

    Raises:
        Crash: It is invalid. Clean rooms get 500, members ``ProposalFailedToValidate``.
    """
    if member(args, "type") not in ("add", "remove"):
        raise Crash(f"type {member(args, 'type')!r} is not add or remove")
    kind = member(args, "policyType")
    name = "snp-caci" if kind is UNDEFINED or kind in (None, "") else kind
    if not isinstance(name, str) or name not in _ALLOWED or (name == "jwt" and not jwt_allowed):
        raise Crash(f"policyType {name!r} is not supported")
    claims = member(args, "claims")
    if not isinstance(claims, dict):
        raise Crash("claims is not an object")
    for claim in claims:
        if claim not in _ALLOWED[name]:
            raise Crash(f"claim {claim!r} is not allowed for {name}")


def merge(tx: Tx, table: str, kind: str, claims: dict[str, Any]) -> None:
    """Merge claims into a policy: ``add`` appends values and replaces booleans; ``remove`` throws for an absent value."""
    for name, given in claims.items():
        values = given if isinstance(given, list) else [given]
        existing = tx.get(table, name)
        boolean = bool(values) and isinstance(values[0], bool)
        if kind == "add":
            if existing is not None and boolean:
                tx.put(table, name, values)
                continue
            merged = list(existing or [])
            for value in values:
                if not any(same(value, other) for other in merged):
                    merged.append(value)
            tx.put(table, name, merged)
            continue
        if existing is None:
            raise Crash(f"claim {name} is not in the policy")
        left = [] if boolean else list(existing)
        for value in () if boolean else values:
            index = next((i for i, other in enumerate(left) if same(value, other)), None)
            if index is None:
                raise Crash(f"{value!r} is not a value of claim {name}")
            del left[index]
        if left:
            tx.put(table, name, left)
        else:
            tx.delete(table, name)


def delegate_list_table(contract_id: str) -> str:
    """Return the table with the type and ID of each delegate policy of a contract."""
    return f"public:policies.cleanroom-delegates-list-{contract_id}"


def get_contract_policy(call: Call, tx: Tx) -> Reply:
    """Read a contract's policy and the IDs of its open policy proposals."""
    require_active(call.caller, tx)
    contract_id = call.params["contractId"]
    proposals = open_proposals(tx, "set_clean_room_policy", contract_id)
    return Reply({"proposalIds": proposals, "policy": dict(tx.items(contract_policy_table(contract_id)))})


def _place(call: Call) -> tuple[str, str, str]:
    return call.params["contractId"], call.params["delegateType"], call.params["delegateId"]


def put_delegate(call: Call, tx: Tx) -> Reply:
    """Change a delegate policy, as a clean room."""
    body = call.json()
    if not truthy(member(body, "attestation")):
        raise Fault(400, "AttestationMissing", "attestation must be given.")
    require_attestation(call, tx, body, bind="encrypt")
    payload = require_signature(body)
    validate(payload, jwt_allowed=False)
    contract_id, kind, delegate_id = _place(call)
    merge(tx, delegate_policy_table(contract_id, kind, delegate_id), payload["type"], payload["claims"])
    row = {"delegateType": kind, "delegateId": delegate_id}
    tx.put(delegate_list_table(contract_id), json.dumps([kind, delegate_id]), row)
    return Reply()


def get_delegate(call: Call, tx: Tx) -> Reply:
    """Read a delegate policy."""
    require_active(call.caller, tx)
    return Reply({"claims": dict(tx.items(delegate_policy_table(*_place(call))))})


def list_delegates(call: Call, tx: Tx) -> Reply:
    """List the delegate policies of a contract."""
    require_active(call.caller, tx)
    return Reply({"value": [row for _, row in tx.items(delegate_list_table(call.params["contractId"]))]})


_POLICY = "/contracts/{contractId}/cleanroompolicy"
ROUTES = [
    Route("POST", _POLICY, MEMBER_OR_USER, get_contract_policy),
    Route("GET", _POLICY + "/delegates", MEMBER_OR_USER, list_delegates),
    Route("POST", _POLICY + "/delegates/{delegateType}/{delegateId}", MEMBER_OR_USER, get_delegate),
    Route("PUT", _POLICY + "/delegates/{delegateType}/{delegateId}", CLEAN_ROOM, put_delegate, write=True),
]
