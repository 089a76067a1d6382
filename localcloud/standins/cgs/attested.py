"""Verification of clean rooms: evidence, policy match, report data and signatures (docs/facts/governance-service.md#envelopes).

The product's verifier checks the evidence. This module decides what CGS decides: which claims a report has, whether they match the
contract's policy or a delegate policy, and which key the report binds.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pydantic import ValidationError

from cleanroom.attestation import (
    AttestationEvidence,
    CvmEvidence,
    Expectations,
    TrustStore,
    Verdict,
    verify_cvm_evidence,
    verify_evidence,
)
from localcloud.standins.cgs.callers import Attested
from localcloud.standins.cgs.http import Call, Fault
from localcloud.standins.cgs.javascript import UNDEFINED, Crash, member, parse_json, truthy
from localcloud.standins.cgs.store import Tx

_CACHE_SECONDS = 60.0
_CACHE_ROWS = 512
SNP_CLAIM = "x-ms-sevsnpvm-"


class EvidenceVerifier:
    """Verifies CACI and CVM evidence. Results are cached for a minute, because clean rooms reuse one report."""

    def __init__(self, trust: TrustStore) -> None:
        self._trust = trust
        self._known: dict[bytes, tuple[float, Attested]] = {}
        # Debug, migration and VMPL are claims, which the contract's policy checks.
        self._expectations = Expectations(
            host_data=None,
            report_data=None,
            vmpl=None,
            allow_debug=True,
            allow_migration=True,
            require_uvm=False,
            refuse_host_data=frozenset(),
        )
        # The claims of a virtual machine are its registers, so a policy cannot reject a debuggable one. The verifier must.
        self._machine = self._expectations.model_copy(update={"allow_debug": False})

    def examine(self, raw: bytes) -> Attested | None:
        """Verify the member ``attestation`` of a request body; return None if the body has none."""
        try:
            body = parse_json(raw)
        except Crash:
            return None
        attestation = body.get("attestation") if isinstance(body, dict) else None
        if not isinstance(attestation, dict):
            return None
        digest = hashlib.sha256(json.dumps(attestation, sort_keys=True).encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        result = self._verify_cvm(attestation) if isinstance(attestation.get("evidence"), dict) else self._verify_caci(attestation)
        if len(self._known) >= _CACHE_ROWS:
            self._known.clear()
        self._known[digest] = (time.monotonic() + _CACHE_SECONDS, result)
        return result

    def _verify_caci(self, attestation: Mapping[str, Any]) -> Attested:
        try:
            evidence = AttestationEvidence.model_validate({k: v for k, v in attestation.items() if k in AttestationEvidence.model_fields})
            report = base64.b64decode(evidence.evidence, validate=True)
        except (ValidationError, binascii.Error, ValueError):
            return Attested("snp-caci", None, reason="The evidence is not of the CACI shape {evidence, endorsements, uvm_endorsements}.")
        verdict = verify_evidence(evidence, trust=self._trust, expectations=self._expectations, at=dt.datetime.now(dt.UTC))
        if not verdict.ok:
            return Attested("snp-caci", None, reason=_not_genuine(verdict))
        claims = caci_claims(report)
        return Attested("snp-caci", claims, claims[f"{SNP_CLAIM}reportdata"])

    def _verify_cvm(self, attestation: Mapping[str, Any]) -> Attested:
        try:
            evidence = CvmEvidence.model_validate(attestation)
        except ValidationError:
            return Attested("snp-cvm", None, reason="The evidence is not of the CVM shape {evidence, nonce, platformCertificates}.")
        judged = verify_cvm_evidence(evidence, trust=self._trust, expectations=self._machine, at=dt.datetime.now(dt.UTC), nonce=None)
        user_data = judged.runtime_claims.get("user-data")
        if not judged.ok:
            return Attested("snp-cvm", None, reason=_not_genuine(judged.verdict))
        if not isinstance(user_data, str):
            return Attested("snp-cvm", None, reason="The runtime claims have no user-data.")
        # Only registers that the quote covers, spelled as in the evidence: policies compare with that text.
        claims = {f"pcr{name}": value for name, value in evidence.evidence.pcrs.items() if int(name) in judged.pcrs}
        return Attested("snp-cvm", claims, user_data.lower())


def _not_genuine(verdict: Verdict) -> str:
    return f"The evidence is not genuine: {', '.join(check.id for check in verdict.checks if not check.passed)}."


def caci_claims(report: bytes) -> dict[str, Any]:
    """Return the claims that CGS derives from a 1184-byte report."""
    number = int.from_bytes

    def hexa(offset: int, size: int) -> str:
        return report[offset : offset + size].hex()

    policy = number(report[0x08:0x10], "little")
    return {
        "x-ms-ver": str(number(report[0x00:0x04], "little")),
        "x-ms-sevsnpvm-guestsvn": number(report[0x04:0x08], "little"),
        "x-ms-sevsnpvm-is-debuggable": bool(policy >> 19 & 1),
        "x-ms-sevsnpvm-smt-allowed": bool(policy >> 16 & 1),
        "x-ms-sevsnpvm-familyId": hexa(0x10, 16),
        "x-ms-sevsnpvm-imageId": hexa(0x20, 16),
        "x-ms-sevsnpvm-vmpl": number(report[0x30:0x34], "little"),
        "x-ms-sevsnpvm-reportdata": hexa(0x50, 64),
        "x-ms-sevsnpvm-launchmeasurement": hexa(0x90, 48),
        "x-ms-sevsnpvm-hostdata": hexa(0xC0, 32),
        "x-ms-sevsnpvm-idkeydigest": hexa(0xE0, 48),
        "x-ms-sevsnpvm-authorkeydigest": hexa(0x110, 48),
        "x-ms-sevsnpvm-reportid": hexa(0x140, 32),
    }


def contract_policy_table(contract_id: str) -> str:
    """Return the table of a contract's clean room policy: claim name to array of allowed values."""
    return f"public:ccf.gov.policies.cleanroom-{contract_id}"


