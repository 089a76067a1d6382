"""The Spark service's attestation report, as messages carry it. :mod:`cleanroom.spark.signed` verifies it."""

from __future__ import annotations

from pydantic import Field

from cleanroom.models import FrozenModel
from cleanroom.snp_evidence import AttestationEvidence


class ServiceReport(FrozenModel):
    """The service's evidence.

    ``payload`` is the JSON ``{"nonce", "servicePublicKey"}`` (the key as PEM), verbatim. The report data is the
    SHA-256 of its UTF-8 bytes, followed by 32 zero bytes.
    """

    evidence: AttestationEvidence
    payload: str = Field(max_length=8192)
