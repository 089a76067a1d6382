"""Read evidence from the JSON documents that carry it.

These are the sidecar's responses, the governance service's request body and stored samples, and the request body of Microsoft Azure
Attestation (``docs/facts/attestation.md#forms-of-evidence``). This module only decodes; it verifies nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from cleanroom.attestation.cvm import CvmEvidence
from cleanroom.errors import InvalidInput


class EvidenceDocument(NamedTuple):
    """The members of a document as text; None for an absent one."""

    report: str
    """The report in base64, base64url or hex."""
    endorsements: str | None = None
    uvm_endorsements: str | None = None
    """base64."""
    endorsed_tcb: str | None = None


def read_document(data: bytes) -> EvidenceDocument:
    """Return the evidence in a JSON document.

    Accepted forms:

    * ``{"evidence", "endorsements", "uvm_endorsements", "endorsed_tcb"}`` (the sidecar's ``/attest/combined``), the same under
      ``attestation`` (the governance service), or with the report as ``raw`` (the quote of a CCF node);
    * ``{"report": hex}`` (the sidecar's ``/attest/raw``);
    * ``{"attestation", "platformCertificates", "uvmEndorsements"}``, also under ``report`` or ``report.snpCACI`` (stored samples);
    * the body of ``POST /attest/SevSnpVm``.

    Raises:
        InvalidInput: ``EvidenceMalformed``.
    """
    try:
        found = _find(json.loads(data.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise _malformed(type(error).__name__) from error
    if found is None:
        raise _malformed(None)
    return found


def _find(value: Any, depth: int = 0) -> EvidenceDocument | None:
    if not isinstance(value, Mapping) or depth > 2:
        return None
    for name in ("evidence", "raw"):
        if isinstance(value.get(name), str):
            return EvidenceDocument(
                value[name], _text(value, "endorsements"), _text(value, "uvm_endorsements"), _text(value, "endorsed_tcb")
            )
    if isinstance(value.get("attestation"), str):
        return EvidenceDocument(value["attestation"], _text(value, "platformCertificates"), _text(value, "uvmEndorsements"))
    report = value.get("report")
    if isinstance(report, str):
        return _attestation_request(report) or EvidenceDocument(report)
    inner = (value.get(name) for name in ("attestation", "report", "snpCACI"))
    return next((found for each in inner if (found := _find(each, depth + 1)) is not None), None)


def _attestation_request(report: str) -> EvidenceDocument | None:
    """Read the ``report`` member of a request to Microsoft Azure Attestation: base64url of a JSON object with base64url members."""
    text = standard_base64(report)
    if not text.startswith("eyJ"):  # base64 of '{"', so the text is an object or no JSON
        return None
    parts = json.loads(base64.b64decode(text, validate=True))
    if not isinstance(parts.get("SnpReport"), str):
        return None
    chain, wrapped = _text(parts, "VcekCertChain"), _text(parts, "Endorsements")
    endorsements = json.loads(base64.b64decode(standard_base64(wrapped), validate=True)) if wrapped else {}
    uvm = endorsements.get("Uvm") if isinstance(endorsements, Mapping) else None
    first = uvm[0] if isinstance(uvm, list) and uvm else None
    return EvidenceDocument(
        standard_base64(parts["SnpReport"]),
        standard_base64(chain) if chain else None,
        standard_base64(first) if isinstance(first, str) else None,
    )


def read_cvm_document(data: bytes) -> CvmEvidence | None:
    """Return the evidence of a confidential VM in a JSON document, also under ``attestation``, or None for another document.

    Raises:
        InvalidInput: ``EvidenceMalformed`` for a confidential VM's evidence with missing or wrong members.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    for found in (value, value.get("attestation")) if isinstance(value, Mapping) else ():
        if isinstance(found, Mapping) and isinstance(found.get("evidence"), Mapping) and "tpmQuote" in found["evidence"]:
            try:
                return CvmEvidence.model_validate(found)
            except ValidationError as error:
                raise _malformed(str(error)[:500]) from error
    return None


def standard_base64(text: str) -> str:
    """Convert base64 or base64url, padded or not, to padded standard base64. Does not validate the text."""
    stripped = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    return stripped + "=" * (-len(stripped) % 4)


def _text(value: Mapping[str, Any], name: str) -> str | None:
    member = value.get(name)
    if member is None or member == "":
        return None
    if not isinstance(member, str):
        raise ValueError(f"{name} is not a string")
    return member


def _malformed(cause: str | None) -> InvalidInput:
    return InvalidInput(
        "EvidenceMalformed",
        "The document starts like JSON, but is not JSON with an attestation report.",
        cause=cause,
        hint='Write {"evidence": base64, "endorsements": base64, "uvm_endorsements": base64}, or give the report itself.',
    )
