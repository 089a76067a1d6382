"""Utility-VM endorsements built member by member: what is read, and which deviation is rejected for which reason."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cleanroom.attestation import AttestationRejected, Expectations, TrustStore, UvmIssuer, Verdict, Verifier
from cleanroom.attestation.didx509 import MAX_CHAIN, did_x509, load_chain, resolve
from cleanroom.attestation.uvm import MAX_ENDORSEMENT, UvmEndorsement, verify_endorsement
from tests.unit.attestation.conftest import reasons
from tests.unit.attestation.der import OTHER_KEY, RSA_KEY, chain, evidence, trust
from tests.unit.attestation.uvm_issuer import EC_KEY, EKU, END, FEED, LEAF, MEASUREMENT, ROOT, START, authority, ders, leaf, link, sign

DID = did_x509(ROOT, EKU)


def payload(**changes: Any) -> bytes:
    members = {"x-ms-sevsnpvm-guestsvn": "101", "x-ms-sevsnpvm-launchmeasurement": MEASUREMENT.hex()} | changes
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def info(header: dict[Any, Any] | None = None, content: bytes | None = None, **more: Any) -> bytes:
    """Return an endorsement of the shape reference-info."""
    return sign({3: "application/json", "iss": DID, "feed": FEED} | (header or {}), payload() if content is None else content, **more)


def envelope(header: dict[Any, Any] | None = None, content: bytes = MEASUREMENT, claims: dict[Any, Any] | None = None) -> bytes:
    """Return an endorsement of the shape hash-envelope."""
    members = {1: DID, 2: FEED, "svn": 101} | (claims or {})
    members = {label: value for label, value in members.items() if value is not None}
    return sign({15: members, 258: -43, 259: "application/octet-stream"} | (header or {}), content)


def rejected(data: bytes) -> tuple[str, str]:
    with pytest.raises(AttestationRejected) as caught:
        verify_endorsement(data)
    return caught.value.code, f"{caught.value.message} | {caught.value.actual}"


# --- shapes


def test_contents_of_both_shapes() -> None:
    for data, shape in ((info(), "reference-info"), (envelope(), "hash-envelope")):
        assert verify_endorsement(data) == UvmEndorsement(DID, FEED, 101, MEASUREMENT, shape)


@pytest.mark.parametrize(("svn", "read"), [("101", 101), (101, 101), (0, 0), ("0", 0), (2**63 - 1, 2**63 - 1), ("9" * 18, 10**18 - 1)])
def test_version_is_a_number_or_its_text(svn: object, read: int) -> None:
    assert verify_endorsement(info(content=payload(**{"x-ms-sevsnpvm-guestsvn": svn}))).svn == read
    assert verify_endorsement(envelope(claims={"svn": svn})).svn == read


@pytest.mark.parametrize("svn", [-1, 2**63, True, False, 1.5, "", "-1", "1.5", "9" * 19, "1\n", [], "٣"])
def test_other_versions_are_malformed(svn: object) -> None:
    for data in (info(content=payload(**{"x-ms-sevsnpvm-guestsvn": svn})), envelope(claims={"svn": svn})):
        code, words = rejected(data)
        assert (code, "security version number" in words) == ("UvmEndorsementMalformed", True)


@pytest.mark.parametrize("member", ["x-ms-sevsnpvm-guestsvn", "x-ms-sevsnpvm-launchmeasurement"])
def test_reference_info_needs_each_member_once(member: str) -> None:
    assert rejected(info(content=payload(**{member: None})))[0] == "UvmEndorsementMalformed"
    twice = payload().replace(b"{", b'{"%s": "1", ' % member.encode(), 1)
    assert rejected(info(content=twice))[0] == "UvmEndorsementMalformed"


@pytest.mark.parametrize("value", ["00" * 47, "00" * 49, "AB" * 48, 5, None, MEASUREMENT.hex() + "\n", "zz" * 48])
def test_measurement_is_96_lower_case_digits(value: object) -> None:
    content = json.dumps({"x-ms-sevsnpvm-guestsvn": "101", "x-ms-sevsnpvm-launchmeasurement": value}).encode()
    code, words = rejected(info(content=content))
    assert (code, "96 lower-case hex digits" in words) == ("UvmEndorsementMalformed", True)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({3: None}, "content type"),
        ({3: "text/plain"}, "content type"),
        ({"iss": None}, "'iss' is not text"),
        ({"iss": b"x"}, "'iss' is not text"),
        ({"feed": None}, "'feed' is not text"),
        ({"feed": 5}, "'feed' is not text"),
    ],
)
def test_headers_of_reference_info(header: dict[Any, Any], words: str) -> None:
    code, shown = rejected(info(header))
    assert (code, words in shown) == ("UvmEndorsementMalformed", True)


@pytest.mark.parametrize(
    ("header", "claims", "content", "words"),
    [
        ({15: []}, {}, MEASUREMENT, "CWT claims"),
        ({"iss": DID}, {}, MEASUREMENT, "CWT claims"),
        ({"feed": FEED}, {}, MEASUREMENT, "CWT claims"),
        ({258: None}, {}, MEASUREMENT, "hash algorithm"),
        ({258: True}, {}, MEASUREMENT, "hash algorithm"),
        ({258: "SHA-384"}, {}, MEASUREMENT, "hash algorithm"),
        ({259: None}, {}, MEASUREMENT, "hash algorithm"),
        ({259: "application/json"}, {}, MEASUREMENT, "hash algorithm"),
        ({}, {}, MEASUREMENT[:47], "47 bytes"),
        ({}, {}, MEASUREMENT + b"\0", "49 bytes"),
        ({}, {1: None}, MEASUREMENT, "1 is not text"),
        ({}, {2: None}, MEASUREMENT, "2 is not text"),
        ({}, {"svn": None}, MEASUREMENT, "hash envelope cannot be read"),
        ({}, {6: "yesterday"}, MEASUREMENT, "hash envelope cannot be read"),
        ({}, {6: 2**70}, MEASUREMENT, "hash envelope cannot be read"),
    ],
)
def test_members_of_a_hash_envelope(header: dict[Any, Any], claims: dict[Any, Any], content: bytes, words: str) -> None:
    code, shown = rejected(envelope(header, content, claims))
    assert (code, words in shown) == ("UvmEndorsementMalformed", True)


@pytest.mark.parametrize(
    ("at", "accepted"),
    [
        (START, True),
        (END, True),
        (START - timedelta(seconds=1), False),
        (END + timedelta(seconds=1), False),
        (datetime(2026, 6, 1, tzinfo=UTC), True),
    ],
)
def test_envelope_was_issued_while_every_certificate_was_valid(at: datetime, accepted: bool) -> None:
    for value in (int(at.timestamp()), at):
        data = envelope(claims={6: value})
        if accepted:
            assert verify_endorsement(data).svn == 101
        else:
            assert "outside the validity" in rejected(data)[1]


def test_certificate_that_began_later_than_the_others_limits_the_time() -> None:
    late = datetime(2026, 6, 1, tzinfo=UTC)
    for links in ((leaf(start=late), ROOT), (LEAF, authority(start=late))):
        did = did_x509(links[1], EKU)
        claims = {1: did, 2: FEED, "svn": 101, 6: int(START.timestamp()) + 1}
        data = sign({15: claims, 258: -43, 259: "application/octet-stream"}, MEASUREMENT, chain=links)
        assert "outside the validity" in rejected(data)[1]


# --- COSE


def parts(data: bytes | None = None) -> list[Any]:
    return list(cbor2.loads(info() if data is None else data).value)


def tagged(value: Any, tag: int = 18) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, value))


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def twice(protected: bytes) -> bytes:
    """Return a protected header with two feeds, which parsers resolve differently."""
    return bytes((protected[0] + 1,)) + protected[1:] + cbor2.dumps("feed") + cbor2.dumps(FEED)


def test_headers_may_be_nested_to_a_limit() -> None:
    protected, _, content, signature = parts()
    assert verify_endorsement(tagged([protected, {"x": nested(5)}, content, signature])).svn == 101


@pytest.mark.parametrize("did", [did_x509(LEAF, EKU), did_x509(ROOT, "1.2.3"), "did:web:example"], ids=["leaf", "other usage", "web"])
def test_identifier_must_be_that_of_the_chain(did: str) -> None:
    for data in (info({"iss": did}), envelope(claims={1: did})):
        assert rejected(data)[0] == "UvmIssuerNotTrusted"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "COSE_Sign1 cannot be read"),
        (tagged([parts()[0], {"x": nested(6)}, *parts()[2:]]), "COSE_Sign1 cannot be read"),
        (tagged([twice(parts()[0]), *parts()[1:]]), "COSE_Sign1 cannot be read"),
        (b"\xd2", "COSE_Sign1 cannot be read"),
        (cbor2.dumps(parts()), "not a COSE_Sign1 (CBOR tag 18)"),
        (tagged(parts(), 98), "not a COSE_Sign1 (CBOR tag 18)"),
        (b"\xd9\xd9\xf7" + info(), "not a COSE_Sign1 (CBOR tag 18)"),
        (b"\xd8\x12" + info()[1:], "not a COSE_Sign1 (CBOR tag 18)"),
        (tagged(5), "not a COSE_Sign1 (CBOR tag 18)"),
        (info() + b"\0", "COSE_Sign1 cannot be read"),
        (tagged(parts()[:3]), "3 elements"),
        (tagged([*parts(), b""]), "5 elements"),
        (tagged([5, *parts()[1:]]), "is not [protected"),
        (tagged([parts()[0], b"", *parts()[2:]]), "is not [protected"),
        (tagged([*parts()[:2], None, parts()[3]]), "is not [protected"),
        (tagged([*parts()[:3], "x"]), "is not [protected"),
        (tagged([cbor2.dumps([]), *parts()[1:]]), "protected header is not a map"),
        (tagged([parts()[0] + b"\0", *parts()[1:]]), "COSE_Sign1 cannot be read"),
        (tagged([b"", *parts()[1:]]), "COSE_Sign1 cannot be read"),
    ],
)
def test_message_that_is_no_cose_sign1_is_malformed(data: bytes, words: str) -> None:
    code, shown = rejected(data)
    assert (code, words in shown) == ("UvmEndorsementMalformed", True), shown


def test_endorsement_has_a_limit() -> None:
    assert MAX_ENDORSEMENT == 64 * 1024
    for size, words in ((MAX_ENDORSEMENT, "cannot be read"), (MAX_ENDORSEMENT + 1, f"{MAX_ENDORSEMENT + 1} bytes")):
        assert words in rejected(info().ljust(size, b"\0"))[1]


@pytest.mark.parametrize(
    ("critical", "words"),
    [
        ([1, 3, 33], None),
        ([15], "unknown or absent"),
        ([34], "unknown or absent"),
        (["iss"], "unknown or absent"),
        ([99], "unknown or absent"),
        ([1, 99], "unknown or absent"),
        ([], "not a list"),
        ("iss", "not a list"),
        (b"\1", "not a list"),
        (1, "not a list"),
    ],
)
def test_critical_headers_must_be_understood_and_present(critical: object, words: str | None) -> None:
    data = info({2: critical, 99: 1})
    if words is None:
        assert verify_endorsement(data).svn == 101
    else:
        code, shown = rejected(data)
        assert (code, words in shown) == ("UvmEndorsementMalformed", True)


@pytest.mark.parametrize("label", [1, 3, 15, 33, 34, 258, 259])
def test_every_header_that_is_read_may_be_critical(label: int) -> None:
    thumbprint = [-16, hashlib.sha256(ders(LEAF)[0]).digest()]
    data = info({2: [label], 34: thumbprint}) if label in (3, 34) else envelope({2: [label]})
    assert verify_endorsement(data).svn == 101


@pytest.mark.parametrize("value", [None, [], ["x"], [ders(LEAF)[0], "x"], "x", 5, {}])
def test_chain_must_be_in_the_protected_header(value: object) -> None:
    code, shown = rejected(info({33: value}))
    assert (code, "x5chain" in shown) == ("UvmEndorsementMalformed", True)


def test_single_certificate_is_a_chain_of_one() -> None:
    code, shown = rejected(info({33: ders(ROOT)[0]}))
    assert (code, shown.endswith("| 1 certificates")) == ("UvmCertificateChainInvalid", True)


@pytest.mark.parametrize(("algorithm", "hasher"), [(-16, hashlib.sha256), (-43, hashlib.sha384), (-44, hashlib.sha512)])
def test_thumbprint_is_a_hash_of_the_leaf(algorithm: int, hasher: Any) -> None:
    first, root = ders(LEAF, ROOT)
    assert verify_endorsement(info({34: [algorithm, hasher(first).digest()]})).svn == 101
    for value in (
        [algorithm, hasher(root).digest()],
        [-15, hasher(first).digest()],
        [str(algorithm), hasher(first).digest()],
        [True, hasher(first).digest()],
        [[algorithm], hasher(first).digest()],
        [algorithm, hasher(first).digest(), 0],
        [algorithm],
        hasher(first).digest(),
        None if algorithm == 0 else 5,
    ):
        code, shown = rejected(info({34: value}))
        assert (code, "x5t" in shown) == ("UvmCertificateChainInvalid", True)


# --- signatures


@pytest.mark.parametrize("algorithm", [-37, -38, -39, -257, -258, -259])
def test_rsa_signatures(algorithm: int) -> None:
    assert verify_endorsement(info(algorithm=algorithm)).svn == 101
    code, shown = rejected(info(algorithm=algorithm, key=RSA_KEY))
    assert (code, "does not verify" in shown) == ("UvmSignatureInvalid", True)


@pytest.mark.parametrize("algorithm", [-7, -35, -36])
def test_elliptic_signatures(algorithm: int) -> None:
    links = (leaf(key=EC_KEY), ROOT)
    good = info(algorithm=algorithm, key=EC_KEY, chain=links)
    assert verify_endorsement(good).svn == 101
    other = ec.generate_private_key(ec.SECP384R1())
    protected, unprotected, content, signature = parts(good)
    for data in (
        info(algorithm=algorithm, key=other, chain=links),
        tagged([protected, unprotected, content, signature[:-1]]),
        tagged([protected, unprotected, content, signature + b"\0"]),
        tagged([protected, unprotected, content, signature[:48] + b"\0" + signature[48:]]),  # the same numbers
        tagged([protected, unprotected, content, signature[48:] + signature[:48]]),
        tagged([protected, unprotected, content, b""]),
    ):
        code, shown = rejected(data)
        assert (code, "does not verify" in shown) == ("UvmSignatureInvalid", True)


@pytest.mark.parametrize("algorithm", [None, "PS256", -8, 0, 37, -37.0])
def test_other_algorithms_are_rejected(algorithm: object) -> None:
    code, shown = rejected(info(algorithm=algorithm))
    assert (code, "not supported" in shown) == ("UvmSignatureInvalid", True)


def test_algorithm_must_be_one_for_the_leafs_key() -> None:
    assert "PS with" in rejected(info(algorithm=-37, key=EC_KEY, chain=(leaf(key=EC_KEY), ROOT)))[1]
    assert "RS with" in rejected(info(algorithm=-257, key=EC_KEY, chain=(leaf(key=EC_KEY), ROOT)))[1]
    assert "ES with" in rejected(info(algorithm=-7))[1]


def test_signature_covers_header_and_payload() -> None:
    protected, unprotected, content, signature = parts()
    raised = protected.replace(FEED.encode(), FEED.encode()[::-1])
    for data in ([raised, unprotected, content, signature], [protected, unprotected, content.replace(b"101", b"102"), signature]):
        assert rejected(tagged(data))[0] == "UvmSignatureInvalid"
    assert verify_endorsement(tagged([protected, {"timestamp": b"x"}, content, signature])).svn == 101


# --- chains


def loaded(*links: x509.Certificate) -> str:
    try:
        load_chain(ders(*links))
    except AttestationRejected as error:
        return f"{error.code}: {error.message} | {error.actual}"
    return ""


def authorities(count: int, *, path: int | None = None) -> list[x509.Certificate]:
    """Return a leaf below ``count`` authorities; the last one is self-signed."""
    names = [*(f"a{number}" for number in range(count - 1)), "root"]
    links = [authority(name, issuer=above, path=path) for name, above in zip(names, [*names[1:], "root"], strict=True)]
    return [leaf(issuer=names[0]), *links]


@pytest.mark.parametrize(("count", "accepted"), [(0, False), (1, True), (2, True), (5, True), (6, False)])
def test_chain_has_two_to_six_certificates(count: int, accepted: bool) -> None:
    assert MAX_CHAIN == 6
    links = authorities(count) if count else [LEAF]
    words = f"UvmCertificateChainInvalid: The endorsement carries {len(links)} certificates; 2 to 6 are accepted."
    assert loaded(*links) == ("" if accepted else f"{words} | {len(links)} certificates")


def test_every_link_must_be_signed_by_the_next_one() -> None:
    stranger = link("root", OTHER_KEY, "root", OTHER_KEY, x509.BasicConstraints(True, None))
    assert "certificate 0 of 2" in loaded(LEAF, stranger)
    first, middle, root = authorities(2)
    assert "certificate 1 of 3" in loaded(first, middle, stranger)
    assert "certificate 1 of 2" in loaded(first, middle)  # the last one is not self-signed
    assert "certificate 0 of 3" in loaded(leaf(), middle, root)  # issued by another name
    assert "certificate" in loaded(root, middle, first)


def test_issuers_must_be_authorities_for_their_depth() -> None:
    no_authority = link("root", RSA_KEY, "root", RSA_KEY, x509.BasicConstraints(False, None))
    assert "not a CA" in loaded(LEAF, no_authority)
    nothing = link("root", RSA_KEY, "root", RSA_KEY)
    assert "cannot be read" in loaded(LEAF, nothing)
    first, _, root = authorities(2)
    assert "not a CA" in loaded(first, link("a0", RSA_KEY, "root", RSA_KEY, x509.BasicConstraints(False, None)), root)
    for path, accepted in ((0, False), (1, True), (None, True)):
        assert (loaded(first, authority("a0", issuer="root", path=0), authority(path=path)) == "") is accepted
    assert loaded(LEAF, authority(path=0)) == ""


def usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, sign_certificates, True, False, False)


def test_issuer_that_restricts_its_key_must_allow_signing_certificates() -> None:
    assert loaded(LEAF, authority("root", usage(sign_certificates=True))) == ""
    assert "keyCertSign" in loaded(LEAF, authority("root", usage(sign_certificates=False)))


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_links_have_a_strong_hash(digest: hashes.HashAlgorithm) -> None:
    assert loaded(leaf(digest=digest), authority(digest=digest)) == ""
    weak = hashes.SHA224()
    assert "weak hash" in loaded(leaf(digest=weak), ROOT)
    assert "weak hash" in loaded(LEAF, authority(digest=weak))


def test_certificates_that_cannot_be_parsed_are_rejected() -> None:
    with pytest.raises(AttestationRejected, match="UvmCertificateChainInvalid"):
        load_chain([b"x", *ders(ROOT)])


# --- did:x509


def resolved(did: str, *links: x509.Certificate) -> str:
    try:
        resolve(did, links or (LEAF, ROOT))
    except AttestationRejected as error:
        return f"{error.code}: {error.message}"
    return ""


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_identifier_names_an_authority_of_the_chain_and_a_usage_of_the_leaf(algorithm: str) -> None:
    from cleanroom.jose.encoding import b64url

    first, root = ders(LEAF, ROOT)
    good = f"did:x509:0:{algorithm}:{b64url(hashlib.new(algorithm, root).digest())}"
    assert resolved(f"{good}::eku:{EKU}") == ""
    assert resolved(f"{good}::eku:{EKU}::eku:{EKU}") == ""
    own = f"did:x509:0:{algorithm}:{b64url(hashlib.new(algorithm, first).digest())}"
    assert "No authority" in resolved(f"{own}::eku:{EKU}")
    for wrong in (
        f"{good}::eku:1.2.3",
        f"{good}::subject:{EKU}",
        f"{good}::eku:{EKU}::eku:1.2.3",
        f"{good}::eku:1.2.3::eku:{EKU}",
        f"{good}::eku:",
    ):
        assert resolved(wrong).startswith("UvmIssuerNotTrusted: The endorsement's leaf does not satisfy")


@pytest.mark.parametrize(
    "did",
    [
        "did:web:example",
        f"did:x509:1:{DID.split(':', 3)[3]}",
        f"x{DID}",
        DID.removeprefix("did:x509:0:"),
        DID.replace("sha256", "sha1"),
        DID.replace("sha256", "md5"),
        DID.split("::")[0],
        f"did:x509:0:sha256:::eku:{EKU}",
        "",
    ],
    ids=["web", "version", "prefix", "suffix", "sha1", "md5", "no usage", "no fingerprint", "empty"],
)
def test_other_identifiers_are_not_trusted(did: str) -> None:
    assert resolved(did).startswith("UvmIssuerNotTrusted: The issuer is not a did:x509 of version 0 with a predicate")


def test_any_authority_of_a_chain_may_be_named() -> None:
    links = authorities(3)
    for each in links[1:]:
        assert resolved(did_x509(each, EKU), *links) == ""
    assert "No authority" in resolved(did_x509(links[0], EKU), *links)


def test_leaf_without_usages_satisfies_nothing() -> None:
    assert "does not satisfy" in resolved(DID, link("leaf", OTHER_KEY, "root", RSA_KEY), ROOT)
    assert resolved(DID, leaf("1.2.3", EKU), ROOT) == ""


# --- in a verdict

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def judge(
    uvm: bytes | None, *rows: UvmIssuer, measurement: bytes = MEASUREMENT, verifier: Verifier | None = None, **expected: Any
) -> Verdict:
    verifier = verifier or Verifier(TrustStore(trust().roots, rows))
    given = evidence(measurement=measurement).of(b"", b"", uvm)
    report = evidence(chain(), measurement=measurement).model_copy(update={"uvm_endorsements": given.uvm_endorsements})
    return verifier.verify(report, expectations=Expectations(**expected), at=AT)


def row(**changes: Any) -> UvmIssuer:
    return UvmIssuer(**({"issuer": DID, "feed": FEED, "minimum_svn": 101} | changes))


def test_endorsement_of_a_trusted_issuer_for_this_measurement_is_accepted() -> None:
    verdict = judge(info(), row())
    assert verdict.ok
    assert not verdict.development
    shown = {check.id: check.actual for check in verdict.checks if check.id.startswith("uvm")}
    assert shown == {
        "uvm-endorsement": f"{FEED} svn 101 (reference-info)",
        "uvm-issuer": f"{FEED} by {DID}",
        "uvm-svn": "101",
        "uvm-measurement": MEASUREMENT.hex(),
    }
    assert judge(info(), row(development=True)).development
    oldest = info(content=payload(**{"x-ms-sevsnpvm-guestsvn": 0}))
    assert judge(oldest, row(minimum_svn=0)).ok


@pytest.mark.parametrize(
    ("rows", "expected", "failing"),
    [
        ((), {}, ["UvmIssuerNotTrusted"]),
        ((row(feed="other"), row(issuer="other")), {}, ["UvmIssuerNotTrusted"]),
        ((row(minimum_svn=102),), {}, ["UvmSvnTooOld"]),
        ((row(),), {"minimum_uvm_svn": 101}, []),
        ((row(),), {"minimum_uvm_svn": 102}, ["UvmSvnTooOld"]),
        ((row(minimum_svn=102),), {"minimum_uvm_svn": 1}, ["UvmSvnTooOld"]),
        ((row(feed="other"), row()), {}, []),
    ],
)
def test_issuer_feed_and_version(rows: tuple[UvmIssuer, ...], expected: dict[str, int], failing: list[str]) -> None:
    assert reasons(judge(info(), *rows, **expected)) == failing


def test_texts_of_an_unknown_issuer_are_cut_and_do_not_mark_the_verdict() -> None:
    feed = "f" * 300
    verdict = judge(info({"feed": feed}), row(development=True))
    assert not verdict.development
    shown = {check.id: check.actual for check in verdict.checks}
    assert shown["uvm-endorsement"] == f"{feed[:200]} svn 101 (reference-info)"
    assert shown["uvm-issuer"] == f"{feed[:200]} by {DID}"
    assert not judge(b"x", row(development=True)).development


def test_measurement_must_be_the_reports() -> None:
    assert reasons(judge(info(), row(), measurement=bytes(48))) == ["UvmMeasurementMismatch"]
    # All rules of an endorsement are judged, so an old one of another machine shows both.
    assert reasons(judge(info(), row(minimum_svn=102), measurement=bytes(48))) == ["UvmSvnTooOld", "UvmMeasurementMismatch"]


def test_absent_endorsement_is_accepted_only_if_none_is_required() -> None:
    assert judge(None, row()).ok
    assert reasons(judge(None, row(), require_uvm=True)) == ["UvmEndorsementMissing"]
    assert reasons(judge(b"", row(), require_uvm=True)) == ["UvmEndorsementMissing"]
    assert judge(info(), row(), require_uvm=True).ok


def test_endorsement_that_was_rejected_is_rejected_again_and_an_accepted_one_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def verify(data: bytes) -> UvmEndorsement:
        read.append(data)
        return verify_endorsement(data)

    monkeypatch.setattr("cleanroom.attestation.verify.verify_endorsement", verify)
    verifier, good, bad = Verifier(TrustStore(trust().roots, [row()])), info(), info(key=RSA_KEY)
    for _ in range(2):
        assert judge(good, verifier=verifier).ok
        assert reasons(judge(bad, verifier=verifier)) == ["UvmSignatureInvalid"]
        assert reasons(judge(b"x", verifier=verifier)) == ["UvmEndorsementMalformed"]
    assert read == [good, bad, b"x", bad, b"x"]
