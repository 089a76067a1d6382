"""Property tests with crafted bytes: any input gives a verdict, and only unaltered evidence is accepted.

CLEANROOM_FUZZ_EXAMPLES sets the number of examples per property (default 60; 100000 with ``--timeout 0`` takes many minutes).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom.attestation import (
    AttestationEvidence,
    AttestationRejected,
    CvmEvidence,
    Expectations,
    Product,
    TrustedRoot,
    TrustStore,
    UvmIssuer,
    Verdict,
    parse_report,
    verify_cvm_evidence,
    verify_evidence,
)
from cleanroom.attestation.cache import VerifiedCache
from cleanroom.attestation.chain import examine_chain
from cleanroom.attestation.checks import Checklist
from cleanroom.attestation.cvm import CvmParts
from cleanroom.attestation.documents import read_document
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.evidence import strict_base64
from cleanroom.attestation.revocation import check_revocation
from cleanroom.attestation.tpm import parse_quote
from cleanroom.attestation.trust import spki_sha256
from cleanroom.attestation.uvm import verify_endorsement
from cleanroom.errors import InvalidInput
from localcloud.standins.snp.minting import LeafPlan, mint_endorsement_issuer, mint_hierarchy

fuzz = settings(
    max_examples=int(os.environ.get("CLEANROOM_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

PLAN = LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=2048)
HIERARCHY = mint_hierarchy(PLAN)
ISSUER = mint_endorsement_issuer(rsa_bits=2048)
REPORT = HIERARCHY.report()
CHAIN = HIERARCHY.chain_pem()
DERS = [each.public_bytes(Encoding.DER) for each in (HIERARCHY.leaf, HIERARCHY.intermediate, HIERARCHY.root)]
UVM = ISSUER.endorse(bytes(48), 101)
ENVELOPE = ISSUER.endorse_envelope(bytes(48), 101)
CRL = HIERARCHY.crl([1, 2], at=datetime.now(UTC))
TRUST = TrustStore(
    [TrustedRoot(spki_sha256=spki_sha256(HIERARCHY.root), product=Product.MILAN)],
    [UvmIssuer(issuer=ISSUER.did, feed="ContainerPlat-AMD-UVM", minimum_svn=1)],
)
LENIENT = Expectations(vmpl=None, allow_debug=True, allow_migration=True)


def judge(evidence: AttestationEvidence) -> Verdict:
    verdict = verify_evidence(evidence, trust=TRUST, expectations=LENIENT, at=datetime.now(UTC))
    assert verdict.checks
    assert verdict.ok or all(check.reason for check in verdict.failures)
    verdict.summary()
    return verdict


@st.composite
def altered(draw: st.DrawFn, original: bytes) -> bytes:
    """Generate ``original`` with one to four edits: overwritten, inserted, removed or repeated parts."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        stretch = draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["set", "bit", "insert", "remove", "repeat", "length"]))
        if kind == "set":
            data[place : place + stretch] = draw(st.binary(min_size=stretch, max_size=stretch))
        elif kind == "bit" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=stretch))
        elif kind == "remove":
            del data[place : place + stretch]
        elif kind == "repeat":
            data[place:place] = data[place : place + stretch]
        elif kind == "length" and data:  # length octets of DER and CBOR
            data[place] = draw(st.sampled_from([0x00, 0x7F, 0x80, 0x81, 0x82, 0x84, 0x88, 0x5F, 0x9F, 0xBF, 0xD2, 0xFF]))
    return bytes(data)


def pem(ders: list[bytes]) -> bytes:
    return b"".join(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in ders)


def test_the_unaltered_evidence_is_accepted() -> None:
    for uvm in (None, UVM, ENVELOPE):
        assert judge(AttestationEvidence.of(REPORT, CHAIN, uvm)).ok


_odd = st.sampled_from(
    [b"", b"=", b"==", b"-", b"_", b"\\", b'"', b"\n", b" ", b"\t\r", b"\x0b", b"\xff", b"\0", b"A", b"\\u0041", b"+/", b"\xc2\xa0"]
)


@fuzz
@given(data=st.binary(max_size=9), odd=_odd, place=st.integers(0, 12), cut=st.integers(0, 1))
def test_strict_base64_agrees_with_the_standard_library(data: bytes, odd: bytes, place: int, cut: int) -> None:
    text = base64.b64encode(data)
    altered = text[:place] + odd + text[place + cut :]
    try:
        expected = binascii.a2b_base64(b"".join(altered.split()), strict_mode=True)
    except ValueError:
        with pytest.raises(binascii.Error):
            strict_base64(altered)
    else:
        assert strict_base64(altered) == expected


@fuzz
@given(altered(REPORT))
def test_altered_reports_are_rejected(report: bytes) -> None:
    assert judge(AttestationEvidence.of(report, CHAIN)).ok is (report == REPORT)


@fuzz
@given(
    st.dictionaries(st.sampled_from(["version", "policy", "vmpl", "flags", "signature_algorithm", "guest_svn"]), st.integers(0, 2**32 - 1))
)
def test_signed_reports_with_any_field_values_give_a_verdict(fields: dict[str, int]) -> None:
    judge(AttestationEvidence.of(HIERARCHY.report(**fields), CHAIN))


