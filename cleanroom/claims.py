"""Names of the claims about an attested guest, as Microsoft Azure Attestation and the governance service spell them.

Source: https://learn.microsoft.com/azure/attestation/claim-sets (SEV-SNP claims); see ``docs/facts/key-release.md#token`` and
``docs/facts/governance-service.md#clean-room-policies``.
"""

from __future__ import annotations

from typing import Final

_SNP: Final = "x-ms-sevsnpvm-"
HOST_DATA: Final = f"{_SNP}hostdata"
"""SHA-256 of the guest's security policy, as 64 hex digits."""
NOBODY: Final = "f" * 64
"""Host data that no guest can have: no security policy with this SHA-256 digest is known."""
IS_DEBUGGABLE: Final = f"{_SNP}is-debuggable"
VMPL: Final = f"{_SNP}vmpl"
"""Privilege level that requested the report."""
GUEST_SVN: Final = f"{_SNP}guestsvn"
LAUNCH_MEASUREMENT: Final = f"{_SNP}launchmeasurement"

ATTESTATION_TYPE: Final = "x-ms-attestation-type"
COMPLIANCE_STATUS: Final = "x-ms-compliance-status"
"""``azure-compliant-uvm`` for a utility VM that Microsoft endorsed."""
RUNTIME: Final = "x-ms-runtime"
"""The JSON that the guest bound into its report; ``keys`` holds its wrapping key."""
