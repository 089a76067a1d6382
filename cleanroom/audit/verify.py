"""Offline verification of a bundle: chain, signatures, digests, attestation and completeness.

Verification proves that these users signed these decisions on this text, that the attested service answered this
request, that the measured job follows from the approved documents, that receipt and ledger agree, and that nothing
changed since the exporter sealed it.

It cannot prove that governance's ledger is CCF's own, because a bundle holds no CCF receipts. Therefore the clean
room's attested statement in the ledger is verified as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from cleanroom.attestation import TrustStore
from cleanroom.audit.approvals import check_approvals, check_documents, check_keys, keys_of
from cleanroom.audit.chain import Bundle, first_broken_link
from cleanroom.audit.completeness import check_records
from cleanroom.audit.execution import audit_expectations, check_grants, check_job, check_result, check_service
from cleanroom.audit.files import read_bundle
from cleanroom.audit.ledger import check_ledger
from cleanroom.audit.parsed_bundle import ParsedBundle
from cleanroom.audit.seal import ExportSeal
from cleanroom.audit.trust import check_trust
from cleanroom.audit.verdict import BundleCheck, BundleVerdict, Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.statements import verify


def read_and_verify(
    path: Path,
    trust: TrustStore,
    *,
    spark_host_data: Collection[str] | None = None,
    clean_room_host_data: Collection[str] | None = None,
    keys: Mapping[str, Collection[str]] | None = None,
    crls: Sequence[bytes] = (),
) -> tuple[Bundle | None, BundleVerdict]:
    """Read and verify a bundle file. A file whose contents are not a bundle yields no bundle and a failed verdict.

    Args:
        path: A ``.json`` or ``.zip`` bundle.
        trust: See :func:`verify_bundle`, as for the other arguments.
        spark_host_data: Host data of accepted Spark services.
        clean_room_host_data: Host data of accepted clean rooms.
        keys: Known signing-key thumbprints by user ID.
        crls: Revocation lists.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileUnreadable``, ``FileTooLong``.
    """
    try:
        bundle = read_bundle(path)
    except Refused as error:
        details = error.details
        broken = BundleCheck(
            id="chain",
            subject=str(details.get("subject", "")),
            passed=False,
            detail=error.message,
            index=details.get("index"),
            kind=str(details.get("kind", "")),
        )
        return None, BundleVerdict(ok=False, checks=(broken,), first_broken=broken)
    return bundle, verify_bundle(
        bundle, trust, spark_host_data=spark_host_data, clean_room_host_data=clean_room_host_data, keys=keys, crls=crls
    )


def verify_bundle(
    bundle: Bundle,
    trust: TrustStore,
    *,
    spark_host_data: Collection[str] | None = None,
    clean_room_host_data: Collection[str] | None = None,
    keys: Mapping[str, Collection[str]] | None = None,
    crls: Sequence[bytes] = (),
) -> BundleVerdict:
    """Verify a bundle and return every check with the record that it is about.

    Args:
        bundle: The bundle to verify.
        trust: Roots and endorsement issuers for the attestation reports. Each report is verified as of its recorded time.
        spark_host_data: Host data (hex) of the Spark services that the auditor accepts. None accepts those in the run's trust
            document, and a note names the one that was found.
        clean_room_host_data: Host data (hex) of the clean rooms that the auditor accepts. None accepts the exported
            clean room policy.
        keys: Thumbprints of signing keys that the auditor knows, by user ID. Keys of other users are not compared.
        crls: Revocation lists of the chains' roots, DER or PEM.
    """
    checks = Checks()
    broken = first_broken_link(bundle)
    if broken is not None:
        row = BundleCheck(id="chain", subject=broken.subject, passed=False, detail=broken.message, index=broken.index, kind=broken.kind)
        checks.rows.append(row)
        return _verdict(bundle, checks)
    checks.add("chain", bundle.records[-1], True, f"{len(bundle.records)} records", subject="all records")
    try:
        parsed = ParsedBundle(bundle, checks)
    except ValidationError as error:
        checks.add("readable", bundle.records[0], False, describe_validation(error))
        return _verdict(bundle, checks)
    with _fail_on_malformed(checks, "seal"):
        _check_seal(bundle, parsed, checks)
    with _fail_on_malformed(checks, "complete"):
        check_records(parsed, checks)
    with _fail_on_malformed(checks, "document"):
        check_documents(parsed, checks)
        check_keys(parsed, checks, keys or {})
    run, service, job = None, None, None
    with _fail_on_malformed(checks, "approvals"):
        run = check_approvals(parsed, checks)
    accepted = None
    with _fail_on_malformed(checks, "trust"):
        accepted = check_trust(parsed, checks)
    if accepted is not None and accepted.document.attestation.require_crl and not crls:
        checks.notes.append("The trust document requires revocation lists. Pass them with --crl.")
    with _fail_on_malformed(checks, "attestation"):
        service = check_service(parsed, checks, trust, spark_host_data, accepted, crls)
    with _fail_on_malformed(checks, "job"):
        job = check_job(parsed, checks, run, service, accepted)
    with _fail_on_malformed(checks, "result"):
        check_grants(parsed, checks, job)
        check_result(parsed, checks, job)
    with _fail_on_malformed(checks, "events"):
        check_ledger(parsed, checks, trust, clean_room_host_data, audit_expectations(accepted, crls))
    return _verdict(bundle, checks)


@contextmanager
def _fail_on_malformed(checks: Checks, part: str) -> Iterator[None]:
    """Turn errors caused by malformed input (a number without canonical form, text that is not Unicode, no name) into a failed check."""
    try:
        yield
    except (InvalidInput, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        checks.add(part, None, False, f"cannot be verified: {type(error).__name__}: {error}"[:300], subject=part)


def _check_seal(bundle: Bundle, parsed: ParsedBundle, checks: Checks) -> None:
    signer, seal, first = parsed.export.sealed_by, bundle.manifest.seal, bundle.records[0]
    if signer is None and seal is None:
        checks.notes.append("The bundle is not sealed. It proves its contents, but not who exported them.")
        return
    if signer is None or seal is None:
        checks.add(
            "seal", first, False, "the exporter's signature is missing" if seal is None else "it is signed, but the export names no signer"
        )
        return
    try:
        keys = keys_of(parsed, signer)
        signed = verify(ExportSeal, seal, keys, collaboration=parsed.export.collaboration, now=parsed.export.exported_at)
    except CleanRoomError as error:
        checks.add("seal", first, False, f"{error.code}: {error.message}")
        return
    fits = (signed.head, signed.run_id) == (bundle.manifest.head, parsed.export.run_id)
    checks.add("seal", first, fits, f"signed by {signer}" if fits else "the signature covers other records")


def _verdict(bundle: Bundle, checks: Checks) -> BundleVerdict:
    facts, manifest = bundle.manifest.facts, bundle.manifest
    first, sealed_by = checks.first_broken(), facts.get("sealedBy")
    return BundleVerdict(
        ok=first is None,
        run_id=str(facts.get("runId", "")),
        query=str(facts.get("query", "")),
        state=str(facts.get("state", "")),
        head=manifest.head,
        records=len(bundle.records),
        sealed_by=sealed_by if isinstance(sealed_by, str) else None,
        signers=checks.signers,
        development=checks.development,
        checks=tuple(checks.rows),
        notes=tuple(checks.notes),
        first_broken=first,
    )
