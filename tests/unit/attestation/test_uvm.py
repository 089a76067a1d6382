"""Utility-VM endorsements: genuine ones, the newer shape, and forged ones."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.attestation import AttestationEvidence, AttestationRejected, Expectations, TrustStore, UvmIssuer, Verdict, verify_evidence
from cleanroom.attestation.trust import ACI_UVM
from cleanroom.attestation.uvm import verify_endorsement
from localcloud.standins.snp.minting import UVM_FEED, EndorsementIssuer, mint_endorsement_issuer
from localcloud.standins.snp.server import MEASUREMENT, DevelopmentHardware
from tests.unit.attestation.conftest import NOW, reasons

GENUINE = {
    "svn22-51068107-15ace5202a1a": 22,
    "svn100-02c3b0d5-e65efc66a000": 100,
    "svn100-03fea028-31aaefd89870": 100,
    "svn101-5feee30d-7ae383f53082": 101,
    "svn103-d0c9e2be-5c9f4dd2c502": 103,
}


def judge_real(vectors: Path, name: str, uvm: bytes, trust: TrustStore, **expected: Any) -> Verdict:
    folder = vectors / "snp" / name
    evidence = AttestationEvidence.of((folder / "report.bin").read_bytes(), (folder / "chain.pem").read_bytes(), uvm)
    return verify_evidence(evidence, trust=trust, expectations=Expectations(**expected), at=NOW)


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_endorsements_verify_after_their_leaf_has_expired(vectors: Path, name: str) -> None:
    endorsement = verify_endorsement((vectors / "uvm" / f"{name}.cose").read_bytes())
    assert (endorsement.svn, endorsement.feed, endorsement.issuer) == (GENUINE[name], ACI_UVM.feed, ACI_UVM.issuer)
    assert endorsement.measurement.hex().startswith(name.split("-")[1])


def test_an_endorsement_of_another_measurement_is_rejected(vectors: Path, amd: TrustStore) -> None:
    right = (vectors / "uvm" / "svn101-5feee30d-7ae383f53082.cose").read_bytes()
    wrong = (vectors / "uvm" / "svn103-d0c9e2be-5c9f4dd2c502.cose").read_bytes()
    for name in ("milan-v3-caci-tav", "genoa-v3-caci-tav"):
        assert judge_real(vectors, name, right, amd, require_uvm=True).ok
        assert reasons(judge_real(vectors, name, wrong, amd)) == ["UvmMeasurementMismatch"]


def test_an_old_security_version_is_rejected(vectors: Path, amd: TrustStore) -> None:
    uvm = (vectors / "uvm" / "svn22-51068107-15ace5202a1a.cose").read_bytes()
    assert reasons(judge_real(vectors, "milan-v2-caci-sidecar-testdata", uvm, amd)) == ["UvmSvnTooOld"]
    newest = (vectors / "uvm" / "svn103-d0c9e2be-5c9f4dd2c502.cose").read_bytes()
    assert judge_real(vectors, "milan-v3-caci-cleanroom-signing", newest, amd, minimum_uvm_svn=99).ok
    assert reasons(judge_real(vectors, "milan-v3-caci-cleanroom-signing", newest, amd, minimum_uvm_svn=104)) == ["UvmSvnTooOld"]


def test_an_unknown_issuer_is_rejected(vectors: Path) -> None:
    uvm = (vectors / "uvm" / "svn101-5feee30d-7ae383f53082.cose").read_bytes()
    rows = (ACI_UVM.model_copy(update={"feed": "ConfAKS-AMD-UVM"}), ACI_UVM.model_copy(update={"issuer": ACI_UVM.issuer[:-1] + "5"}))
    trust = TrustStore(TrustStore.amd().roots, rows)
    assert reasons(judge_real(vectors, "milan-v3-caci-tav", uvm, trust)) == ["UvmIssuerNotTrusted"]


def test_an_altered_byte_of_a_genuine_endorsement_is_rejected(vectors: Path, amd: TrustStore) -> None:
    """Every 7th byte, one bit: protected header, certificates, payload, signature. The unprotected timestamp is not signed."""
    uvm = (vectors / "uvm" / "svn101-5feee30d-7ae383f53082.cose").read_bytes()
    message = cbor2.loads(uvm).value
    stamp = message[1]["timestamp"]
    start = uvm.index(stamp)
    for place in range(0, len(uvm), 7):
        if start - 20 <= place < start + len(stamp):
            continue
        altered = uvm[:place] + bytes((uvm[place] ^ 1 << place % 8,)) + uvm[place + 1 :]
        verdict = judge_real(vectors, "milan-v3-caci-tav", altered, amd)
        assert not verdict.ok, place
        assert reasons(verdict)[0].startswith("Uvm"), place


def test_security_context_files_of_a_container_group_are_read(vectors: Path, amd: TrustStore) -> None:
    folder = vectors / "caci" / "security-context-dir-sample"
    uvm = (folder / "reference-info-base64").read_text()
    endorsements = (folder / "host-amd-cert-base64").read_text()
    report = (vectors / "snp" / "milan-v2-caci-sidecar-testdata" / "report.bin").read_bytes()
    evidence = AttestationEvidence(evidence=base64.b64encode(report).decode(), endorsements=endorsements, uvm_endorsements=uvm)
    verdict = verify_evidence(evidence, trust=amd, expectations=Expectations(), at=NOW)
    # The sample's files come from different machines, so they do not verify, but they must be readable.
    assert not {"UvmEndorsementMalformed", "CertificateChainMalformed"} & set(reasons(verdict))


# Minted endorsements


@pytest.fixture(scope="module")
def issuer() -> EndorsementIssuer:
    return mint_endorsement_issuer(rsa_bits=2048)


def judge(hardware: DevelopmentHardware, issuer: EndorsementIssuer, uvm: bytes, minimum_svn: int = 100) -> Verdict:
    trust = TrustStore.load(
        root_files=[hardware.trust_file], uvm_rows=[UvmIssuer(issuer=issuer.did, feed=UVM_FEED, minimum_svn=minimum_svn)]
    )
    evidence = AttestationEvidence.of(hardware.report(bytes(32), bytes(64)), hardware.chain_pem, uvm)
    return verify_evidence(evidence, trust=trust, expectations=Expectations(require_uvm=True), at=datetime.now(UTC))


def test_both_shapes_are_accepted(hardware: DevelopmentHardware, issuer: EndorsementIssuer) -> None:
    for uvm, shape in (
        (issuer.endorse(MEASUREMENT, 101), "reference-info"),
        (issuer.endorse_envelope(MEASUREMENT, 101), "hash-envelope"),
        (issuer.endorse_envelope(MEASUREMENT, 101, issued=int(datetime.now(UTC).timestamp())), "hash-envelope"),
        # ContainerPlat writes the time with CBOR's epoch tag, which RFC 8392 does not require; receipts are unprotected.
        (_envelope(issuer, {15: {1: issuer.did, 2: UVM_FEED, 6: datetime.now(UTC), "svn": 101}}), "hash-envelope"),
        (_envelope(issuer, {258: -16}), "hash-envelope"),
        (
            _envelope(issuer, {34: [-43, hashlib.sha384(issuer.chain[0].public_bytes(serialization.Encoding.DER)).digest()]}),
            "hash-envelope",
        ),
    ):
        assert judge(hardware, issuer, uvm).ok
        assert verify_endorsement(uvm).shape == shape


def test_versions_are_compared_as_numbers(hardware: DevelopmentHardware, issuer: EndorsementIssuer) -> None:
    assert judge(hardware, issuer, issuer.endorse(MEASUREMENT, 101), minimum_svn=99).ok
    assert reasons(judge(hardware, issuer, issuer.endorse(MEASUREMENT, 99), minimum_svn=100)) == ["UvmSvnTooOld"]
    assert reasons(judge(hardware, issuer, issuer.endorse_envelope(MEASUREMENT, 99), minimum_svn=100)) == ["UvmSvnTooOld"]


def _payload(measurement: object = MEASUREMENT.hex(), svn: object = "101") -> bytes:
    return json.dumps({"x-ms-sevsnpvm-guestsvn": svn, "x-ms-sevsnpvm-launchmeasurement": measurement}).encode()


def _plain(issuer: EndorsementIssuer, header: dict[Any, Any] | None = None, payload: bytes | None = None, **more: Any) -> bytes:
    base = {3: "application/json", "iss": issuer.did, "feed": UVM_FEED}
    kept = {key: value for key, value in (base | (header or {})).items() if value is not None}
    return issuer.sign(kept, _payload() if payload is None else payload, **more)


def _envelope(issuer: EndorsementIssuer, header: dict[Any, Any] | None = None, payload: bytes = MEASUREMENT, **claims: Any) -> bytes:
    base = {15: {1: issuer.did, 2: UVM_FEED, "svn": 101} | claims, 258: -43, 259: "application/octet-stream"}
    return issuer.sign({key: value for key, value in (base | (header or {})).items() if value is not None}, payload)


def _forged_leaf(issuer: EndorsementIssuer) -> bytes:
    """A genuine chain with a signature by another key."""
    return replace(issuer, leaf_key=rsa.generate_private_key(65537, 2048)).endorse(MEASUREMENT, 101)


def _under_a_leaf(issuer: EndorsementIssuer) -> bytes:
    """A chain in which the holder of an endorsement key issued another leaf with it."""
    other = mint_endorsement_issuer(rsa_bits=2048)
    return replace(other, chain=(other.chain[0], *issuer.chain)).sign(
        {3: "application/json", "iss": issuer.did, "feed": UVM_FEED}, _payload()
    )


def _other_root(issuer: EndorsementIssuer) -> bytes:
    """Another root with the trusted issuer's name."""
    return mint_endorsement_issuer(rsa_bits=2048).sign({3: "application/json", "iss": issuer.did, "feed": UVM_FEED}, _payload())


