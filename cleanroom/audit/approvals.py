"""Checks of documents, votes, signed decisions, the run request and consent: the clean room's own checks, applied to a bundle."""

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
from cleanroom.identifiers import approver_key_document_id, document_digest
from cleanroom.messages.run import RunTicket
from cleanroom.runs.authorised import AuthorisedRun
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.deputies import read_deputation
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import AcceptedDocument
from cleanroom.statements.keys import KeyHistory, PublicJwk, parse_key_document, parse_retirement_document
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that reads from a bundle and never waits. Works with and without a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


def ticket_of(bundle: ParsedBundle, request: ParsedRecord[RequestBody]) -> RunTicket:
    """Return the run ticket of the run."""
    export = bundle.export
    return RunTicket(collaboration=export.collaboration, query=export.query, run_id=export.run_id, request=request.body.request)


def keys_of(bundle: ParsedBundle, user_id: str) -> KeyHistory:
    """Return a user's signing keys from the bundle. Only the user vouches for them.

    Raises:
        CleanRoomError: ``ApproverKeyNotPublished``, ``ApproverKeyInvalid``.
    """
    return run_sync(published_keys(BundleReader(bundle, user_id, frozenset()), bundle.export.collaboration, user_id))


def check_documents(bundle: ParsedBundle, checks: Checks) -> None:
    """Check that every document is accepted by all its approvers, belongs to this contract, and has the recorded digest.

    A run that was refused by its checks may name a document that is not accepted, which may be the reason for the refusal.
    """
    required = bundle.started or bundle.completed
    for item in bundle.all(DocumentBody, *DOCUMENT_KINDS):
        record = item.record
        try:
            document = accepted_document_of(item.body)
        except CleanRoomError as error:
            checks.add("document", record, error.code == "UserDocumentNotFound" and not required, error.message)
            continue
        if document_digest(document.data) != item.body.digest:
            checks.add("document", record, False, f"its digest is {document_digest(document.data)}, not {item.body.digest}")
        elif document.id != record.subject:
            checks.add("document", record, False, f"it is document {document.id!r}")
        elif document.contract_id != bundle.export.collaboration:
            checks.add("document", record, False, f"it belongs to contract {document.contract_id!r}")
        elif missing := sorted(set(document.approvers) - set(document.accepted_by)):
            checks.add("document", record, False, f"no accepting vote by {', '.join(missing)}")
        else:
            checks.add("document", record, True, f"version {document.version}, sha256 {item.body.digest[:16]}…")


def check_keys(bundle: ParsedBundle, checks: Checks, pinned: Mapping[str, Collection[str]]) -> None:
    """Collect the signing keys in the bundle. Keys of ``pinned`` users must be among the given thumbprints."""
    for item in bundle.all(DocumentBody, "key"):
        try:
            document = accepted_document_of(item.body)
            user_id, keys = _keys_in(document, checks)
        except CleanRoomError as error:
            checks.add("keys", item.record, False, f"{error.code}: {error.message}")
            continue
        kids = tuple(key.kid for key in keys)
        checks.signers[user_id] = (*checks.signers.get(user_id, ()), *kids)
        if user_id in pinned:
            unknown = [kid for kid in kids if kid not in pinned[user_id]]
            detail = f"key {unknown[0]} is not among the given keys of {user_id}" if unknown else "a given key"
            checks.add("keys", item.record, not unknown, detail)
    for user in sorted(set(pinned) - set(checks.signers)):
        checks.missing("key", user)


def _keys_in(document: AcceptedDocument, checks: Checks) -> tuple[str, tuple[PublicJwk, ...]]:
    """Return the user and the keys of a key document or a retirement document, and note what it retires."""
    if document.id == approver_key_document_id(document.proposer_id):
        held = parse_key_document(document.data, document_id=document.id)
        return held.user_id, held.keys
    retirement = parse_retirement_document(document.data, document_id=document.id)
    for kid in retirement.retires:
        checks.notes.append(f"User {retirement.user_id} retired key {kid} at position {document.position} of the ledger.")
    return retirement.user_id, retirement.keys


def first_position(bundle: ParsedBundle) -> int | None:
    """Return the position in the ledger at which the run was first recorded."""
    return min((item.body.seqno for item in bundle.events()), default=None)


def run_instant(bundle: ParsedBundle) -> dt.datetime | None:
    """Return the time of the run's checks: that of PREPARE_STARTED in the ledger, else the workflow's start."""
    for item in bundle.events("PREPARE_STARTED"):
        return item.body.at
    outcome = bundle.one(OutcomeBody)
    return outcome.body.started_at if outcome else None


def check_approvals(bundle: ParsedBundle, checks: Checks) -> AuthorisedRun | None:
    """Check request, pinned documents, owners, decisions, limits and consent. Return the run if all checks pass."""
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
    authority = RunAuthority(reader, bundle.export.collaboration, now=lambda: at, requested_at=first_position(bundle))
    ticket = ticket_of(bundle, request)
    try:
        run_sync(authority.verify_caller(ticket))
    except CleanRoomError as error:
        _add_failure(checks, "request", request.record, error)
        return None
    checks.add("request", request.record, True, f"signed by {signer}")
    reader.trail.clear()
    required = bundle.started or bundle.completed
    try:
        run = run_sync(authority.authorise(ticket, consent=required))
    except CleanRoomError as error:
        if not required:
            checks.notes.append(f"The run ended at its checks: {error.code}.")
            return None
        _add_failure(checks, "approvals", _record_at_fault(error, reader.trail, request.record), error)
        return None
    _note_deputies(bundle, checks)
    by_id = {item.record.subject: item.record for item in bundle.all(DocumentBody)}
    checks.add("approvals", by_id.get(run.document.id), True, f"approved by {', '.join(run.approved_by)}")
    if required and consents:
        checks.add("consent", consents[0].record, True, f"{len(consented)} documents", subject="every document of the run")
    return run


def _note_deputies(bundle: ParsedBundle, checks: Checks) -> None:
    """Note which decisions deputies made. :meth:`RunAuthority.authorise` has verified those of the run."""
    for item in bundle.all(DocumentBody, "deputy"):
        try:
            document = accepted_document_of(item.body)
            keys = keys_of(bundle, document.proposer_id)
            named = read_deputation(document, keys, collaboration=bundle.export.collaboration, recorded_at=0)
        except CleanRoomError as error:
            checks.add("approvals", item.record, False, f"{error.code}: {error.message}")
            continue
        checks.notes.append(f"User {named.signer} named {named.deputy} as a deputy, whose key {named.key.kid} signed a decision.")


def _record_at_fault(error: CleanRoomError, trail: list[ParsedRecord[DocumentBody]], fallback: Record) -> Record:
    """Return the record that an error is about: a decision of an owner that it names, a document that it names, or the last one read."""
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