@fuzz
@given(st.integers(0, 2), st.data())
def test_altered_certificates_are_rejected(index: int, data: st.DataObject) -> None:
    ders = list(DERS)
    ders[index] = data.draw(altered(DERS[index]))
    verdict = judge(AttestationEvidence.of(REPORT, pem(ders)))
    assert verdict.ok is (ders == DERS)


@fuzz
@given(altered(CHAIN))
def test_altered_pem_text_gives_a_verdict(chain: bytes) -> None:
    judge(AttestationEvidence.of(REPORT, chain))


@fuzz
@given(
    st.dictionaries(st.sampled_from([f"1.3.6.1.4.1.3704.1.{n}" for n in ("2", "3.1", "3.2", "3.3", "3.8", "4")]), st.binary(max_size=70))
)
def test_signed_leaves_with_any_extension_values_give_a_verdict(extensions: dict[str, bytes]) -> None:
    hierarchy = HIERARCHY.with_leaf(replace(PLAN, extensions=extensions))
    verdict = judge(AttestationEvidence.of(hierarchy.report(), hierarchy.chain_pem()))
    assert verdict.ok or str(verdict.failures[0].reason) in {
        "CertificateChainMalformed",
        "ProductMismatch",
        "ReportedTcbMismatch",
        "ChipIdMismatch",
    }


@fuzz
@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_text_as_evidence_gives_a_verdict(evidence: str, endorsements: str, uvm: str | None, tcb: str | None) -> None:
    assert not judge(AttestationEvidence(evidence=evidence, endorsements=endorsements, uvm_endorsements=uvm, endorsed_tcb=tcb)).ok
    good = AttestationEvidence.of(REPORT, CHAIN)
    judge(good.model_copy(update={"endorsements": endorsements}))
    judge(good.model_copy(update={"uvm_endorsements": uvm, "endorsed_tcb": tcb}))


@fuzz
@given(st.sampled_from([UVM, ENVELOPE]).flatmap(altered))
def test_altered_endorsements_are_rejected(uvm: bytes) -> None:
    judge(AttestationEvidence.of(REPORT, CHAIN, uvm))


cbor_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
labels = st.sampled_from([1, 2, 3, 15, 33, 34, 258, 259, "iss", "feed"])


@fuzz
@given(st.dictionaries(labels, cbor_values, max_size=5), st.binary(max_size=60) | st.just(bytes(48)), st.booleans())
def test_signed_endorsements_with_any_content_give_a_verdict(header: dict[Any, Any], payload: bytes, full: bool) -> None:
    base: dict[Any, Any] = {15: {1: ISSUER.did, 2: "ContainerPlat-AMD-UVM", "svn": 101}, 258: -43, 259: "application/octet-stream"}
    judge(AttestationEvidence.of(REPORT, CHAIN, ISSUER.sign((base if full else {}) | header, payload)))


@fuzz
@given(cbor_values)
def test_any_cbor_as_endorsement_is_rejected(value: Any) -> None:
    for data in (cbor2.dumps(value), cbor2.dumps(cbor2.CBORTag(18, value))):
        with pytest.raises(AttestationRejected):
            verify_endorsement(data)


@fuzz
@given(st.binary(max_size=1400))
def test_parsers_raise_only_the_typed_error(data: bytes) -> None:
    for parse in (parse_report, read_endorsements, verify_endorsement, parse_quote):
        with contextlib.suppress(AttestationRejected):
            parse(data)


DOCUMENT = json.dumps({"report": {"snpCACI": {"attestation": "AAAA", "platformCertificates": "AAAA", "uvmEndorsements": "AAAA"}}}).encode()
REQUEST = json.dumps({"report": base64.b64encode(b'{"SnpReport":"AA","VcekCertChain":"AA","Endorsements":"e30"}').decode()}).encode()


@fuzz
@given(st.one_of(altered(DOCUMENT), altered(REQUEST), st.binary(max_size=200)))
def test_any_evidence_document_is_read_or_rejected(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert read_document(data).report is not None


@fuzz
@given(altered(CRL))
def test_altered_revocation_lists_are_rejected(crl: bytes) -> None:
    chain = examine_chain(DERS, TRUST, Checklist(), VerifiedCache(8))
    with contextlib.suppress(AttestationRejected):
        assert check_revocation(chain, [crl], datetime.now(UTC)).startswith("not revoked")
        assert crl == CRL, "an altered list was believed"


@fuzz
@given(st.binary(max_size=200), st.binary(max_size=1500), st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=3), st.text())
def test_any_cvm_evidence_is_rejected(quote: bytes, blob: bytes, pcrs: dict[str, str], nonce: str) -> None:
    parts = CvmParts(
        tpm_quote=base64.b64encode(quote).decode(),
        hcl_report=base64.b64encode(b"HCLA" + bytes(28) + REPORT + blob).decode(),
        snp_report=base64.b64encode(REPORT).decode(),
        pcrs=pcrs,
    )
    evidence = CvmEvidence(evidence=parts, nonce=nonce, platform_certificates=CHAIN.decode())
    assert not verify_cvm_evidence(evidence, trust=TRUST, expectations=LENIENT, at=datetime.now(UTC), nonce=None).ok
