"""Verifies the consent receipt: a short-lived secret of the clean room in governance, which says whether the run may continue."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cleanroom.errors import Refused
from cleanroom.identifiers import clean_room_secret_id
from sparkapp.pod import Pod


def require_consent(pod: Pod, *, before: str, now: datetime | None = None) -> None:
    """Read the consent receipt from governance and verify that it allows this run to continue.

    Args:
        pod: The pod's identity.
        before: The next step, for the error message.
        now: The current time; defaults to the system clock.

    Raises:
        Refused: ``ConsentWithdrawn`` (withdrawn or expired), ``ConsentReceiptInvalid`` (of another run, query or author).
    """
    job = pod.job()
    if not job.consent_secret_id.startswith(clean_room_secret_id("")):
        # Any user can store secrets, but only an attested clean room can store one with this prefix.
        raise _invalid("it is not a secret of the clean room")
    try:
        receipt = json.loads(pod.secret(job.consent_secret_id, fresh=True).reveal())
        run_id, query_digest, consent = receipt["runId"], receipt["queryDigest"], receipt["consent"]
        expires = _time(receipt["expires"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _invalid("it is malformed") from None
    if run_id != job.run_id:
        raise _invalid("it belongs to another run")
    if query_digest != job.query_digest:
        raise _invalid("it belongs to another query")
    if consent != "enabled":
        raise Refused("ConsentWithdrawn", f"run {job.run_id!r}: consent was withdrawn before {before}.", hint="Ask the dataset owners.")
    if expires <= (now or datetime.now(UTC)):
        raise Refused(
            "ConsentWithdrawn",
            f"run {job.run_id!r}: consent expired at {expires.isoformat()}, before {before}.",
            hint="The clean room renews the receipt while a run continues. Start a new run.",
        )


def _time(value: str | int | float) -> datetime:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _invalid(why: str) -> Refused:
    return Refused("ConsentReceiptInvalid", f"consent receipt: {why}.", hint="The clean room must issue a receipt for this run.")
