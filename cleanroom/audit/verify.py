"""Judging a bundle, offline: chain, signatures, digests, attestation, completeness. Nothing is believed that the bundle only claims.

What it can prove: that these people signed these decisions on this text, that the attested service answered this very request, that
the job that was measured is the one the documents give, that receipt and ledger agree, and that nothing of it was changed since the
exporter sealed it. What it cannot: that governance's ledger is CCF's own (its receipts are not part of the bundle), which is why
the clean room's attested statement in the ledger is verified as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from cleanroom.attestation import TrustStore
from cleanroom.audit.approvals import check_approvals, check_documents, check_keys, keys_of
from cleanroom.audit.chain import Bundle, first_break
from cleanroom.audit.execution import check_grants, check_job, check_result, check_service
from cleanroom.audit.files import read_bundle
from cleanroom.audit.ledger import check_ledger
from cleanroom.audit.material import Material
from cleanroom.audit.records import check_records
from cleanroom.audit.seal import ExportSeal
from cleanroom.audit.verdict import BundleCheck, BundleVerdict, Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, Refused
from cleanroom.statements import verify


def verify_file(
    path: Path,
    trust: TrustStore,
    *,
    spark_host_data: Collection[str] | None = None,
    clean_room_host_data: Collection[str] | None = None,
    keys: Mapping[str, Collection[str]] | None = None,
) -> BundleVerdict:
    """Read and judge a file; contents that are no bundle any more are a verdict too.

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
        return BundleVerdict(ok=False, checks=(broken,), first_broken=broken)
    return verify_bundle(bundle, trust, spark_host_data=spark_host_data, clean_room_host_data=clean_room_host_data, keys=keys)


def verify_bundle(
    bundle: Bundle,
    trust: TrustStore,
    *,
    spark_host_data: Collection[str] | None = None,
    clean_room_host_data: Collection[str] | None = None,
    keys: Mapping[str, Collection[str]] | None = None,
) -> BundleVerdict:
    """Judge a bundle.

    Args:
        bundle: As read.
        trust: Roots and endorsement issuers for the attestation reports, judged at their recorded instants.
        spark_host_data: Host data (hex) of Spark services that the auditor accepts; None takes what the run's clean room accepted, and a
            note says which.
        clean_room_host_data: The same for the clean room; None takes the contract's policy as exported.
        keys: User id to thumbprints of signing keys that the auditor knows to be theirs; users who are not named are not compared.
    """
    checks = Checks()
    broken = first_break(bundle)
    if broken is not None:
        row = BundleCheck(id="chain", subject=broken.subject, passed=False, detail=broken.message, index=broken.index, kind=broken.kind)
        checks.rows.append(row)
        return _verdict(bundle, checks)
    checks.add("chain", bundle.records[-1], True, f"{len(bundle.records)} records", subject="all records")
    try:
        material = Material(bundle, checks)
    except ValidationError as error:
        checks.add("readable", bundle.records[0], False, describe_validation(error))
        return _verdict(bundle, checks)
    with _judging(checks, "seal"):
        _check_seal(bundle, material, checks)
    with _judging(checks, "complete"):
        check_records(material, checks)
    with _judging(checks, "document"):
        check_documents(material, checks)
        check_keys(material, checks, keys or {})
    run, service, job = None, None, None
    with _judging(checks, "approvals"):
        run = check_approvals(material, checks)
    with _judging(checks, "attestation"):
        service = check_service(material, checks, trust, spark_host_data)
    with _judging(checks, "job"):
        job = check_job(material, checks, run, service)
    with _judging(checks, "result"):
        check_grants(material, checks, job)
        check_result(material, checks, job)
    with _judging(checks, "events"):
        check_ledger(material, checks, trust, clean_room_host_data)
    return _verdict(bundle, checks)


@contextmanager
def _judging(checks: Checks, part: str) -> Iterator[None]:
    """A part of the bundle that cannot even be judged (a number without canonical form, text that is not Unicode) fails its check."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        checks.add(part, None, False, f"cannot be judged: {type(error).__name__}: {error}"[:300], subject=part)


def _check_seal(bundle: Bundle, material: Material, checks: Checks) -> None:
    wanted, seal, first = material.export.sealed_by, bundle.manifest.seal, bundle.records[0]
    if wanted is None and seal is None:
        checks.notes.append("The bundle is not sealed: it proves what it holds, not who exported it.")
        return
    if wanted is None or seal is None:
        checks.add("seal", first, False, "the exporter's signature is missing" if seal is None else "a signature of nobody")
        return
    try:
        keys = keys_of(material, wanted)
        signed = verify(ExportSeal, seal, keys, collaboration=material.export.collaboration, now=material.export.exported_at)
    except CleanRoomError as error:
        checks.add("seal", first, False, f"{error.code}: {error.message}")
        return
    fits = (signed.head, signed.run_id) == (bundle.manifest.head, material.export.run_id)
    checks.add("seal", first, fits, f"signed by {wanted}" if fits else "the signature is over other records")


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
