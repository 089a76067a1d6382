"""The consent receipt: a short-lived secret of the clean room in governance, which says whether a run's pods may continue.

The clean room writes it and the pods read it. Both sides hold to :data:`RECEIPT_SECONDS`, so neither a caller nor an operator
can lengthen a receipt's life.
"""

from __future__ import annotations

import datetime as dt
import json

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from cleanroom.identifiers import HexDigest
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig

RECEIPT_SECONDS = 120
"""Longest lifetime of a consent receipt. Pods stop when it expires."""
CLOCK_SECONDS = 60
"""How far the clocks of the clean room and of a pod may differ."""


class ConsentReceipt(BaseModel):
    """The content of a consent receipt."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    run_id: str
    query_digest: HexDigest
    job_digest: HexDigest | None = None
    consent: str
    """``enabled``. Every other word means that the run may not continue."""
    expires: AwareDatetime

    def to_secret(self) -> Secret:
        """Return the receipt as the text that is stored in governance."""
        return Secret(json.dumps(self.model_dump(mode="json", by_alias=True), separators=(",", ":")).encode())


def enabled_receipt(job: JobConfig, *, verified_at: dt.datetime, authorised_until: dt.datetime) -> ConsentReceipt:
    """Return the receipt of a run that was authorised at ``verified_at``, and will be no longer than ``authorised_until``.

    The lifetime starts when the verification starts. A write that is delayed after its verification therefore gains nothing.
    """
    until = min(verified_at + dt.timedelta(seconds=RECEIPT_SECONDS), authorised_until)
    return ConsentReceipt(
        run_id=job.run_id,
        query_digest=job.query_digest,
        job_digest=job.digest(),
        consent="enabled",
        # Rounded down, so that the text is never later than the time that it stands for.
        expires=until.replace(microsecond=0),
    )


def withdrawn_receipt(job: JobConfig, at: dt.datetime) -> ConsentReceipt:
    """Return the receipt that ends a run's consent at ``at``."""
    return ConsentReceipt(
        run_id=job.run_id, query_digest=job.query_digest, job_digest=job.digest(), consent="withdrawn", expires=at.replace(microsecond=0)
    )
