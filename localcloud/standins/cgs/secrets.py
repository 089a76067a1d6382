"""Routes of a contract's secrets: all callers can write them, only clean rooms can read them.

See docs/facts/governance-service.md#secrets.
"""

from __future__ import annotations

import json
from typing import Any

from localcloud.standins.cgs.attested import require_attestation, require_reading, require_signature
from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.http import ANY_CALLER, CLEAN_ROOM, MEMBER_OR_USER, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import member, truthy
from localcloud.standins.cgs.store import Tx

MAX_UNITS = 25_600
"""Maximum length of a secret, in UTF-16 code units."""


def _table(contract_id: str) -> str:
    return f"secrets-{contract_id}"


def utf16_units(text: str) -> int:
    """Return the length of a text in JavaScript."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _value(payload: Any) -> bytes:
    value = member(payload, "value")
    if not truthy(value):
        raise Fault(400, "ValueMissing", "value must be given and not empty.")
    if not isinstance(value, str):
        # Stored as JavaScript's text of it; no limit applies, because it has no length.
        return ("[object Object]" if isinstance(value, dict) else json.dumps(value)).encode()
    if utf16_units(value) > MAX_UNITS:
        raise Fault(400, "ValueTooLarge", f"value has {utf16_units(value)} UTF-16 units; at most {MAX_UNITS} are allowed.")
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def put_secret(call: Call, tx: Tx) -> Reply:
    """Store a secret, as a member, user or clean room."""
    contract_id, name = call.params["contractId"], call.params["secretName"]
    if call.caller is not None and call.caller.policy != "no_auth":
        require_active(call.caller, tx)
        owner, plain = call.caller.id, _value(call.json())
    else:
        body = call.json()
        if not truthy(member(body, "attestation")):
            raise Fault(400, "AttestationMissing", "attestation must be given.")
        require_attestation(call, tx, body, bind="encrypt")
        owner, plain = "cleanroom", _value(require_signature(body))
    secret_id = f"{owner}_{name}"
    tx.put_private(_table(contract_id), secret_id, plain)
    return Reply({"secretId": secret_id})


def get_secret(call: Call, tx: Tx) -> Reply:
    """Read a secret as a wrapped answer. The attestation is verified first, so that IDs cannot be probed."""
    contract_id, secret_id = call.params["contractId"], call.params["secretName"]
    body = call.json()
    require_reading(body)
    pem = require_attestation(call, tx, body, delegates=[("secrets", secret_id)], bind="encrypt")
    plain = tx.get_private(_table(contract_id), secret_id)
    if plain is None:
        raise Fault(404, "SecretNotFound", f"Secret {secret_id} does not exist.")
    return Reply(wrap=(plain, pem))


def list_secrets(call: Call, tx: Tx) -> Reply:
    """List the IDs of a contract's secrets."""
    require_active(call.caller, tx)
    return Reply({"value": [{"secretId": key} for key in tx.keys(_table(call.params["contractId"]))]})


ROUTES = [
    Route("GET", "/contracts/{contractId}/secrets", MEMBER_OR_USER, list_secrets),
    Route("PUT", "/contracts/{contractId}/secrets/{secretName}", ANY_CALLER, put_secret, write=True),
    Route("POST", "/contracts/{contractId}/secrets/{secretName}", CLEAN_ROOM, get_secret),
]
