"""The expectations on evidence, and the verdict. Both are values: they can be stored, compared and displayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cleanroom.attestation.chain import LeafKind
from cleanroom.attestation.checks import Check
from cleanroom.attestation.evidence import REPORT_DATA_SIZE
from cleanroom.attestation.products import Product, Tcb
from cleanroom.attestation.report import HexBytes, SnpReport
from cleanroom.errors import Refused
from cleanroom.models import FrozenModel
from cleanroom.snp_evidence import AttestationEvidence


def _digests(size: int) -> Any:
    def normalise(values: frozenset[str] | None) -> frozenset[str] | None:
        if values is None:
            return None
        for value in values:
            if len(bytes.fromhex(value)) != size:
                raise ValueError(f"{value!r} is not {size} bytes in hex")
        return frozenset(value.lower() for value in values)

    return AfterValidator(normalise)


def _report_data(value: bytes | None) -> bytes | None:
    if value is not None and len(value) != REPORT_DATA_SIZE:
        raise ValueError(f"report_data has {len(value)} bytes, not {REPORT_DATA_SIZE}")
    return value


HexDigests16 = Annotated[frozenset[str] | None, _digests(16)]
HexDigests32 = Annotated[frozenset[str] | None, _digests(32)]
HexDigests48 = Annotated[frozenset[str] | None, _digests(48)]


class Expectations(FrozenModel):
    """What must hold beyond the cryptography. Secure by default; ``None`` means "any". Hex values are compared in lower case.

    A set of values is an allowlist: the report must equal one of them, and an empty set allows nothing.
    """

    # Report
    minimum_report_version: int = 2
    """Versions 3 and later state the CPU in signed bytes. Azure supports 3 in production."""
    allow_vlek: bool = True
    csp_ids: frozenset[str] | None = None
    """Cloud providers whose VLEK is accepted (the certificate's CSP_ID)."""
    # Guest policy
    allow_debug: bool = False
    allow_migration: bool = False
    allow_smt: bool = True
    require_single_socket: bool = False
    minimum_abi: tuple[int, int] | None = None
    """(major, minor) of the firmware ABI that the guest policy must require."""
    vmpl: int | None = Field(default=0, ge=0, le=3)
    """Privilege level of the requester. None accepts 0 to 3, but not a report that the host requested."""
    # Platform
    minimum_tcb: Mapping[Product, Tcb] | None = None
    """Minimum reported TCB per product, compared component by component. Products that are not listed are rejected."""
    minimum_committed_tcb: Mapping[Product, Tcb] | None = None
    """Minimum committed TCB per product: the firmware that the host can no longer go below."""
    minimum_guest_svn: int = 0
    id_key_digests: HexDigests48 = None
    author_key_digests: HexDigests48 = None
    family_ids: HexDigests16 = None
    image_ids: HexDigests16 = None
    # Bindings
    report_data: Annotated[HexBytes | None, AfterValidator(_report_data)] = None
    """Exactly 64 bytes; see :func:`cleanroom.attestation.report_data_for`."""
    host_data: HexDigests32 = None
    refuse_host_data: HexDigests32 = frozenset()
    """Host data that is rejected even if listed, such as ``ALLOW_ALL_HOST_DATA``."""
    measurements: HexDigests48 = None
    require_uvm: bool = False
    """Whether evidence without a utility-VM endorsement is rejected. An existing one is always verified."""
    minimum_uvm_svn: int | None = None
    """Minimum security version, if higher than that of the trust store's row."""
    # Revocation
    crls: tuple[bytes, ...] = ()
    """DER or PEM lists. If any is given, one of them must be of the chain's root."""
    require_crl: bool = False
    """Whether a verification without lists fails."""
    accept_stale_crl: bool = False


class Verdict(BaseModel):
    """The result of a verification: every check, the parsed report, and the evidence.

    ``product`` and ``version`` are None if the evidence does not state them. ``development`` is true if the verdict rests on a development
    root or issuer: such evidence does not prove confidentiality.
    """

    model_config = ConfigDict(frozen=True)

    ok: bool
    product: Product | None
    version: int | None
    checks: tuple[Check, ...]
    at: datetime
    """The instant for which validity and revocation were checked."""
    evidence: AttestationEvidence
    report: SnpReport | None = None
    leaf: LeafKind | None = None
    development: bool = False

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed, in order."""
        return tuple(check for check in self.checks if not check.passed)

    def require(self) -> SnpReport:
        """Return the report if every check passed.

        Raises:
            Refused: ``code`` is the first failed check's reason, and ``details`` holds all failed checks.
        """
        if self.ok and self.report is not None:
            return self.report
        failures = self.failures
        first = failures[0]
        raise Refused(
            str(first.reason),
            f"The attestation evidence was rejected: {first.message}",
            hint="The details list the failed checks; `cleanroom attest verify FILE` shows every check.",
            party="operator",
            details={
                "product": str(self.product) if self.product else None,
                "version": self.version,
                "evidence_sha256": self.evidence.digest(),
                "failed": [asdict(check) | {"reason": str(check.reason)} for check in failures],
            },
        )

    def summary(self) -> dict[str, Any]:
        """Return ``{ok, product, version, checks: [{id, passed, expected, actual}]}``; a failed check also has its ``reason``."""
        return {
            "ok": self.ok,
            "product": str(self.product) if self.product else None,
            "version": self.version,
            "leaf": str(self.leaf) if self.leaf else None,
            "development": self.development,
            "at": self.at.isoformat(),
            "checks": [
                {"id": check.id, "passed": check.passed, "expected": check.expected, "actual": check.actual}
                | ({"reason": str(check.reason)} if check.reason else {})
                for check in self.checks
            ],
        }
