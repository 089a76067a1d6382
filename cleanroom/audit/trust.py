"""Checks of the trust document that the run's job names: who accepted it, and that the attested statement names it too."""

from __future__ import annotations

from pydantic import ValidationError

from cleanroom.audit.bodies import JobBody, TrustBody
from cleanroom.audit.parsed_bundle import ParsedBundle, ParsedRecord
from cleanroom.audit.verdict import Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError
from cleanroom.governance import MemberDocument
from cleanroom.trust import AcceptedTrust, accepted_trust


def check_trust(bundle: ParsedBundle, checks: Checks) -> AcceptedTrust | None:
    """Check that the members accepted the trust document and that job and attested statements name its digest.

    Returns:
        The document, or None if it is missing or a check failed.
    """
    needed = bundle.started or bundle.completed or bool(bundle.all(JobBody))
    item = bundle.one(TrustBody, checks if needed else None, what="trust document")
    if item is None:
        return None
    trust, problem = _read(item, bundle)
    if trust is None:
        checks.add("trust", item.record, False, problem)
        return None
    job = bundle.one(JobBody)
    if job is not None and (job.body.job.governance.trust_document, job.body.job.governance.trust_digest) != (trust.id, trust.digest):
        checks.add("trust", item.record, False, f"the job was built under {job.body.job.governance.trust_document!r} with another digest")
        return None
    for event in bundle.events():
        named = event.body.member("trust")
        if named is not None and named != {"id": trust.id, "digest": trust.digest}:
            checks.add("trust", event.record, False, "it attests another trust document")
            return None
    votes = [vote for vote in _document(item).final_votes or () if vote.vote]
    members = ", ".join(vote.member_id for vote in votes)
    checks.add("trust", item.record, True, f"accepted by {len(votes)} members: {members}")
    return trust


def _document(item: ParsedRecord[TrustBody]) -> MemberDocument:
    return MemberDocument.model_validate(item.body.document)


def _read(item: ParsedRecord[TrustBody], bundle: ParsedBundle) -> tuple[AcceptedTrust | None, str]:
    try:
        document = _document(item)
        number = int(document.id.rpartition("-")[2])
        trust = accepted_trust(document, bundle.export.collaboration, number)
    except ValidationError as error:
        return None, describe_validation(error)
    except (CleanRoomError, ValueError) as error:
        return None, str(error)
    if trust.digest != item.body.digest or item.record.subject != trust.id:
        return None, f"its digest is {trust.digest}"
    if not any(vote.vote for vote in document.final_votes or ()):
        return None, "no member accepted it"
    return trust, ""
