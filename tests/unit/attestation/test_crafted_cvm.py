"""Evidence of a confidential VM built byte by byte: the HCL report, the runtime claims, the TPM quote and its PCR values."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from cleanroom.attestation import AttestationRejected, CvmEvidence, CvmVerdict, Expectations, report_data_for, verify_cvm_evidence
from cleanroom.attestation.cvm import CLEAN_ROOM_NONCE, CvmParts
from cleanroom.attestation.endorsements import MAX_ENDORSEMENTS
from cleanroom.attestation.tpm import Quote, parse_quote, pcr_digest_of, quote_signed_by
from cleanroom.jose.encoding import b64uint
from tests.unit.attestation.conftest import reasons
from tests.unit.attestation.der import OTHER_KEY, RSA_KEY, chain, evidence, trust

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
NONCE, USER_DATA = b"fresh nonce", report_data_for(b"key")
PCRS = {index: hashlib.sha256(b"%d" % index).digest() for index in range(24)}
TRUST = trust()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def jwk(**changes: Any) -> dict[str, Any]:
    numbers = OTHER_KEY.public_key().public_numbers()
    return {"kid": "HCLAkPub", "kty": "RSA", "e": b64uint(numbers.e), "n": b64uint(numbers.n)} | changes


def claims(*keys: Mapping[str, Any], **members: Any) -> bytes:
    return json.dumps({"keys": list(keys or (jwk(),)), "user-data": USER_DATA.hex().upper()} | members).encode()


def hcl(
    text: bytes | None = None, *, magic: bytes = b"HCLA", kind: int = 2, size: int | None = None, rest: bytes = b"\0" * 9, **report: Any
) -> bytes:
    """Return an HCL report; ``size`` is the stated size of the claims."""
    text = claims() if text is None else text
    values = {"report_data": report_data_for(text)} | report
    inner = base64.b64decode(evidence(chain(), **values).evidence)
    runtime = struct.pack("<5I", 0, 1, kind, 1, len(text) if size is None else size)
    return magic + bytes(28) + inner + runtime + text + rest


def attest(
    selected: Mapping[int, bytes] | None = None,
    *,
    magic: int = 0xFF544347,
    kind: int = 0x8018,
    banks: int = 1,
    bank: int = 0x000B,
    nonce: bytes = NONCE,
    bitmap: bytes | None = None,
    rest: bytes = b"",
) -> bytes:
    """Return the signed part of a quote."""
    pcrs = PCRS if selected is None else selected
    if bitmap is None:
        bitmap = sum(1 << index for index in pcrs).to_bytes(3, "little")
    digest = hashlib.sha256(b"".join(value for _, value in sorted(pcrs.items()))).digest()
    head = struct.pack(">IH", magic, kind) + sized(b"signer") + sized(nonce) + bytes(25)
    return head + struct.pack(">IHB", banks, bank, len(bitmap)) + bitmap + sized(digest) + rest


def quote(body: bytes | None = None, *, key: Any = OTHER_KEY, algorithms: tuple[int, int] = (0x0014, 0x000B), rest: bytes = b"") -> bytes:
    body = attest() if body is None else body
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    return sized(body) + struct.pack(">HH", *algorithms) + sized(signature) + rest


def given(blob: bytes | None = None, quoted: bytes | None = None, pcrs: Mapping[str, str] | None = None, **changes: Any) -> CvmEvidence:
    blob = hcl() if blob is None else blob
    parts = CvmParts(
        tpm_quote=b64(quote() if quoted is None else quoted),
        hcl_report=b64(blob),
        snp_report=changes.pop("snp_report", b64(blob[32:1216])),
        pcrs={str(index): b64(value) for index, value in PCRS.items()} if pcrs is None else pcrs,
    )
    certificates = base64.b64encode(b"".join(chain())).decode()
    return CvmEvidence(**({"evidence": parts, "nonce": b64(NONCE), "platform_certificates": certificates} | changes))


def judge(
    cvm: CvmEvidence | None = None, *, nonce: bytes | None = NONCE, user_data: bytes | None = USER_DATA, **expected: Any
) -> CvmVerdict:
    cvm = given() if cvm is None else cvm
    return verify_cvm_evidence(cvm, trust=TRUST, expectations=Expectations(**expected), at=AT, nonce=nonce, user_data=user_data)


def failing(verdict: CvmVerdict) -> list[str]:
    failures = reasons(verdict.verdict)
    assert (verdict.ok, verdict.verdict.ok) == (not failures, not failures)
    if failures:
        assert (verdict.pcrs, verdict.runtime_claims) == ({}, {})
    return failures


def test_complete_evidence_is_accepted_with_its_contents() -> None:
    verdict = judge()
    assert failing(verdict) == []
    assert (verdict.verdict.product, verdict.verdict.version) == ("Milan", 3)
    assert verdict.verdict.require().report_data == report_data_for(claims())
    assert verdict.pcrs == {index: value.hex() for index, value in PCRS.items()}
    assert verdict.runtime_claims == json.loads(claims())
    shown = {check.id: check.actual for check in verdict.verdict.checks}
    own = ["hcl-report", "runtime-claims", "tpm-quote", "tpm-quote-signature", "nonce", "pcr-digest", "user-data"]
    assert [name for name in shown if name in own] == own
    assert shown["hcl-report"] == f"{len(claims())} bytes of runtime claims"
    assert shown["runtime-claims"] == "RSA-2048 HCLAkPub"
    assert shown["tpm-quote"] == f"PCRs {list(range(24))}"
    assert hashlib.sha256(b"azure-cleanroom").digest() == CLEAN_ROOM_NONCE


# --- the HCL report


@pytest.mark.parametrize(
    ("blob", "accepted"),
    [
        (hcl(rest=b""), True),
        (hcl(magic=b"HCLX"), False),
        (hcl(kind=1), False),
        (hcl(kind=3), False),
        (hcl(size=len(claims()) + 1, rest=b""), False),
        (hcl()[:1235], False),
        (b"", False),
        (b"HCLA", False),
    ],
)
def test_hcl_report(blob: bytes, accepted: bool) -> None:
    assert failing(judge(given(blob))) == ([] if accepted else ["HclReportMalformed"])


def test_hcl_report_may_end_after_empty_claims() -> None:
    assert failing(judge(given(hcl(b"", rest=b"")))) == ["RuntimeClaimsMalformed"]


def test_claims_of_another_size_are_not_those_of_the_report() -> None:
    assert failing(judge(given(hcl(size=len(claims()) - 1)))) == ["ReportDataMismatch"]
    assert failing(judge(given(hcl(report_data=bytes(64))))) == ["ReportDataMismatch"]


def test_both_copies_of_the_report_must_be_equal() -> None:
    verdict = judge(given(snp_report=b64(hcl()[32:1216])))
    assert failing(verdict) == ["HclReportMalformed"]
    (check,) = verdict.verdict.failures
    assert (len(check.expected), len(check.actual)) == (64, 64)
    assert check.expected != check.actual
    assert failing(judge(given(snp_report="%"))) == ["ReportMalformed"]


def test_verdict_without_a_report_is_not_ok() -> None:
    verdict = judge(given(b"")).verdict
    assert (verdict.ok, verdict.report, verdict.product, verdict.version, verdict.at) == (False, None, None, None, AT)
    assert [check.id for check in verdict.checks] == ["hcl-report"]


# --- the SNP report


@pytest.mark.parametrize(
    ("report", "expected", "failed"),
    [
        ({"host_data": b"\1" * 32}, {}, ["HostDataMismatch"]),
        ({"host_data": b"\1" * 32}, {"host_data": {"01" * 32}}, []),
        ({}, {"host_data": {"01" * 32}}, ["HostDataMismatch"]),
        ({"vmpl": 1}, {}, ["VmplMismatch"]),
        ({"vmpl": 1}, {"vmpl": 1}, ["VmplMismatch"]),
        ({"vmpl": 1}, {"vmpl": None}, ["VmplMismatch"]),
        ({}, {"vmpl": 2, "report_data": bytes(64)}, []),
        ({}, {"minimum_guest_svn": 3}, ["GuestSvnTooOld"]),
        ({"policy": 0x3001F | 1 << 19}, {}, ["TeeDebugModeEnabled"]),
    ],
)
def test_report_is_the_paravisors_and_meets_the_expectations(report: dict[str, Any], expected: dict[str, Any], failed: list[str]) -> None:
    verdict = judge(given(hcl(**report)), **expected)
    assert failing(verdict) == failed
    if failed:  # nothing of the guest is judged after a report that does not hold
        assert "runtime-claims" not in [check.id for check in verdict.verdict.checks]


def test_certificates_have_the_limit_of_endorsements() -> None:
    good = given().platform_certificates
    assert failing(judge(given(platform_certificates=good.ljust(MAX_ENDORSEMENTS)))) == []
    verdict = judge(given(platform_certificates=good.ljust(MAX_ENDORSEMENTS + 1)))
    assert failing(verdict) == ["CertificateChainMalformed"]
    assert verdict.verdict.failures[0].actual == f"{MAX_ENDORSEMENTS + 1} bytes"
    assert failing(judge(given(platform_certificates="\ud800"))) == ["CertificateChainMalformed"]


# --- the runtime claims


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        claims(jwk(kid="other")),
        claims(jwk(kty="EC")),
        claims(jwk(), jwk()),
        claims({"kid": "HCLAkPub", "kty": "RSA"}),
        claims(jwk(e="AA")),
        claims(jwk(n=5)),
        b'{"keys": []}',
    ],
)
def test_claims_without_exactly_one_attestation_key_are_malformed(text: bytes) -> None:
    assert failing(judge(given(hcl(text)))) == ["RuntimeClaimsMalformed"]


def test_other_keys_of_the_claims_are_ignored() -> None:
    assert failing(judge(given(hcl(claims(jwk(kid="HCLEkPub", n="AA"), jwk(kty="EC"), jwk()))))) == []


@pytest.mark.parametrize(
    ("members", "user_data", "failed"),
    [
        ({}, USER_DATA, []),
        ({}, None, []),
        ({"user-data": None}, None, []),
        ({"user-data": USER_DATA.hex()}, USER_DATA, []),
        ({"user-data": None}, USER_DATA, ["UserDataMismatch"]),
        ({"user-data": 5}, USER_DATA, ["UserDataMismatch"]),
        ({}, report_data_for(b"other"), ["UserDataMismatch"]),
        ({"user-data": USER_DATA[:32].hex()}, USER_DATA[:32], ["UserDataMismatch"]),
        ({"user-data": ""}, b"", ["UserDataMismatch"]),
    ],
)
def test_user_data_is_the_callers_64_bytes(members: dict[str, Any], user_data: bytes | None, failed: list[str]) -> None:
    verdict = judge(given(hcl(claims(**members))), user_data=user_data)
    assert failing(verdict) == failed
    if members.get("user-data", "") in (None, 5, "") and failed:
        assert verdict.verdict.failures[0].actual in ("absent", USER_DATA.hex())


# --- nonce


def test_nonce_must_be_the_callers_or_at_least_the_stated_one() -> None:
    assert failing(judge(given(nonce="%"))) == []  # the caller's own is compared
    assert failing(judge(nonce=b"other")) == ["NonceMismatch"]
    assert failing(judge(nonce=NONCE[:-1])) == ["NonceMismatch"]
    assert failing(judge(nonce=b"")) == ["NonceMismatch"]
    assert failing(judge(nonce=None)) == []
    assert failing(judge(given(nonce=b64(b"other")), nonce=None)) == ["NonceMismatch"]
    assert failing(judge(given(nonce="%"), nonce=None)) == ["NonceMismatch"]
    shown = {check.id: check.actual for check in judge(nonce=None).verdict.checks}
    assert (shown["nonce-encoding"], shown["nonce"]) == (f"{len(NONCE)} bytes", NONCE.hex())


# --- the quote


@pytest.mark.parametrize(
    "data",
    [
        b"",
        quote()[:-1],
        quote(rest=b"\0"),
        quote(algorithms=(0x0016, 0x000B)),
        quote(algorithms=(0x0014, 0x000C)),
        quote(attest(magic=0xFF544348)),
        quote(attest(kind=0x8017)),
        quote(attest(banks=2)),
        quote(attest(banks=0)),
        quote(attest(bank=0x000C)),
        quote(attest(rest=b"\0")),
        quote(attest()[:-1]),
        quote(attest(bitmap=b"")[:40]),
    ],
)
def test_malformed_quotes_are_rejected(data: bytes) -> None:
    with pytest.raises(AttestationRejected, match="TpmQuoteMalformed"):
        parse_quote(data)
    assert failing(judge(given(quoted=data))) == ["TpmQuoteMalformed"]


def test_contents_of_a_quote() -> None:
    body = attest({index: PCRS[index] for index in (0, 7, 8, 23)})
    data = quote(body)
    assert parse_quote(data) == Quote(body, data[-256:], NONCE, (0, 7, 8, 23), body[-32:])


def test_quote_must_be_signed_by_the_key_of_the_claims() -> None:
    assert failing(judge(given(quoted=quote(key=RSA_KEY)))) == ["TpmQuoteSignatureInvalid"]
    changed = bytearray(quote())
    changed[40] ^= 1
    assert failing(judge(given(quoted=bytes(changed)))) == ["TpmQuoteSignatureInvalid"]
    parsed = parse_quote(quote())
    assert quote_signed_by(parsed, OTHER_KEY.public_key())
    assert not quote_signed_by(parsed, RSA_KEY.public_key())
    assert not quote_signed_by(Quote(parsed.attest, b"", b"", (), b""), OTHER_KEY.public_key())


# --- PCR values


def text_of(**changes: str | None) -> dict[str, str]:
    values: dict[str, str | None] = {str(index): b64(value) for index, value in PCRS.items()}
    values |= {name.removeprefix("pcr"): value for name, value in changes.items()}
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("selected", "pcrs", "accepted"),
    [
        ((0, 7), {"0": b64(PCRS[0]), "7": b64(PCRS[7])}, True),
        ((0, 7), text_of(), True),
        ((0, 7), text_of(pcr9=b64(bytes(32))), True),  # not covered, and not reported
        ((7, 0), {"7": b64(PCRS[7]), "0": b64(PCRS[0])}, True),
        ((0, 7), {"0": b64(PCRS[0])}, False),
        ((0, 7), text_of(pcr7=b64(bytes(32))), False),
        ((0, 7), {"0": b64(PCRS[7]), "7": b64(PCRS[0])}, False),
        ((0, 7), text_of(pcr7="%"), False),
        ((0, 7), text_of(pcr24=b64(bytes(32))), False),
        ((0, 7), {**text_of(), "-1": ""}, False),
        ((0, 7), {**text_of(), "x": ""}, False),
        ((), text_of(), False),
    ],
)
def test_values_must_be_those_that_the_quote_covers(selected: tuple[int, ...], pcrs: dict[str, str], accepted: bool) -> None:
    body = attest({index: PCRS[index] for index in selected})
    verdict = judge(given(quoted=quote(body), pcrs=pcrs))
    assert failing(verdict) == ([] if accepted else ["PcrDigestMismatch"])
    if accepted:
        assert verdict.pcrs == {index: PCRS[index].hex() for index in (0, 7)}


def test_digest_needs_every_selected_value() -> None:
    with pytest.raises(AttestationRejected) as caught:
        pcr_digest_of(Quote(b"", b"", b"", (1, 2), b""), {1: b"x"})
    assert (caught.value.expected, caught.value.actual) == ("values of PCRs [1, 2]", "without [2]")
    with pytest.raises(AttestationRejected, match="PcrDigestMismatch"):
        pcr_digest_of(Quote(b"", b"", b"", (1, 2), b""), {2: b"x"})
    assert pcr_digest_of(Quote(b"", b"", b"", (1, 2), b""), {2: b"b", 1: b"a"}) == hashlib.sha256(b"ab").digest()
