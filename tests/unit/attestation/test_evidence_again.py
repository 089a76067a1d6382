"""Evidence that was rejected is rejected again: no cache stores a failure as a success."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cleanroom.attestation import AttestationEvidence, Expectations, Product, TrustStore
from cleanroom.attestation.amd_certificate import AmdCertificate
from cleanroom.attestation.cache import VerifiedCache
from cleanroom.attestation.chain import examine_chain
from cleanroom.attestation.checks import Checklist, Stop
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.verify import Verifier
from localcloud.standins.snp.minting import LeafPlan, mint_hierarchy
from tests.unit.attestation.conftest import Lab

_PEM = Encoding.PEM


def mixed_chain(lab: Lab) -> str:
    """The lab's root with the intermediate and leaf of another hierarchy of the same names."""
    other = mint_hierarchy(LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=2048))
    own, foreign = _by_name(lab.hierarchy.chain_pem()), _by_name(other.chain_pem())
    ders = [foreign["SEV-VCEK"], foreign["SEV-Milan"], own["ARK-Milan"]]
    return "".join(AmdCertificate(der).x509().public_bytes(_PEM).decode() for der in ders)


def _by_name(pem: bytes) -> dict[str, bytes]:
    return {AmdCertificate(der).common_name: der for der in read_endorsements(pem)}


def failed(verifier: Verifier, evidence: AttestationEvidence) -> list[str]:
    verdict = verifier.verify(evidence, expectations=Expectations(), at=datetime.now(UTC))
    return [check.id for check in verdict.checks if not check.passed]


def test_a_chain_with_a_link_that_does_not_verify_is_rejected_each_time(milan: Lab) -> None:
    verifier = Verifier(milan.trust)
    evidence = AttestationEvidence.of(milan.hierarchy.report(), mixed_chain(milan).encode())
    assert [failed(verifier, evidence) for _ in range(3)] == [["chain-signatures"]] * 3


def test_a_link_that_does_not_verify_is_not_cached(milan: Lab) -> None:
    links = VerifiedCache[bool](8)
    ders = read_endorsements(mixed_chain(milan).encode())
    for _ in range(2):
        checklist = Checklist()
        with pytest.raises(Stop):
            examine_chain(ders, milan.trust, checklist, links)
        assert [check.id for check in checklist.checks if not check.passed] == ["chain-signatures"]


def test_a_genuine_chain_stays_accepted_and_an_untrusted_one_rejected(milan: Lab, turin: Lab) -> None:
    verifier = Verifier(milan.trust)
    genuine = AttestationEvidence.of(milan.hierarchy.report(), milan.hierarchy.chain_pem())
    foreign = AttestationEvidence.of(turin.hierarchy.report(), turin.hierarchy.chain_pem())
    for _ in range(2):
        assert failed(verifier, genuine) == []
        assert failed(verifier, foreign) == ["root-trusted"]


def test_a_cached_chain_is_checked_against_the_time_of_each_use(milan: Lab) -> None:
    verifier = Verifier(milan.trust)
    evidence = AttestationEvidence.of(milan.hierarchy.report(), milan.hierarchy.chain_pem())
    assert failed(verifier, evidence) == []
    late = verifier.verify(evidence, expectations=Expectations(), at=datetime(2199, 1, 1, tzinfo=UTC))
    assert not late.ok


def test_a_verifier_of_other_roots_does_not_share_the_cache(milan: Lab) -> None:
    evidence = AttestationEvidence.of(milan.hierarchy.report(), milan.hierarchy.chain_pem())
    assert failed(Verifier(milan.trust), evidence) == []
    assert failed(Verifier(TrustStore([])), evidence) == ["root-trusted"]
