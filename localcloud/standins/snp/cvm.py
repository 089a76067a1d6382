"""Evidence of an Azure confidential VM on the development hardware: runtime claims with a vTPM key, and a quote signed by it."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.attestation import CvmEvidence, report_data_for
from cleanroom.attestation.cvm import CLEAN_ROOM_NONCE, CvmParts
from cleanroom.jose.encoding import b64uint
from localcloud.standins.snp.server import DevelopmentHardware

_MAGIC: Final = 0xFF544347
_QUOTE: Final = 0x8018
_RSASSA: Final = 0x0014
_SHA256: Final = 0x000B


class DevelopmentVirtualMachine:
    """A confidential VM: the attestation key of its vTPM, and its PCRs (index to 32 bytes)."""

    def __init__(self, hardware: DevelopmentHardware, pcrs: Mapping[int, bytes] | None = None) -> None:
        self._hardware = hardware
        self.attestation_key = rsa.generate_private_key(65537, 2048)
        self.pcrs = dict(pcrs or {index: hashlib.sha256(b"pcr%d" % index).digest() for index in range(24)})

    def claims(self, user_data: bytes) -> bytes:
        """Return the runtime claims as JSON, with ``user-data`` in upper-case hex like on the platform."""
        numbers = self.attestation_key.public_key().public_numbers()
        key = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": b64uint(numbers.e), "n": b64uint(numbers.n)}
        configuration = {"console-enabled": True, "secure-boot": True, "tpm-enabled": True}
        return json.dumps({"keys": [key], "vm-configuration": configuration, "user-data": user_data.hex().upper()}).encode()

    def hcl_report(self, claims: bytes, host_data: bytes = bytes(32), **fields: Any) -> bytes:
        """Return the HCL blob: header, SNP report over the claims, runtime header, claims, padding.

        ``host_data`` and ``fields`` (:meth:`DevelopmentHardware.report`) change the report, for tests.
        """
        report = self._hardware.report(host_data, report_data_for(claims), **fields)
        header = b"HCLA" + struct.pack("<3I", 1, 2346, 2) + bytes(16)
        runtime = struct.pack("<5I", len(claims) + 20, 1, 2, 1, len(claims))
        return (header + report + runtime + claims).ljust(2600, b"\0")

    def quote(self, nonce: bytes, selected: Mapping[int, bytes] | None = None) -> bytes:
        """Return a quote over the selected PCRs (default: all) with ``nonce`` as extra data."""
        pcrs = self.pcrs if selected is None else dict(selected)
        bitmap = bytearray(3)
        for index in pcrs:
            bitmap[index // 8] |= 1 << index % 8
        digest = hashlib.sha256(b"".join(value for _, value in sorted(pcrs.items()))).digest()
        attest = (
            struct.pack(">IH", _MAGIC, _QUOTE)
            + _sized(b"\x00\x0b" + bytes(32))
            + _sized(nonce)
            + bytes(17 + 8)
            + struct.pack(">IHB", 1, _SHA256, len(bitmap))
            + bytes(bitmap)
            + _sized(digest)
        )
        signature = self.attestation_key.sign(attest, padding.PKCS1v15(), hashes.SHA256())
        return _sized(attest) + struct.pack(">HH", _RSASSA, _SHA256) + _sized(signature)

    def evidence(self, user_data: bytes, nonce: bytes = CLEAN_ROOM_NONCE, **fields: Any) -> CvmEvidence:
        """Return ``snp-cvm`` evidence that binds ``user_data`` (64 bytes); ``fields`` as in :meth:`hcl_report`."""
        blob = self.hcl_report(self.claims(user_data), **fields)
        return CvmEvidence(
            evidence=CvmParts(
                tpm_quote=_base64(self.quote(nonce)),
                hcl_report=_base64(blob),
                snp_report=_base64(blob[32 : 32 + 1184]),
                pcrs={str(index): _base64(value) for index, value in self.pcrs.items()},
            ),
            nonce=_base64(nonce),
            platform_certificates=self._hardware.chain_pem.decode(),
        )


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
