"""The reasons for which evidence is rejected, and the error that carries one.

Callers match on the reason; the message is for readers. Where Azure or the governance service has a name for a failure, the reason has the
same spelling (``TeeDebugModeEnabled``, ``ReportDataMismatch``, ``HostDataMismatch``).
"""

from __future__ import annotations

from enum import StrEnum
from types import TracebackType

from cleanroom.errors import Refused


class Reason(StrEnum):
    """All reasons, in the order in which the checks run (groups A to E of :mod:`cleanroom.attestation.verify`)."""

    # A. Structure of the report
    REPORT_MALFORMED = "ReportMalformed"
    REPORT_VERSION_UNSUPPORTED = "ReportVersionUnsupported"
    SIGNATURE_ALGORITHM_UNSUPPORTED = "SignatureAlgorithmUnsupported"
    SIGNING_KEY_UNSUPPORTED = "SigningKeyUnsupported"
    SIGNATURE_ENCODING_INVALID = "SignatureEncodingInvalid"
    # B. Certificate chain
    CHAIN_MALFORMED = "CertificateChainMalformed"
    LEAF_KIND_MISMATCH = "LeafCertificateKindMismatch"
    ROOT_NOT_TRUSTED = "RootNotTrusted"
    CHAIN_SIGNATURE_INVALID = "CertificateSignatureInvalid"
    CERTIFICATE_NOT_YET_VALID = "CertificateNotYetValid"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    CERTIFICATE_REVOKED = "CertificateRevoked"
    REVOCATION_UNKNOWN = "RevocationStatusUnknown"
    # C. Report against certificate
    REPORT_SIGNATURE_INVALID = "ReportSignatureInvalid"
    PRODUCT_UNSUPPORTED = "ProductUnsupported"
    PRODUCT_MISMATCH = "ProductMismatch"
    TCB_MISMATCH = "ReportedTcbMismatch"
    CHIP_KEY_MASKED = "ChipKeyMasked"
    CHIP_ID_MISMATCH = "ChipIdMismatch"
    CLOUD_PROVIDER_NOT_ALLOWED = "CloudProviderNotAllowed"
    # D. Guest policy and platform
    POLICY_RESERVED_BIT = "GuestPolicyReservedBit"
    DEBUG_ALLOWED = "TeeDebugModeEnabled"
    MIGRATION_ALLOWED = "MigrationAllowed"
    SMT_ALLOWED = "SmtAllowed"
    SINGLE_SOCKET_NOT_REQUIRED = "SingleSocketNotRequired"
    ABI_TOO_OLD = "GuestAbiTooOld"
    VMPL_MISMATCH = "VmplMismatch"
    TCB_TOO_OLD = "TcbTooOld"
    ENDORSED_TCB_MISMATCH = "EndorsedTcbMismatch"
    GUEST_SVN_TOO_OLD = "GuestSvnTooOld"
    ID_KEY_DIGEST_MISMATCH = "IdKeyDigestMismatch"
    AUTHOR_KEY_DIGEST_MISMATCH = "AuthorKeyDigestMismatch"
    FAMILY_ID_MISMATCH = "FamilyIdMismatch"
    IMAGE_ID_MISMATCH = "ImageIdMismatch"
    # E. Bindings
    REPORT_DATA_MISMATCH = "ReportDataMismatch"
    HOST_DATA_MISMATCH = "HostDataMismatch"
    HOST_DATA_REFUSED = "HostDataRefused"
    MEASUREMENT_MISMATCH = "MeasurementMismatch"
    UVM_MISSING = "UvmEndorsementMissing"
    UVM_MALFORMED = "UvmEndorsementMalformed"
    UVM_CHAIN_INVALID = "UvmCertificateChainInvalid"
    UVM_SIGNATURE_INVALID = "UvmSignatureInvalid"
    UVM_ISSUER_NOT_TRUSTED = "UvmIssuerNotTrusted"
    UVM_SVN_TOO_OLD = "UvmSvnTooOld"
    UVM_MEASUREMENT_MISMATCH = "UvmMeasurementMismatch"
    # Azure confidential VM evidence
    HCL_REPORT_MALFORMED = "HclReportMalformed"
    RUNTIME_CLAIMS_MALFORMED = "RuntimeClaimsMalformed"
    RUNTIME_CLAIMS_MISMATCH = "RuntimeClaimsMismatch"
    TPM_QUOTE_MALFORMED = "TpmQuoteMalformed"
    TPM_QUOTE_SIGNATURE_INVALID = "TpmQuoteSignatureInvalid"
    NONCE_MISMATCH = "NonceMismatch"
    PCR_DIGEST_MISMATCH = "PcrDigestMismatch"
    USER_DATA_MISMATCH = "UserDataMismatch"


class AttestationRejected(Refused):
    """Evidence is rejected. ``code`` is the :class:`Reason`; ``details`` has the expected and the actual value."""

    def __init__(self, reason: Reason, message: str, *, expected: str = "", actual: str = "", cause: str | None = None) -> None:
        super().__init__(str(reason), message, cause=cause, party="operator", details={"expected": expected, "actual": actual})
        self.reason = reason
        self.expected = expected
        self.actual = actual


class rejecting:
    """Context manager that turns any exception of a parser into :class:`AttestationRejected`.

    The parsers of X.509, CBOR and JSON raise a dozen unrelated exception types on crafted input (``ValueError``, ``OverflowError``,
    ``UnsupportedAlgorithm``, ``RecursionError`` …), and the list changes with their releases. So every ``Exception`` is caught.
    It is a class because a verdict enters a dozen of these, and a generator takes three times as long.
    """

    __slots__ = ("_reason", "_what")

    def __init__(self, reason: Reason, what: str) -> None:
        self._reason = reason
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, AttestationRejected):
            raise AttestationRejected(
                self._reason, f"{self._what} cannot be read.", expected=f"a well-formed {self._what}", actual=type(error).__name__
            ) from error
