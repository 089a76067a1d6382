"""Documents, votes, signed decisions, the signed request and consent: the clean room's own checks, applied to what the bundle holds."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cleanroom.audit.bodies import DOCUMENT_KINDS, ConsentBody, DocumentBody, OutcomeBody, RequestBody
from cleanroom.audit.chain import Record
from cleanroom.audit.parsed_bundle import BundleReader, ParsedBundle, ParsedRecord, accepted_document_of
from cleanroom.audit.verdict import Checks
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import document_digest
from cleanroom.messages.run import RunTicket
from cleanroom.runs.authority import AuthorisedRun, RunAuthority, published_keys
from cleanroom.statements.keys import KeyDocument, parse_key_document
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of checks that read from a bundle and so wait for nothing; callable with and without a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as beside:
        return beside.submit(asyncio.run, work).result()


def ticket_of(bundle: ParsedBundle, request: ParsedRecord[RequestBody]) -> RunTicket:
    """The ticket as the run had it."""
    export = bundle.export
    return RunTicket(collaboration=export.collaboration, query=export.query, run_id=export.run_id, request=request.body.request)


def keys_of(bundle: ParsedBundle, user_id: str) -> KeyDocument:
    """The signing keys that the bundle holds for a user, vouched for by that user alone.

    Raises:
        CleanRoomError: ``ApproverKeyNotPublished``, ``ApproverKeyInvalid``.
    """
    return run_sync(published_keys(BundleReader(bundle, user_id, frozenset()), bundle.export.collaboration, user_id))


def check_documents(bundle: ParsedBundle, checks: Checks) -> None:
    """Every document is accepted, of this collaboration, accepted by all whom it names, and has the digest that its record says.

    A run that was refused at its checks may well rest on a document that is not accepted: that is why it was refused.
    """
    must = bundle.started or bundle.completed
    for item in bundle.all(DocumentBody, *DOCUMENT_KINDS):
        record = item.record
        try:
            document = accepted_document_of(item.body)
        except CleanRoomError as error:
            checks.add("document", record, error.code == "UserDocumentNotFound" and not must, error.message)
            continue
        if document_digest(document.data) != item.body.digest:
            checks.add("document", record, False, f"its digest is {document_digest(document.data)}, not {item.body.digest}")
        elif document.id != record.subject:
            checks.add("document", record, False, f"it is document {document.id!r}")
        elif document.contract_id != bundle.export.collaboration:
            checks.add("document", record, False, f"it belongs to contract {document.contract_id!r}")
        elif missing := sorted(set(document.approvers) - set(document.accepted_by)):
            checks.add("document", record, False, f"no accepting vote of {', '.join(missing)}")
        else:
            checks.add("document", record, True, f"version {document.version}, sha256 {item.body.digest[:16]}…")


def check_keys(bundle: ParsedBundle, checks: Checks, pinned: Mapping[str, Collection[str]]) -> None:
    """Whose keys the bundle holds; those of ``pinned`` users must be among the thumbprints that the auditor knows to be theirs."""
    for item in bundle.all(DocumentBody, "key"):
        try:
            document = accepted_document_of(item.body)
            held = parse_key_document(document.data, document_id=document.id)
        except CleanRoomError as error:
            checks.add("keys", item.record, False, f"{error.code}: {error.message}")
            continue
        kids = tuple(key.kid for key in held.keys)
        checks.signers[held.user_id] = kids
        if held.user_id in pinned:
            strange = [kid for kid in kids if kid not in pinned[held.user_id]]
            detail = f"key {strange[0]} is not one that you know to be {held.user_id}'s" if strange else "known to be theirs"
            checks.add("keys", item.record, not strange, detail)
    for user in sorted(set(pinned) - set(checks.signers)):
        checks.missing("key", user)


def run_instant(bundle: ParsedBundle) -> dt.datetime | None:
    """When the run was checked: the ledger's PREPARE_STARTED, else Temporal's start."""
    for item in bundle.events("PREPARE_STARTED"):
        return item.body.at
    outcome = bundle.one(OutcomeBody)
    return outcome.body.started_at if outcome else None


def check_approvals(bundle: ParsedBundle, checks: Checks) -> AuthorisedRun | None:
    """Request, pins, owners, decisions, limits and consent; returns the run when all hold."""
    request = bundle.one(RequestBody, checks, what="request")
    at = run_instant(bundle)
    if request is None or at is None:
        if at is None:
            checks.missing("outcome", bundle.export.run_id)
        return None
    consents = [item for item in bundle.all(ConsentBody) if item.body.status == "enabled"]
    try:
        signer = peek(RunRequest, request.body.request).signer
    except CleanRoomError as error:
        checks.add("request", request.record, False, f"{error.code}: {error.message}")
        return None
    consented = frozenset(name for item in consents for name in item.body.documents)
    reader = BundleReader(bundle, signer, consented)
    authority = RunAuthority(reader, bundle.export.collaboration, now=lambda: at)
    ticket = ticket_of(bundle, request)
    try:
        run_sync(authority.verify_caller(ticket))
    except CleanRoomError as error:
        _add_failure(checks, "request", request.record, error)
        return None
    checks.add("request", request.record, True, f"signed by {signer}")
    reader.trail.clear()
    must = bundle.started or bundle.completed
    try:
        run = run_sync(authority.authorise(ticket, consent=must))
    except CleanRoomError as error:
        if not must:
            checks.notes.append(f"The run went no further than its checks: {error.code}.")
            return None
        _add_failure(checks, "approvals", _record_at_fault(error, reader.trail, request.record), error)
        return None
    by_id = {item.record.subject: item.record for item in bundle.all(DocumentBody)}
    checks.add("approvals", by_id.get(run.document.id), True, f"approved by {', '.join(run.approved_by)}")
    if must and consents:
        checks.add("consent", consents[0].record, True, f"{len(consented)} documents", subject="every document of the run")
    return run


def _record_at_fault(error: CleanRoomError, trail: list[ParsedRecord[DocumentBody]], fallback: Record) -> Record:
    """The record that an error is about: the decision of an owner whom it names, a document that it names, else the last one read."""
    for item in reversed(trail):
        owner = str(item.body.document.get("proposerId", ""))
        if item.record.kind == "decision" and owner and owner in error.message:
            return item.record
    for item in reversed(trail):
        if repr(item.record.subject) in error.message or f"{item.record.subject}:" in error.message:
            return item.record
    return trail[-1].record if trail else fallback


def _add_failure(checks: Checks, id: str, record: Record, error: CleanRoomError) -> None:
    absent: object = None
    link: BaseException | None = error
    while isinstance(link, CleanRoomError):
        if link.code == "UserDocumentNotFound":
            absent = link.details.get("document")
        link = link.__cause__
    if absent:
        checks.missing("document", str(absent))
    elif error.code == "ConsentCheckMissing":
        checks.missing("consent", str(error.details.get("document", "")))
    else:
        checks.add(id, record, False, f"{error.code}: {error.message}")