FORGERIES: dict[str, tuple[Callable[[EndorsementIssuer], bytes], str]] = {
    "other key": (_forged_leaf, "UvmSignatureInvalid"),
    "leaf as authority": (_under_a_leaf, "UvmCertificateChainInvalid"),
    "other root": (_other_root, "UvmIssuerNotTrusted"),
    "other purpose": (lambda i: mint_endorsement_issuer(eku="1.2.3", rsa_bits=2048).endorse(MEASUREMENT, 101), "UvmIssuerNotTrusted"),
    "leaf only": (lambda i: replace(i, chain=i.chain[:1]).endorse(MEASUREMENT, 101), "UvmCertificateChainInvalid"),
    "chain reversed": (lambda i: replace(i, chain=i.chain[::-1]).endorse(MEASUREMENT, 101), "UvmCertificateChainInvalid"),
    "did of unknown predicate": (lambda i: _plain(i, {"iss": i.did + "::subject:CN:x"}), "UvmIssuerNotTrusted"),
    "did without predicate": (lambda i: _plain(i, {"iss": i.did.split("::")[0]}), "UvmIssuerNotTrusted"),
    "did of other method": (lambda i: _plain(i, {"iss": "did:web:example"}), "UvmIssuerNotTrusted"),
    "did of leaf": (lambda i: _plain(i, {"iss": _did_of_leaf(i)}), "UvmIssuerNotTrusted"),
    "no issuer": (lambda i: _plain(i, {"iss": None}), "UvmEndorsementMalformed"),
    "no feed": (lambda i: _plain(i, {"feed": None}), "UvmEndorsementMalformed"),
    "other feed": (lambda i: i.endorse(MEASUREMENT, 101, feed="Other"), "UvmIssuerNotTrusted"),
    "content type": (lambda i: _plain(i, {3: "text/plain"}), "UvmEndorsementMalformed"),
    "thumbprint": (lambda i: _plain(i, {34: [-16, bytes(32)]}), "UvmCertificateChainInvalid"),
    "thumbprint of an unknown hash": (lambda i: _plain(i, {34: [-15, bytes(8)]}), "UvmCertificateChainInvalid"),
    "thumbprint no pair": (lambda i: _plain(i, {34: bytes(32)}), "UvmCertificateChainInvalid"),
    "absent critical header": (lambda i: _plain(i, {2: [258]}), "UvmEndorsementMalformed"),
    "empty list of critical headers": (lambda i: _plain(i, {2: []}), "UvmEndorsementMalformed"),
    "critical headers as text": (lambda i: _plain(i, {2: "iss"}), "UvmEndorsementMalformed"),
    "member twice in the payload": (
        lambda i: _plain(i, payload=_payload().replace(b'{"x', b'{"x-ms-sevsnpvm-guestsvn": "1", "x', 1)),
        "UvmEndorsementMalformed",
    ),
    "critical header": (lambda i: _plain(i, {2: ["unknown"], "unknown": 1}), "UvmEndorsementMalformed"),
    "algorithm unknown": (lambda i: _plain(i, algorithm=-8), "UvmSignatureInvalid"),
    "algorithm of other family": (lambda i: _plain(i, algorithm=-7), "UvmSignatureInvalid"),
    "algorithm of other hash": (lambda i: _plain(i, algorithm=-37), "UvmSignatureInvalid"),
    "payload no json": (lambda i: _plain(i, payload=b"{"), "UvmEndorsementMalformed"),
    "payload no object": (lambda i: _plain(i, payload=b"[]"), "UvmEndorsementMalformed"),
    "measurement upper case": (lambda i: _plain(i, payload=_payload(MEASUREMENT.hex().upper())), "UvmEndorsementMalformed"),
    "measurement short": (lambda i: _plain(i, payload=_payload("00")), "UvmEndorsementMalformed"),
    "measurement other": (lambda i: _plain(i, payload=_payload("00" * 48)), "UvmMeasurementMismatch"),
    "svn not a number": (lambda i: _plain(i, payload=_payload(svn="1e3")), "UvmEndorsementMalformed"),
    "svn true": (lambda i: _plain(i, payload=_payload(svn=True)), "UvmEndorsementMalformed"),
    "svn negative": (lambda i: _plain(i, payload=_payload(svn=-1)), "UvmEndorsementMalformed"),
    "envelope with text payload": (lambda i: _envelope(i, payload=_payload()), "UvmEndorsementMalformed"),
    "envelope without hash": (lambda i: _envelope(i, {258: None}), "UvmEndorsementMalformed"),
    "envelope of a hash by name": (lambda i: _envelope(i, {258: "SHA-384"}), "UvmEndorsementMalformed"),
    "envelope without type": (lambda i: _envelope(i, {259: None}), "UvmEndorsementMalformed"),
    "envelope with old headers": (lambda i: _envelope(i, {"iss": i.did}), "UvmEndorsementMalformed"),
    "envelope svn as text": (lambda i: _envelope(i, svn="0x65"), "UvmEndorsementMalformed"),
    "envelope before its certificates": (lambda i: i.endorse_envelope(MEASUREMENT, 101, issued=1), "UvmEndorsementMalformed"),
    "old shape with claims": (lambda i: _plain(i, {15: {}}), "UvmEndorsementMalformed"),
    "untagged": (lambda i: cbor2.dumps(cbor2.loads(i.endorse(MEASUREMENT, 101)).value), "UvmEndorsementMalformed"),
    "tagged as CBOR": (lambda i: b"\xd9\xd9\xf7" + i.endorse(MEASUREMENT, 101), "UvmEndorsementMalformed"),
    "other tag": (lambda i: cbor2.dumps(cbor2.CBORTag(98, cbor2.loads(i.endorse(MEASUREMENT, 101)).value)), "UvmEndorsementMalformed"),
    "a byte behind it": (lambda i: i.endorse(MEASUREMENT, 101) + b"\0", "UvmEndorsementMalformed"),
    "header twice": (lambda i: _twice(i), "UvmEndorsementMalformed"),
    "empty": (lambda i: b"\xd2\x80", "UvmEndorsementMalformed"),
    "deeply nested": (lambda i: b"\xd2" + b"\x81" * 5000 + b"\x00", "UvmEndorsementMalformed"),
    "huge length": (lambda i: b"\xd2\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "UvmEndorsementMalformed"),
    "too long": (lambda i: i.endorse(MEASUREMENT, 101) + bytes(70_000), "UvmEndorsementMalformed"),
}


def _twice(issuer: EndorsementIssuer) -> bytes:
    """A protected header with two feeds, which parsers resolve differently."""
    protected, unprotected, payload, signature = cbor2.loads(issuer.endorse(MEASUREMENT, 101)).value
    header = cbor2.loads(protected)
    doubled = bytes((protected[0] + 1,)) + protected[1:] + cbor2.dumps("feed") + cbor2.dumps(UVM_FEED)
    assert len(header) == protected[0] & 0x1F
    return cbor2.dumps(cbor2.CBORTag(18, [doubled, unprotected, payload, signature]))


def _did_of_leaf(issuer: EndorsementIssuer) -> str:
    return replace(issuer, chain=(issuer.chain[1], issuer.chain[0])).did


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_endorsement_is_rejected_with_its_reason(hardware: DevelopmentHardware, issuer: EndorsementIssuer, name: str) -> None:
    forge, reason = FORGERIES[name]
    assert reasons(judge(hardware, issuer, forge(issuer)))[0] == reason


def test_payload_and_header_are_covered_by_the_signature(hardware: DevelopmentHardware, issuer: EndorsementIssuer) -> None:
    protected, unprotected, payload, signature = cbor2.loads(issuer.endorse(bytes(48), 101)).value
    swapped = cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, payload.replace(b"00" * 48, MEASUREMENT.hex().encode()), signature]))
    assert reasons(judge(hardware, issuer, swapped)) == ["UvmSignatureInvalid"]
    header = cbor2.loads(protected)
    raised = cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps(header | {"feed": UVM_FEED + "2"}), unprotected, payload, signature]))
    with pytest.raises(AttestationRejected, match="UvmSignatureInvalid"):
        verify_endorsement(raised)


def test_an_issuer_inside_the_chain_must_be_an_authority_for_its_depth(issuer: EndorsementIssuer) -> None:
    names = [each.public_bytes(serialization.Encoding.DER) for each in issuer.chain]
    with pytest.raises(AttestationRejected, match="UvmCertificateChainInvalid"):
        verify_endorsement(issuer.sign({33: names * 4, 3: "application/json", "iss": issuer.did, "feed": UVM_FEED}, _payload()))
