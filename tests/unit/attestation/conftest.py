"""Genuine vectors, and minted hierarchies with their trust stores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cleanroom.attestation import AttestationEvidence, Expectations, Product, TrustedRoot, TrustStore, Verdict, verify_evidence
from cleanroom.attestation.chain import LeafKind
from cleanroom.attestation.trust import spki_sha256
from localcloud.standins.snp.minting import Hierarchy, LeafPlan, mint_hierarchy
from localcloud.standins.snp.server import DevelopmentHardware
from tests.shared_keys import shared_hardware

VECTORS = Path(os.environ.get("CLEANROOM_VECTORS", Path(__file__).parents[3].parent / "shared" / "vectors"))
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def vector_ids() -> list[str]:
    """Return the names of the genuine reports, or a placeholder if the vectors are absent."""
    folder = VECTORS / "snp"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ["absent"]


@pytest.fixture(scope="session")
def vectors() -> Path:
    if not (VECTORS / "snp").is_dir():
        pytest.skip("no attestation vectors; set CLEANROOM_VECTORS")
    return VECTORS


@pytest.fixture(scope="session")
def amd() -> TrustStore:
    return TrustStore.amd()


@pytest.fixture(scope="session")
def hardware() -> DevelopmentHardware:
    return shared_hardware()


@pytest.fixture(scope="session")
def development(hardware: DevelopmentHardware) -> TrustStore:
    return TrustStore.load(amd=True, root_files=[hardware.trust_file])


@dataclass(frozen=True)
class Lab:
    """A minted hierarchy with a trust store for it."""

    hierarchy: Hierarchy
    trust: TrustStore

    def judge(self, report: bytes | None = None, *, chain: bytes | None = None, at: datetime | None = None, **expected: Any) -> Verdict:
        evidence = AttestationEvidence.of(
            self.hierarchy.report() if report is None else report, self.hierarchy.chain_pem() if chain is None else chain
        )
        return verify_evidence(evidence, trust=self.trust, expectations=Expectations(**expected), at=at or datetime.now(UTC))


def lab_for(hierarchy: Hierarchy) -> Lab:
    root = TrustedRoot(spki_sha256=spki_sha256(hierarchy.root), product=hierarchy.product, development=True)
    return Lab(hierarchy, TrustStore([root]))


@pytest.fixture(scope="session")
def milan() -> Lab:
    return lab_for(mint_hierarchy(LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=2048)))


@pytest.fixture(scope="session")
def turin() -> Lab:
    return lab_for(mint_hierarchy(LeafPlan(product=Product.TURIN, chip_id=bytes(range(1, 9)), rsa_bits=2048)))


@pytest.fixture(scope="session")
def vlek() -> Lab:
    return lab_for(mint_hierarchy(LeafPlan(product=Product.GENOA, kind=LeafKind.VLEK, rsa_bits=2048)))


def reasons(verdict: Verdict) -> list[str]:
    """Return the reasons of all failed checks, in order."""
    return [str(check.reason) for check in verdict.failures]
