"""The trusted roots and endorsement issuers, and the files that add development ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cleanroom.attestation import ACI_UVM, AKS_UVM, Expectations, Product, TrustedRoot, TrustStore, UvmIssuer, Verifier
from cleanroom.attestation.amd_certificate import AmdCertificate
from cleanroom.attestation.trust import AMD_ROOTS, TRUST_FILE_FORMAT, spki_sha256, trust_file_text
from cleanroom.errors import CleanRoomError
from tests.unit.attestation.der import RSA_KEY, certificate, evidence, spki, trust

ONE, TWO = "ab" * 32, "cd" * 32
ROOT = TrustedRoot(spki_sha256=ONE, product=Product.GENOA)
ISSUER = UvmIssuer(issuer="did:x509:x", feed="f", minimum_svn=3)


def test_amds_roots_and_the_issuer_of_container_instances_are_pinned() -> None:
    store = TrustStore.amd()
    assert [(root.product, root.spki_sha256, root.development) for root in store.roots] == [
        ("Milan", "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9", False),
        ("Genoa", "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831", False),
        ("Turin", "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08", False),
    ]
    microsoft = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1"
    assert store.uvm == (UvmIssuer(issuer=f"{microsoft}.2", feed="ContainerPlat-AMD-UVM", minimum_svn=100),)
    assert UvmIssuer(issuer=f"{microsoft}.5", feed="ConfAKS-AMD-UVM", minimum_svn=1) == AKS_UVM
    assert TrustStore.load() == store
    assert TrustStore.load(amd=False) == TrustStore([])
    assert TrustStore.load(uvm_rows=[AKS_UVM]).uvm == (ACI_UVM, AKS_UVM)


def test_roots_are_found_by_their_key_and_rows_by_issuer_and_feed() -> None:
    other = ROOT.model_copy(update={"spki_sha256": TWO})
    store = TrustStore([ROOT, other], [ISSUER])
    assert (store.root(ONE), store.root(TWO), store.root("ef" * 32)) == (ROOT, other, None)
    assert store.uvm_issuer("did:x509:x", "f") == ISSUER
    assert [store.uvm_issuer("did:x509:x", "g"), store.uvm_issuer("did:x509:y", "f")] == [None, None]


def test_first_entry_of_a_key_wins() -> None:
    again = ROOT.model_copy(update={"product": Product.TURIN, "development": True})
    assert TrustStore([ROOT, again]).roots == (ROOT,)
    assert TrustStore([ROOT]) == TrustStore([ROOT, again])


@pytest.mark.parametrize("value", ["", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n"])
def test_fingerprint_is_64_hex_digits(value: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        TrustedRoot(spki_sha256=value, product=Product.MILAN)
    assert TrustedRoot(spki_sha256="AB" * 32, product=Product.GENOA) == ROOT


# --- trust files


def load(path: Path, **options: Any) -> TrustStore:
    return TrustStore.load(amd=False, root_files=[path], **options)


def invalid(path: Path) -> str:
    with pytest.raises(CleanRoomError) as caught:
        load(path)
    assert caught.value.code == "TrustFileInvalid"
    return str(caught.value.cause)


def test_contents_of_a_file_are_development_whatever_it_says(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text(trust_file_text([ROOT], [ISSUER], note="n"))
    assert json.loads(file.read_text())["note"] == "n"
    development = {"development": True}
    store = load(file)
    assert store == TrustStore([ROOT.model_copy(update=development)], [ISSUER.model_copy(update=development)])
    assert load(file, uvm_rows=[ACI_UVM]).uvm[-1] == ACI_UVM
    file.write_text(" \n" + file.read_text())
    assert load(file) == store


def test_file_cannot_change_a_genuine_root(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text(trust_file_text([AMD_ROOTS[0].model_copy(update={"product": Product.TURIN})], []))
    assert TrustStore.load(root_files=[file]).roots == AMD_ROOTS


def test_every_file_is_read(tmp_path: Path) -> None:
    files = []
    for number, root in enumerate((ONE, TWO)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(trust_file_text([ROOT.model_copy(update={"spki_sha256": root})], []))
    assert [root.spki_sha256 for root in TrustStore.load(amd=False, root_files=files).roots] == [ONE, TWO]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", "validation error"),
        ("{}", "format"),
        (json.dumps({"format": "other"}), "format is 'other'"),
        (json.dumps({"format": TRUST_FILE_FORMAT, "roots": [{"spki_sha256": "x", "product": "Milan"}]}), "SHA-256"),
        (json.dumps({"format": TRUST_FILE_FORMAT, "roots": [{"spki_sha256": ONE, "product": "Naples"}]}), "product"),
        (json.dumps({"format": TRUST_FILE_FORMAT, "more": 1}), "more"),
        ("[" * 100_000, "recursion"),
        ("-----BEGIN CERTIFICATE-----\n", ""),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ""),
    ],
)
def test_other_files_are_invalid(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "trust"
    file.write_text(text)
    assert words in invalid(file)


def test_json_that_mentions_a_certificate_is_json(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text(trust_file_text([ROOT], [], note="-----BEGIN CERTIFICATE-----"))
    assert len(load(file).roots) == 1


def test_file_that_is_absent_or_unreadable(tmp_path: Path) -> None:
    with pytest.raises(CleanRoomError, match="TrustFileNotFound"):
        load(tmp_path / "missing")
    with pytest.raises(CleanRoomError, match="TrustFileInvalid") as caught:
        load(tmp_path)
    assert "directory" in str(caught.value.cause).lower()


def root_certificate(*names: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(RSA_KEY.public_key()).serial_number(1)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    return builder.sign(RSA_KEY, hashes.SHA384()).public_bytes(Encoding.PEM)


def test_certificates_named_after_a_product_are_roots(tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(root_certificate("ARK-Milan", "other"))
    (root,) = load(file).roots
    key = AmdCertificate(certificate(key=spki(RSA_KEY))).key_sha256
    assert root == TrustedRoot(spki_sha256=key, product=Product.MILAN, development=True)
    assert spki_sha256(x509.load_pem_x509_certificate(file.read_bytes())) == key
    # Evidence under such a root is marked.
    verdict = Verifier(load(file)).verify(evidence(), expectations=Expectations(), at=datetime(2026, 11, 23, tzinfo=UTC))
    assert (verdict.ok, verdict.development) == (True, True)
    genuine = Verifier(trust()).verify(evidence(), expectations=Expectations(), at=datetime(2026, 11, 23, tzinfo=UTC))
    assert not genuine.development


@pytest.mark.parametrize("names", [("ARK-Naples",), ("Milan",), ("SEV-Milan",), ("other", "ARK-Milan"), ()])
def test_certificate_with_another_name_is_no_root(tmp_path: Path, names: tuple[str, ...]) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(root_certificate("ARK-Milan") + root_certificate(*names))
    assert f"the certificate is named {(names[0] if names else '')!r}" in invalid(file)
