"""Explains why Key Vault refused a release: the service returns the same 403 for several mismatches, so policy and token are compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from azure.core.exceptions import HttpResponseError

from cleanroom.claims import ATTESTATION_TYPE, COMPLIANCE_STATUS, HOST_DATA, IS_DEBUGGABLE, VMPL
from cleanroom.errors import Refused
from cleanroom.keys.evaluate import PolicyVerdict, evaluate, printable
from cleanroom.keys.release_policy import ReleasePolicy
from cleanroom.keys.vault import service_error

_USUAL_CLAIMS = (HOST_DATA, COMPLIANCE_STATUS, ATTESTATION_TYPE, IS_DEBUGGABLE, VMPL)

Cause = Literal["role", "authority", "claims", "key", "unknown"]


class _Explanation(NamedTuple):
    code: str
    reason: str
    hint: str


_EXPLANATIONS: dict[Cause, _Explanation] = {
    "role": _Explanation(
        "ForbiddenByRbac",
        "the caller lacks the data action keys/release",
        "Assign 'Key Vault Crypto Service Release User' at the vault to this identity, or the key permission 'release' in a vault with"
        " access policies. A new assignment can take minutes to take effect.",
    ),
    "authority": _Explanation(
        "AttestationNotAccepted",
        "the key does not accept the attestation token (its authority, signature or validity)",
        "Attest again at the authority that the policy names, or ask the key's owner to change the policy's authority.",
    ),
    "claims": _Explanation(
        "ReleasePolicyNotMet",
        "the attested guest does not meet the key's release policy",
        "Run the container security policy that the key names, or ask the key's owner to set a release policy for this one.",
    ),
    "key": _Explanation(
        "KeyDisabled",
        "the key is disabled or outside its validity",
        "Ask the key's owner to enable it or extend its validity.",
    ),
    "unknown": _Explanation(
        "KeyReleaseRefused",
        "neither its response nor a comparison of policy and token shows the reason",
        "Ask the key's owner to compare the release policy with the token's claims, and read the vault's audit log.",
    ),
}


# The service's own code takes precedence over the comparison, because it checks the caller's role and the key's state first.
_INNER: Mapping[str, Cause] = {
    "ForbiddenByRbac": "role",
    "ForbiddenByPolicy": "role",
    "KeyDisabled": "key",
    "KeyNotYetValid": "key",
    "KeyExpired": "key",
    "ForbiddenByFirewall": "unknown",
    "ForbiddenByConnection": "unknown",
}


def _cause(inner: str | None, message: str, verdict: PolicyVerdict | None, expired: bool) -> Cause:
    if known := _INNER.get(inner or ""):
        return known
    if "does not have" in message or "not authorized" in message:
        return "role"
    if expired or (verdict is not None and not verdict.authority_matched):
        return "authority"
    if verdict is not None and not verdict.ok:
        return "claims"
    if "cannot be verified" in message:
        return "authority"
    if "does not meet" in message:
        return "claims"
    return "unknown"


def explain_refusal(
    error: HttpResponseError,
    *,
    key_id: str,
    claims: Mapping[str, Any],
    policy: ReleasePolicy | None,
    policy_source: str,
    at: dt.datetime,
) -> Refused:
    """Convert the 403 of a release to :class:`~cleanroom.errors.Refused`, with a comparison of policy and token.

    Args:
        error: The SDK's error.
        key_id: The requested key.
        claims: The token's claims.
        policy: The key's policy, if known. An identity that may release a key usually may not read it.
        policy_source: ``vault`` (read from the key) or ``expected`` (the caller's expectation).
        at: The instant of the refusal.

    Returns:
        The error. Its ``details`` are ``cause`` (role, authority, claims, key, unknown), ``rows`` (``{place, authority, claim, expected,
        actual, passed, counted}``), ``table`` and ``reasons`` (the same as text lines), ``token`` (the claims that policies usually name),
        ``issuer``, ``authorities``, ``token_expires``, ``policy_source`` and ``upstream`` (status, code, innererror). Without ``policy``,
        ``rows`` is absent and ``reasons`` only shows the token.
    """
    code, inner, message = service_error(error)
    verdict = evaluate(policy, claims) if policy is not None else None
    expires = claims.get("exp")
    expired = isinstance(expires, int | float) and expires <= at.timestamp()
    cause = _cause(inner, message, verdict, expired)
    explanation = _EXPLANATIONS[cause]
    failed = printable(", ".join(row.claim for row in verdict.failed)) if cause == "claims" and verdict is not None else ""
    text = f"release of {key_id}: Key Vault refused it: {explanation.reason}" + (f": {failed}" if failed else "")
    if expired:
        text += "; the token has expired"
    details: dict[str, Any] = {
        "cause": cause,
        "issuer": claims.get("iss"),
        "token_expires": expires,
        "token": {name: claims.get(name) for name in _USUAL_CLAIMS},
        "policy_source": policy_source if policy is not None else None,
        "upstream": {"status": error.status_code, "code": code, "innererror": inner},
    }
    if verdict is not None:
        lines = verdict.table().splitlines()
        details |= {
            "authorities": list(verdict.authorities),
            "rows": [row.model_dump() for row in verdict.rows],
            "table": verdict.table(),
            # The command line prints these below the message. Failed conditions come first.
            "reasons": [{"message": line} for line in sorted(lines, key=lambda line: not line.startswith("NO"))],
        }
    else:
        details["reasons"] = [{"message": printable(f"token {name}: {claims.get(name, '(missing)')}")} for name in ("iss", *_USUAL_CLAIMS)]
    party = "clean-room" if cause == "authority" and expired else "key-owner"
    return Refused(explanation.code, f"{text}.", cause=message, hint=explanation.hint, party=party, details=details)
