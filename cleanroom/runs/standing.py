"""What can end an authorised run, and the checks of it: the caller's membership, the closing, consent and expiry.

Everything else that authorises a run is in accepted documents and in the ledger's earliest entry, which never change.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

from cleanroom.errors import Refused
from cleanroom.runs.approvals import ask_again
from cleanroom.runs.authorised import AuthorisedRun
from cleanroom.runs.reader import Consent
from cleanroom.statements.model import RunRequest


def require_active(signer: str, users: Collection[str], collaboration: str) -> None:
    """Require that the caller is an active user.

    Raises:
        Refused: ``CallerNotAuthorized``.
    """
    if signer not in users:
        raise Refused(
            "CallerNotAuthorized",
            f"caller: user {signer} is not an active user of collaboration {collaboration}.",
            party="operator",
            hint="Invite the user; a member must then accept the user (`cleanroom invite USER`).",
        )


def require_open(request: RunRequest, closed: bool) -> None:
    """Require that the run is not closed.

    Raises:
        Refused: ``RunClosed``.
    """
    if closed:
        raise Refused(
            "RunClosed",
            f"run {request.run_id!r} is closed: its grants were revoked. A request is valid for one run.",
            hint="Start another run.",
        )


def require_consent(document_ids: Sequence[str], answers: Sequence[Consent]) -> None:
    """Require that governance answered "enabled" for every document.

    Raises:
        Refused: Governance's reason code, ``UserDocumentRuntimeOptionDisabled`` or ``UserDocumentNotAccepted``.
    """
    for document_id, answer in zip(document_ids, answers, strict=True):
        if answer.status != "enabled":
            raise Refused(
                answer.code or "UserDocumentRuntimeOptionDisabled",
                f"execution consent of {document_id!r} is disabled: {answer.message}",
                details={"document": document_id},
                hint=f"The approver who disabled it can enable it again: `cleanroom consent on {document_id}`.",
            )


def require_unexpired(run: AuthorisedRun, now: dt.datetime) -> None:
    """Require that neither the run's request nor an owner's approval has expired.

    Raises:
        Refused: ``StatementExpired``, ``ApprovalExpired``.
    """
    if run.request.expired(now):
        raise Refused("StatementExpired", f"run {run.request.run_id!r}: its request expired at {run.request.expires.isoformat()}.")
    for decision in run.decisions:
        if decision.expired(now):
            raise Refused(
                "ApprovalExpired",
                f"query {run.document.id!r}: owner {decision.signer}'s approval expired at {decision.expires.isoformat()}.",
                hint=ask_again(run.document.id),
            )
