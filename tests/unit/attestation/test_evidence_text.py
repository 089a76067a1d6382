"""The texts in which evidence arrives: base64, endorsements, and JSON documents."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from cleanroom.attestation import AttestationEvidence, AttestationRejected, Reason, host_data_for, report_data_for
from cleanroom.attestation.documents import EvidenceDocument, read_cvm_document, read_document, standard_base64
from cleanroom.attestation.endorsements import MAX_ENDORSEMENTS, read_endorsements
from cleanroom.attestation.evidence import ALLOW_ALL_HOST_DATA, MAX_EVIDENCE_TEXT, decode_base64, strict_base64
from cleanroom.errors import CleanRoomError
from tests.unit.attestation.der import chain

# --- base64

BYTES = bytes(range(256))


@pytest.mark.parametrize("size", range(7))
def test_standard_base64_is_decoded_with_white_space(size: int) -> None:
    text = base64.b64encode(BYTES[:size])
    for shape in (text, text + b"\n", b" " + text, b"\n".join((text[:2], text[2:])), b"\t".join((text[:3], text[3:])), text + b"\r\n"):
        assert strict_base64(shape) == BYTES[:size]


@pytest.mark.parametrize(
    "text",
    [b"-_-_", b"AA-A", b"AA_A", b"+_+_", b"+-+-", b"AA", b"AAA", b"AA=", b"A", b"\\u0041AA", b"AA\\n", b'AA"A', b"%AAA", b"AA==AAAA"],
)
def test_other_forms_of_base64_are_errors(text: bytes) -> None:
    with pytest.raises(ValueError):
        strict_base64(text)


def test_text_has_a_limit() -> None:
    assert len(decode_base64("A" * MAX_EVIDENCE_TEXT, Reason.NONCE_MISMATCH, "nonce")) == MAX_EVIDENCE_TEXT // 4 * 3
    assert MAX_EVIDENCE_TEXT == 96 * 1024
    with pytest.raises(AttestationRejected) as caught:
        decode_base64("A" * (MAX_EVIDENCE_TEXT + 4), Reason.NONCE_MISMATCH, "nonce")
    assert (caught.value.reason, caught.value.actual) == (Reason.NONCE_MISMATCH, f"{MAX_EVIDENCE_TEXT + 4} characters")
    for text in ("é", "%", "\ud800"):
        with pytest.raises(AttestationRejected, match="NonceMismatch"):
            decode_base64(text, Reason.NONCE_MISMATCH, "nonce")


def test_bindings_are_digests_of_the_bytes() -> None:
    assert report_data_for(b"x") == hashlib.sha256(b"x").digest() + bytes(32)
    assert host_data_for(base64.b64encode(b"package policy").decode()) == hashlib.sha256(b"package policy").digest()
    with pytest.raises(ValueError):
        host_data_for("cGFja2FnZQ")
    assert frozenset({"73973b78d70cc68353426de188db5dfc57e5b766e399935fb73a61127ea26d20"}) == ALLOW_ALL_HOST_DATA


def test_digest_of_evidence_covers_every_member() -> None:
    evidence = AttestationEvidence.of(b"r", b"c", b"u", "é")
    text = '{"evidence":"cg==","endorsements":"Yw==","uvm_endorsements":"dQ==","endorsed_tcb":"é"}'
    assert evidence.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert AttestationEvidence.of(b"r", b"c").digest() == hashlib.sha256(b'{"evidence":"cg==","endorsements":"Yw=="}').hexdigest()
    assert evidence.model_copy(update={"endorsed_tcb": "\ud800"}).digest() != evidence.digest()


# --- endorsements

DERS = chain()


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


PEM = b"".join(map(pem, DERS))


def wrapped(data: bytes, times: int) -> bytes:
    return data if times == 0 else base64.b64encode(wrapped(data, times - 1))


@pytest.mark.parametrize(
    "form",
    [
        PEM,
        PEM.decode(),
        PEM.replace(b"-----\n-----", b"----------"),
        b"\xef\xbb\xbf" + PEM,
        b"".join(DERS),
        wrapped(PEM, 1),
        wrapped(PEM, 2),
        wrapped(b"".join(DERS), 1),
        wrapped(b"".join(DERS), 2),
        b" " + wrapped(PEM, 1) + b"\n",
        json.dumps({"vcekCert": pem(DERS[0]).decode(), "certificateChain": b"".join(map(pem, DERS[1:])).decode()}).encode(),
        b"\xef\xbb\xbf "
        + json.dumps({"vcekCert": pem(DERS[0]).decode(), "certificateChain": (pem(DERS[1]) + pem(DERS[2])).decode()}).encode(),
    ],
)
def test_certificates_are_read_in_their_order(form: bytes | str) -> None:
    assert read_endorsements(form) == DERS


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (b"", "hold no certificate"),
        (b"AAAA", "hold no certificate"),
        (wrapped(PEM, 3), "hold no certificate"),
        (b"x", "hold no certificate"),
        (PEM + b"-----BEGIN PRIVATE KEY-----", "a PEM block that is not a certificate"),
        (b"-----BEGIN PUBLIC KEY-----", "a PEM block that is not a certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "PEM certificate cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\n%-----END CERTIFICATE-----", "PEM certificate cannot be read"),
        (b"".join(DERS)[:-1], "DER certificate cannot be read"),
        (DERS[0] + b"\0" * 4, "DER certificate cannot be read"),
        (DERS[0] + b"\x30\x81" + bytes(200), "DER certificate cannot be read"),
        (b'{"vcekCert": ""}', "THIM certificate JSON cannot be read"),
        (b"{", "THIM certificate JSON cannot be read"),
    ],
)
def test_endorsements_without_certificates_are_rejected(form: bytes, words: str) -> None:
    with pytest.raises(AttestationRejected, match="CertificateChainMalformed") as caught:
        read_endorsements(form)
    assert words in caught.value.message


def test_endorsements_have_a_limit() -> None:
    assert MAX_ENDORSEMENTS == 64 * 1024
    assert read_endorsements(PEM.ljust(MAX_ENDORSEMENTS)) == DERS
    for form in (PEM.ljust(MAX_ENDORSEMENTS + 1), PEM.decode().ljust(MAX_ENDORSEMENTS + 1)):
        with pytest.raises(AttestationRejected) as caught:
            read_endorsements(form)
        assert caught.value.actual == f"{MAX_ENDORSEMENTS + 1} bytes"


# --- documents

EVIDENCE = {"evidence": "r", "endorsements": "c", "uvm_endorsements": "u", "endorsed_tcb": "t"}
SAMPLE = {"attestation": "r", "platformCertificates": "c", "uvmEndorsements": "u"}
FULL, PARTS = EvidenceDocument("r", "c", "u", "t"), EvidenceDocument("r", "c", "u")


def url(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def request(**changes: Any) -> dict[str, Any]:
    parts = {"SnpReport": "-_-_", "VcekCertChain": "__8", "Endorsements": url({"Uvm": ["-_8", "other"]})} | changes
    return {"report": url({name: value for name, value in parts.items() if value is not None})}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (EVIDENCE, FULL),
        ({"evidence": "r"}, EvidenceDocument("r")),
        ({"evidence": "r", "endorsements": "", "uvm_endorsements": None}, EvidenceDocument("r")),
        ({"attestation": EVIDENCE}, FULL),
        ({"evidence": 5, "raw": "r", "endorsements": "c"}, EvidenceDocument("r", "c")),
        (SAMPLE, PARTS),
        ({"attestation": "r"}, EvidenceDocument("r")),
        ({"report": SAMPLE}, PARTS),
        ({"snpCACI": SAMPLE}, PARTS),
        ({"report": {"snpCACI": SAMPLE}}, PARTS),
        ({"attestation": {"other": 1}, "report": SAMPLE}, PARTS),
        ({"report": "abcd"}, EvidenceDocument("abcd")),
        (request(), EvidenceDocument("+/+/", "//8=", "+/8=")),
        (request(VcekCertChain=None, Endorsements=None), EvidenceDocument("+/+/")),
        (request(VcekCertChain=""), EvidenceDocument("+/+/", None, "+/8=")),
        (request(Endorsements=url({"Uvm": []})), EvidenceDocument("+/+/", "//8=")),
        (request(Endorsements=url({"Uvm": "text"})), EvidenceDocument("+/+/", "//8=")),
        (request(Endorsements=url({"Uvm": [5]})), EvidenceDocument("+/+/", "//8=")),
        (request(Endorsements=url([])), EvidenceDocument("+/+/", "//8=")),
        ({"report": url({"other": 1})}, EvidenceDocument(url({"other": 1}))),
        ({"report": url({"SnpReport": 5})}, EvidenceDocument(url({"SnpReport": 5}))),
    ],
)
def test_evidence_is_found_in_every_form(document: object, found: EvidenceDocument) -> None:
    for text in (json.dumps(document).encode(), b"\xef\xbb\xbf" + json.dumps(document).encode()):
        assert read_document(text) == found


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        "text",
        {"evidence": 5},
        {"report": {"report": {"report": SAMPLE}}},
        {**EVIDENCE, "endorsements": 5},
        {**SAMPLE, "uvmEndorsements": []},
        {"report": "eyJ%"},
        {"report": "eyJh"},
        request(Endorsements="%%%%"),
        request(Endorsements=5),
        {"report": request()["report"][:8] + "%%%%" + request()["report"][8:]},
        request(Endorsements=url({"Uvm": []})[:4] + "%%%%" + url({"Uvm": []})[4:]),
    ],
)
def test_other_documents_are_malformed(document: object) -> None:
    with pytest.raises(CleanRoomError, match="EvidenceMalformed"):
        read_document(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_text_that_is_no_json_is_malformed(text: bytes) -> None:
    with pytest.raises(CleanRoomError, match="EvidenceMalformed"):
        read_document(text)
    assert read_cvm_document(text) is None


def test_base64url_and_missing_padding_become_standard() -> None:
    assert [standard_base64(text) for text in ("-_", "-_8", "-_8=", "a b\nc", "abcd", "")] == ["+/==", "+/8=", "+/8=", "abc=", "abcd", ""]


CVM = {
    "evidence": {"tpmQuote": "q", "hclReport": "h", "snpReport": "r", "pcrs": {"0": "p"}, "aikCert": "a"},
    "nonce": "n",
    "platformCertificates": "c",
}


@pytest.mark.parametrize("document", [CVM, {"attestation": CVM}, {"evidence": {"other": 1}, "attestation": CVM}])
def test_evidence_of_a_confidential_vm_is_found(document: object) -> None:
    found = read_cvm_document(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert found is not None
    assert found.model_dump(by_alias=True) == CVM


@pytest.mark.parametrize("document", [5, [], EVIDENCE, {"attestation": EVIDENCE}, {"evidence": {"hclReport": "h"}}, {"attestation": 5}])
def test_other_documents_hold_no_confidential_vm(document: object) -> None:
    assert read_cvm_document(json.dumps(document).encode()) is None


@pytest.mark.parametrize("member", ["nonce", "platformCertificates", "evidence"])
def test_incomplete_evidence_of_a_confidential_vm_is_malformed(member: str) -> None:
    document = {**CVM, "evidence": {"tpmQuote": "q"}} if member == "evidence" else {k: v for k, v in CVM.items() if k != member}
    with pytest.raises(CleanRoomError, match="EvidenceMalformed"):
        read_cvm_document(json.dumps(document).encode())
