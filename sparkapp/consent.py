"""Verifies the consent receipt: a short-lived secret of the clean room in governance, which says whether the run may continue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from cleanroom.errors import Refused
from cleanroom.identifiers import clean_room_secret_id
from cleanroom.spark.consent_receipt import CLOCK_SECONDS, RECEIPT_SECONDS, ConsentReceipt
from cleanroom.spark.tombstone import is_tombstone
from sparkapp.pod import Pod


def require_consent(pod: Pod, *, before: str, now: datetime | None = None) -> None:
    """Read the consent receipt from governance and verify that it allows this run to continue.

    Args:
        pod: The pod's identity.
        before: The next step, for the error message.
        now: The current time; defaults to the system clock.

    Raises:
        Refused: ``ConsentWithdrawn`` (withdrawn, expired, or the run is closed), ``ConsentReceiptInvalid`` (of another run, query, job
            or author, or with a lifetime that no clean room gives).
    """
    job, now = pod.job(), now or datetime.now(UTC)
    if not job.consent_secret_id.startswith(clean_room_secret_id("")):
        # Any user can store secrets, but only an attested clean room can store one with this prefix.
        raise _invalid("it is not a secret of the clean room")
    value = pod.secret(job.consent_secret_id, fresh=True)
    if is_tombstone(value):
        raise _withdrawn(job.run_id, f"the run was closed or lost its consent before {before}", "Start a new run.")
    try:
        receipt = ConsentReceipt.model_validate_json(value.reveal())
    except ValidationError:
        # Without the cause, which quotes the receipt.
        raise _invalid("it is malformed") from None
    if receipt.run_id != job.run_id:
        raise _invalid("it belongs to another run")
    if receipt.query_digest != job.query_digest:
        raise _invalid("it belongs to another query")
    if receipt.job_digest != job.digest():
        raise _invalid("it belongs to another job")
    if receipt.consent != "enabled":
        raise _withdrawn(job.run_id, f"consent was withdrawn before {before}", "Ask the dataset owners.")
    if receipt.expires <= now:
        hint = "The clean room renews the receipt while a run continues. Start a new run."
        raise _withdrawn(job.run_id, f"consent expired at {receipt.expires.isoformat()}, before {before}", hint)
    if receipt.expires > now + timedelta(seconds=RECEIPT_SECONDS + CLOCK_SECONDS):
        raise _invalid(f"it expires at {receipt.expires.isoformat()}, and a receipt is valid for at most {RECEIPT_SECONDS} s")


def _withdrawn(run_id: str, what: str, hint: str) -> Refused:
    return Refused("ConsentWithdrawn", f"run {run_id!r}: {what}.", hint=hint)


def _invalid(why: str) -> Refused:
    return Refused("ConsentReceiptInvalid", f"consent receipt: {why}.", hint="The clean room must issue a receipt for this run.")
