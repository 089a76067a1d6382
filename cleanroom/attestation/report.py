"""The SEV-SNP attestation report: 1184 bytes, little-endian, parsed into an immutable value.

Offsets are the same in versions 2 to 5: version 3 added the CPUID bytes, version 5 the mitigation vectors. Parsing verifies nothing.
Source: AMD 56860 (SEV-SNP firmware ABI), table ATTESTATION_REPORT; see ``docs/facts/attestation.md#the-report``.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from cleanroom.attestation.models import construct_unvalidated
from cleanroom.attestation.reasons import AttestationRejected, Reason

REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
SUPPORTED_VERSIONS: Final = frozenset({2, 3, 4, 5})

SIGNATURE_ALGORITHM_ECDSA_P384_SHA384: Final = 1
SIGNING_KEY_VCEK: Final = 0
SIGNING_KEY_VLEK: Final = 1
SIGNING_KEY_NONE: Final = 7
_SIGNING_KEY_NAMES: Final = {SIGNING_KEY_VCEK: "VCEK", SIGNING_KEY_VLEK: "VLEK", SIGNING_KEY_NONE: "NONE"}

# 0x000 … 0x1E7: version to committed_tcb.
_HEAD: Final = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s3B21x64s8s")
_HEAD_FIELDS: Final = (
    *("version", "guest_svn", "policy", "family_id", "image_id", "vmpl", "signature_algorithm", "current_tcb", "platform_info", "flags"),
    *("report_data", "measurement", "host_data", "id_key_digest", "author_key_digest", "report_id", "report_id_ma", "reported_tcb"),
    *("family", "model", "stepping", "chip_id", "committed_tcb"),
)


def _bytes_from_hex(value: Any) -> Any:
    return bytes.fromhex(value) if isinstance(value, str) else value


HexBytes = Annotated[bytes, BeforeValidator(_bytes_from_hex), PlainSerializer(bytes.hex, return_type=str, when_used="json")]
"""Bytes in Python, lower-case hex in JSON."""


class GuestPolicy(BaseModel):
    """The guest policy (u64), fixed at launch. The properties are the bits that verification uses."""

    model_config = ConfigDict(frozen=True)

    value: int

    def _bit(self, bit: int) -> bool:
        return bool(self.value >> bit & 1)

    @property
    def abi(self) -> tuple[int, int]:
        """Minimum firmware ABI version, (major, minor)."""
        return self.value >> 8 & 0xFF, self.value & 0xFF

    @property
    def smt_allowed(self) -> bool:
        """Whether the guest may run with simultaneous multithreading."""
        return self._bit(16)

    @property
    def reserved_one(self) -> bool:
        """Bit 17, which must be 1."""
        return self._bit(17)

    @property
    def migration_allowed(self) -> bool:
        """Whether a migration agent may be attached."""
        return self._bit(18)

    @property
    def debug_allowed(self) -> bool:
        """Whether the host may debug the guest, which exposes its memory."""
        return self._bit(19)

    @property
    def single_socket_required(self) -> bool:
        """Whether the guest runs on one socket only."""
        return self._bit(20)


class SnpReport(BaseModel):
    """Every field of a report. Byte fields are bytes here and hex in JSON; TCBs stay raw, because their layout depends on the product.

    ``signed`` holds the 672 bytes that the signature covers, ``signature_r`` and ``signature_s`` the two 72-byte little-endian numbers, and
    ``signature_rest`` the 368 reserved bytes after them.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: HexBytes
    image_id: HexBytes
    vmpl: int
    signature_algorithm: int
    current_tcb: HexBytes
    platform_info: int
    flags: int
    report_data: HexBytes
    measurement: HexBytes
    host_data: HexBytes
    id_key_digest: HexBytes
    author_key_digest: HexBytes
    report_id: HexBytes
    report_id_ma: HexBytes
    reported_tcb: HexBytes
    cpuid: tuple[int, int, int] | None
    """Combined family, combined model, stepping; None before version 3."""
    chip_id: HexBytes
    committed_tcb: HexBytes
    current_version: tuple[int, int, int]
    """Firmware (major, minor, build)."""
    committed_version: tuple[int, int, int]
    launch_tcb: HexBytes
    launch_mitigations: int | None
    """Mitigation vector at launch; None before version 5."""
    current_mitigations: int | None
    signed: HexBytes
    signature_r: HexBytes
    signature_s: HexBytes
    signature_rest: HexBytes

    @property
    def chip_key_masked(self) -> bool:
        """Whether the chip ID is masked, so the report cannot be linked to a VCEK."""
        return bool(self.flags >> 1 & 1)

    @property
    def signing_key(self) -> int:
        """0 VCEK, 1 VLEK, 7 none (unsigned)."""
        return self.flags >> 2 & 7

    @property
    def signing_key_name(self) -> str:
        """The name of :attr:`signing_key`."""
        return _SIGNING_KEY_NAMES.get(self.signing_key, f"reserved ({self.signing_key})")

    @property
    def raw(self) -> bytes:
        """The 1184 bytes of the report."""
        return self.signed + self.signature_r + self.signature_s + self.signature_rest


def parse_report(raw: bytes) -> SnpReport:
    """Parse the 1184 bytes of a report of version 2 to 5.

    Reserved bytes in the signed part are ignored: the signature covers them, and AMD may assign them a meaning.

    Raises:
        AttestationRejected: ``ReportMalformed`` for any other length, ``ReportVersionUnsupported`` for any other version.
    """
    if len(raw) != REPORT_SIZE:
        raise AttestationRejected(
            Reason.REPORT_MALFORMED,
            f"The report has {len(raw)} bytes; an SEV-SNP report has exactly {REPORT_SIZE}.",
            expected=f"{REPORT_SIZE} bytes",
            actual=f"{len(raw)} bytes",
        )
    version = int.from_bytes(raw[:4], "little")
    if version not in SUPPORTED_VERSIONS:
        raise AttestationRejected(
            Reason.REPORT_VERSION_UNSUPPORTED,
            f"The report has version {version}; versions 2 to 5 are supported.",
            expected="2, 3, 4 or 5",
            actual=str(version),
        )
    head = dict(zip(_HEAD_FIELDS, _HEAD.unpack_from(raw), strict=True))
    family, model, stepping = (head.pop(name) for name in ("family", "model", "stepping"))
    head["policy"] = construct_unvalidated(GuestPolicy, value=head["policy"])
    return construct_unvalidated(  # the struct module has checked every type and length
        SnpReport,
        **head,
        cpuid=(family, model, stepping) if version >= 3 else None,
        current_version=(raw[0x1EA], raw[0x1E9], raw[0x1E8]),
        committed_version=(raw[0x1EE], raw[0x1ED], raw[0x1EC]),
        launch_tcb=raw[0x1F0:0x1F8],
        launch_mitigations=int.from_bytes(raw[0x1F8:0x200], "little") if version >= 5 else None,
        current_mitigations=int.from_bytes(raw[0x200:0x208], "little") if version >= 5 else None,
        signed=raw[:SIGNED_SIZE],
        signature_r=raw[0x2A0:0x2E8],
        signature_s=raw[0x2E8:0x330],
        signature_rest=raw[0x330:],
    )