def delegate_policy_table(contract_id: str, kind: str, delegate_id: str) -> str:
    """Return the table of a delegate policy. Its name is ambiguous for IDs with ``_``, as in the original."""
    return f"public:policies.cleanroom-delegates-{contract_id}_{kind}_{delegate_id}"


def same(left: Any, right: Any) -> bool:
    """Compare JSON scalars like JavaScript's ``===``; objects and arrays are never equal."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict | list) or isinstance(right, dict | list):
        return False
    number = isinstance(left, int | float) and isinstance(right, int | float)
    return (number or type(left) is type(right)) and bool(left == right)


def satisfies(policy: Mapping[str, Sequence[Any]], claims: Mapping[str, Any]) -> bool:
    """Whether every claim of the policy is attested with one of the allowed values. Nothing satisfies an empty policy."""
    return bool(policy) and all(name in claims and any(same(claims[name], value) for value in values) for name, values in policy.items())


def match_policy(tx: Tx, contract_id: str, claims: Mapping[str, Any], delegates: Sequence[tuple[str, str]]) -> str | None:
    """Match claims against the contract's policy and the named delegate policies.

    The contract's own policy must not be empty, even if a delegate policy matches.

    Returns:
        None if one of them matches, else the reason.
    """
    own = dict(tx.items(contract_policy_table(contract_id)))
    if not own:
        return f"Contract {contract_id} has no clean room policy."
    if satisfies(own, claims):
        return None
    for kind, delegate_id in delegates:
        if satisfies(dict(tx.items(delegate_policy_table(contract_id, kind, delegate_id))), claims):
            return None
    return f"The attested claims do not match the clean room policy of contract {contract_id}."


def require_reading(body: Any) -> None:
    """Require the members ``attestation`` and ``encrypt`` of the read envelope."""
    if not truthy(member(body, "attestation")):
        raise Fault(400, "AttestationMissing", "attestation must be given.")
    if not truthy(member(body, "encrypt")):
        raise Fault(400, "EncryptionMissing", "encrypt must be given.")


def require_attestation(
    call: Call,
    tx: Tx,
    body: Any,
    *,
    delegates: Sequence[tuple[str, str]] = (),
    bind: str | None,
    ignore_platform: bool = False,
) -> str:
    """Check the platform, the evidence, the policy and the report data of a clean room's request.

    Args:
        call: The request; its evidence has been verified.
        tx: The tables.
        body: The parsed body.
        delegates: Delegate policies (type, ID) that admit the caller as well.
        bind: ``encrypt`` or ``sign``, the member whose ``publicKey`` the report must bind; None for consent checks.
        ignore_platform: Expect ``snp-caci`` regardless of the member ``platform``.

    Returns:
        PEM of the bound key; empty if ``bind`` is None.
    """
    stated = member(body, "platform")
    platform = stated if truthy(stated) and not ignore_platform else "snp-caci"
    if platform not in ("snp-caci", "snp-cvm"):
        raise Fault(400, "UnsupportedPlatform", f"platform {platform!r} is not supported; use snp-caci or snp-cvm.")
    seen = call.attested
    if seen is None or seen.claims is None:
        raise Fault(400, "VerifySnpAttestationFailed", seen.reason if seen else "The attestation is not an object of base64 strings.")
    if seen.platform != platform:
        raise Fault(400, "VerifySnpAttestationFailed", f"The evidence is of platform {seen.platform}, not {platform}.")
    mismatch = match_policy(tx, call.params["contractId"], seen.claims, delegates)
    if mismatch is not None:
        raise Fault(400, "VerifySnpAttestationFailed", mismatch)
    if bind is None:
        return ""
    try:
        pem = decode_base64(member(member(body, bind), "publicKey"))
    except Crash as error:
        raise Fault(400, "ReportDataMismatch", f"There is no {bind}.publicKey to compare with the report data.") from error
    expected = hashlib.sha256(pem).hexdigest() + "0" * 64
    if not hmac.compare_digest(expected.encode(), seen.report_data.encode()):
        raise Fault(
            400,
            "ReportDataMismatch",
            f"The report does not bind {bind}.publicKey: its report data (or user-data) is not the key's SHA-256.",
        )
    return pem.decode("utf-8", "replace")


def require_signature(body: Any) -> Any:
    """Verify ``sign`` over the decoded ``data`` and return the payload as JSON; malformed ``data`` throws."""
    data = decode_base64(member(body, "data"))
    verify_signature(member(body, "sign"), data)
    return parse_json(data)


def verify_signature(sign: Any, data: bytes) -> None:
    """Verify an RSA-PSS signature (SHA-256, salt 32).

    Raises:
        Fault: 400 ``SignatureMismatch`` if the signature is wrong, missing or malformed.
    """
    try:
        key = serialization.load_pem_public_key(decode_base64(member(sign, "publicKey")))
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("not an RSA key")
        key.verify(decode_base64(member(sign, "signature")), data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    except (Crash, ValueError, InvalidSignature) as error:
        raise Fault(400, "SignatureMismatch", "data does not carry sign.publicKey's signature (RSA-PSS, SHA-256, salt 32).") from error


def decode_base64(value: Any) -> bytes:
    """Decode base64 like the original: both alphabets, other characters and padding ignored; non-strings throw."""
    if value is UNDEFINED or not isinstance(value, str):
        raise Crash("not a base64 string")
    tidy = re.sub(r"[^A-Za-z0-9+/]", "", value.replace("-", "+").replace("_", "/"))
    if len(tidy) % 4 == 1:
        raise Crash("malformed base64")
    return base64.b64decode(tidy + "=" * (-len(tidy) % 4))
