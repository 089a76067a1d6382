"""Attestation tokens and requests without a server: each rule is judged alone, with its exact code."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import cleanroom.keys.maa as module
from cleanroom.attestation import AttestationEvidence
from cleanroom.errors import CleanRoomError, Refused, Unavailable
from cleanroom.jose.encoding import b64url
from cleanroom.jose.jws import sign
from cleanroom.keys import public_jwk
from cleanroom.keys.maa import MaaClient, attestation_request, signing_keys, validate_token
from tests.shared_keys import rsa_key

ISSUER = "https://maa.example"
KEY, OTHER = rsa_key(), rsa_key("other")
NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())
CLAIMS: dict[str, Any] = {"iss": ISSUER, "nbf": SECONDS, "iat": SECONDS, "exp": SECONDS + 60}


def token(key: Any = KEY, kid: Any = "k", **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return sign({"kid": kid} if kid is not None else {}, claims, key)


def judge(text: str, *, at: dt.datetime | None = NOW, issuer: str = ISSUER, **options: Any) -> str:
    try:
        validate_token(text, issuer=issuer, keys={"k": KEY.public_key()}, at=at, **options)
    except Refused as error:
        return error.code.removeprefix("AttestationToken")
    return "accepted"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "accepted"),
        ({"key": OTHER}, "SignatureInvalid"),
        ({"kid": "other"}, "KeyUnknown"),
        ({"kid": None}, "KeyUnknown"),
        ({"kid": ["k"]}, "KeyUnknown"),
        ({"kid": {"k": 1}}, "KeyUnknown"),
        ({"iss": "https://other.example"}, "IssuerMismatch"),
        ({"iss": f"{ISSUER}/"}, "accepted"),
        ({"iss": None}, "IssuerMismatch"),
        ({"iss": 5}, "IssuerMismatch"),
        ({"exp": None}, "Malformed"),
        ({"exp": "9999999999"}, "Malformed"),
        ({"exp": True}, "Malformed"),
        ({"exp": 2**40 - 1}, "accepted"),
        ({"exp": 2**40}, "Malformed"),
        ({"exp": SECONDS}, "Expired"),
        ({"exp": SECONDS + 1}, "accepted"),
        ({"exp": SECONDS + 0.5}, "accepted"),
        ({"nbf": SECONDS + 300}, "accepted"),
        ({"nbf": SECONDS + 301}, "NotYetValid"),
        ({"nbf": None, "iat": SECONDS + 301}, "NotYetValid"),
        ({"nbf": SECONDS, "iat": SECONDS + 301}, "accepted"),
        ({"nbf": None, "iat": None}, "accepted"),
        ({"nbf": -1}, "Malformed"),
        ({"nbf": 0}, "accepted"),
        ({"nbf": "0"}, "Malformed"),
    ],
)
def test_every_rule_of_a_token_is_judged(changes: dict[str, Any], code: str) -> None:
    assert judge(token(**changes)) == code


def test_token_that_was_changed_after_its_signature_is_refused() -> None:
    head, _, signature = token().split(".")
    forged = b64url(json.dumps(CLAIMS | {"x-ms-sevsnpvm-hostdata": "ab" * 32}).encode())
    assert judge(f"{head}.{forged}.{signature}") == "SignatureInvalid"


def test_token_is_judged_at_the_given_or_the_present_time() -> None:
    assert judge(token(), at=NOW + dt.timedelta(seconds=59)) == "accepted"
    assert judge(token(), at=NOW + dt.timedelta(seconds=60)) == "Expired"
    assert judge(token(), at=None) == "Expired"
    now = int(dt.datetime.now(dt.UTC).timestamp())
    assert judge(token(nbf=now, iat=now, exp=now + 60), at=None) == "accepted"


def test_clock_of_the_authority_may_be_ahead_by_five_minutes_or_the_callers_time() -> None:
    assert judge(token(nbf=SECONDS + 10), skew=dt.timedelta(seconds=9)) == "NotYetValid"
    assert judge(token(nbf=SECONDS + 10), skew=dt.timedelta(seconds=10)) == "accepted"
    # There is no leeway for the expiry.
    assert judge(token(exp=SECONDS), skew=dt.timedelta(hours=1)) == "Expired"


# ---------------------------------------------------------------------- the authority's keys


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maa")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()


EC = ec.generate_private_key(ec.SECP256R1())
NUMBERS = public_jwk(KEY)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"kid": "k", **NUMBERS}, True),
        ({"kid": "k", "x5c": [certificate(KEY)]}, True),
        ({"kid": "k", "x5c": [certificate(KEY), "chain"], **NUMBERS}, True),
        ({"kid": "k", "x5c": [], **NUMBERS}, True),
        ({"kid": "k", "x5c": "text", **NUMBERS}, True),
        ({"kid": "k", "x5c": [certificate(OTHER)], **NUMBERS}, False),
        ({"kid": "k", "x5c": [certificate(EC)]}, False),
        ({"kid": "k", **public_jwk(EC)}, False),
        ({"kid": "k", "x5c": [certificate(KEY) + "\n"]}, False),
        ({"kid": "k", "x5c": ["!" + certificate(KEY)]}, False),
        ({"kid": "k", "x5c": [5]}, False),
        ({"kid": "k"}, False),
        ({"kid": 5, **NUMBERS}, False),
        ({"kid": ["k"], **NUMBERS}, False),
        (NUMBERS, False),
        ("text", False),
    ],
)
def test_only_rsa_keys_with_one_meaning_are_used(entry: Any, found: bool) -> None:
    good = {"kid": "good", **public_jwk(OTHER)}
    keys = signing_keys({"keys": [entry, good]})
    assert keys == ({"k": KEY.public_key()} if found else {}) | {"good": OTHER.public_key()}


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {"k": NUMBERS}}, {"keys": "text"}])
def test_document_without_a_list_has_no_keys(document: Any) -> None:
    assert signing_keys(document) == {}


# ---------------------------------------------------------------------- the request

PEM = certificate(KEY)
EVIDENCE = AttestationEvidence(
    evidence=base64.b64encode(b"report").decode(),
    endorsements=base64.b64encode(x509.load_der_x509_certificate(base64.b64decode(PEM)).public_bytes(serialization.Encoding.PEM)).decode(),
    uvm_endorsements=base64.b64encode(b"uvm").decode(),
)


def decoded(value: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(value + "=="))


def test_request_has_every_part() -> None:
    body = attestation_request(EVIDENCE, b'{"keys":[]}', 7)
    report = decoded(body.pop("report"))
    chain = base64.urlsafe_b64decode(report["VcekCertChain"] + "==").decode()
    assert chain.startswith("-----BEGIN CERTIFICATE-----\n")
    assert "".join(chain.split("\n")[1:-2]) == PEM
    assert all(len(line) <= 64 for line in chain.split("\n"))
    assert report["SnpReport"] == b64url(b"report")
    assert decoded(report["Endorsements"]) == {"Uvm": [b64url(b"uvm")]}
    assert body == {
        "runtimeData": {"data": b64url(b'{"keys":[]}'), "dataType": "JSON"},
        "initTimeData": {"data": "", "dataType": ""},
        "nonce": 7,
    }
    without = attestation_request(EVIDENCE.model_copy(update={"uvm_endorsements": ""}), b"{}")
    assert decoded(decoded(without["report"])["Endorsements"]) == {}
    assert "nonce" not in without


@pytest.mark.parametrize(("nonce", "accepted"), [(-1, False), (0, True), (2**64 - 1, True), (2**64, False)])
def test_nonce_is_an_unsigned_64_bit_number(nonce: int, accepted: bool) -> None:
    if accepted:
        assert attestation_request(EVIDENCE, b"{}", nonce)["nonce"] == nonce
        return
    with pytest.raises(CleanRoomError, match="InvalidNonce"):
        attestation_request(EVIDENCE, b"{}", nonce)


@pytest.mark.parametrize("member", ["evidence", "uvm_endorsements"])
@pytest.mark.parametrize("text", ["!", "QUJD\n", "QU JD", "A"])
def test_evidence_that_is_no_base64_is_not_sent(member: str, text: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        attestation_request(EVIDENCE.model_copy(update={member: text}), b"{}")
    assert caught.value.code == "InvalidEvidence"


# ---------------------------------------------------------------------- the client


class Server:
    """Answers the client's requests without a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        self.timeouts: list[float] = []
        monkeypatch.setattr(module, "async_http_client", self._client)
        monkeypatch.setattr(module, "ssl_context", lambda file: file)

    def _client(self, tls: Any, *, timeout: float) -> httpx.AsyncClient:
        self.timeouts.append(timeout)
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)


REFUSED = {"error": {"code": "PolicyEvaluationError", "message": "no"}}


@pytest.mark.parametrize(
    ("status", "body", "code", "details"),
    [
        (400, REFUSED, "MaaRefusedEvidence", {"status": 400, "code": "PolicyEvaluationError"}),
        (499, REFUSED, "MaaRefusedEvidence", {"status": 499, "code": "PolicyEvaluationError"}),
        (400, {"error": "text"}, "MaaUnavailable", {"status": 400, "code": None}),
        (400, {"error": {}}, "MaaUnavailable", {"status": 400, "code": None}),
        (400, [], "MaaUnavailable", {"status": 400, "code": None}),
        (400, None, "MaaUnavailable", {"status": 400, "code": None}),
        (408, REFUSED, "MaaUnavailable", {"status": 408, "code": "PolicyEvaluationError"}),
        (425, REFUSED, "MaaUnavailable", {"status": 425, "code": "PolicyEvaluationError"}),
        (429, REFUSED, "MaaUnavailable", {"status": 429, "code": "PolicyEvaluationError"}),
        (500, REFUSED, "MaaUnavailable", {"status": 500, "code": "PolicyEvaluationError"}),
        (302, REFUSED, "MaaUnavailable", {"status": 302, "code": "PolicyEvaluationError"}),
        (204, {"token": "t"}, "MaaUnavailable", {"status": 204, "code": None}),
        (200, {}, "MaaUnavailable", {"status": 200, "code": None}),
        (200, ["token"], "MaaUnavailable", {"status": 200, "code": None}),
        (200, {"token": ""}, "MaaUnavailable", {"status": 200, "code": None}),
        (200, [], "MaaUnavailable", {"status": 200, "code": None}),
        (200, None, "MaaUnavailable", {"status": 200, "code": None}),
    ],
)
async def test_answer_without_a_token_is_a_refusal_or_unavailable(
    monkeypatch: pytest.MonkeyPatch, status: int, body: Any, code: str, details: dict[str, Any]
) -> None:
    content = b"no JSON" if body is None else json.dumps(body).encode()
    Server(monkeypatch, lambda request: httpx.Response(status, content=content))
    with pytest.raises(CleanRoomError) as caught:
        await MaaClient(ISSUER).attest(EVIDENCE, b"{}")
    assert (caught.value.code, caught.value.details) == (code, details)
    assert ("has no token" if status == 200 else f"status {status}") in caught.value.message
    assert isinstance(caught.value, Refused if code == "MaaRefusedEvidence" else Unavailable)
    if code == "MaaRefusedEvidence":
        assert caught.value.cause == ("no" if body is REFUSED else "")


async def test_evidence_is_sent_to_the_authority_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, lambda request: httpx.Response(200, json={"token": "t"}))
    assert await MaaClient(f"{ISSUER}/", timeout=7).attest(EVIDENCE, b"{}", 3) == "t"
    (request,) = server.requests
    assert (request.method, str(request.url), server.timeouts) == ("POST", f"{ISSUER}/attest/SevSnpVm?api-version=2022-08-01", [7])
    assert json.loads(request.content) == attestation_request(EVIDENCE, b"{}", 3)


def authority(**metadata: Any) -> Callable[[httpx.Request], httpx.Response]:
    """The authority's metadata, and its keys wherever the metadata says."""
    document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/certs", **metadata}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=document)
        return httpx.Response(200, json={"keys": [{"kid": "k", **NUMBERS}]})

    return answer


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": "https://other.example/certs"},
        {"jwks_uri": "http://maa.example/certs"},
        {"jwks_uri": f"{ISSUER}:8443/certs"},
        {"jwks_uri": "https://maa.example@other.example/certs"},
        {"jwks_uri": None},
        {"jwks_uri": "https://[maa"},
    ],
)
async def test_keys_are_fetched_from_the_authority_only(monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any]) -> None:
    server = Server(monkeypatch, authority(**metadata))
    with pytest.raises(Refused, match="MaaMetadataNotTrusted"):
        await MaaClient(ISSUER).signing_keys()
    assert len(server.requests) == 1


async def test_token_is_validated_with_the_fetched_keys_at_the_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, authority())
    client = MaaClient(ISSUER)
    assert await client.validate(token(), at=NOW) == CLAIMS
    assert [request.url.path for request in server.requests] == ["/.well-known/openid-configuration", "/certs"]
    for text, at, code in (
        (token(OTHER), NOW, "SignatureInvalid"),
        (token(), None, "Expired"),
        (token(iss="https://other.example"), NOW, "IssuerMismatch"),
    ):
        with pytest.raises(Refused, match=f"AttestationToken{code}"):
            await client.validate(text, at=at)


@pytest.mark.parametrize("body", [{}, {"keys": []}, {"keys": None}, [], None])
async def test_authority_without_keys_is_unavailable(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    answers = [httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": f"{ISSUER}/certs"}), httpx.Response(200, json=body)]
    Server(monkeypatch, lambda request: answers.pop(0))
    with pytest.raises(Unavailable, match=r"MaaUnavailable.*has no keys"):
        await MaaClient(ISSUER).signing_keys()


@pytest.mark.parametrize("url", ["http://maa.example", "https://", "maa.example", "https://[maa", ""])
def test_authority_is_an_https_url(url: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        MaaClient(url)
    assert caught.value.code == "InvalidMaaUrl"


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", token() + "=", "é.é.é"])
def test_text_that_is_no_token_is_malformed(text: str) -> None:
    assert judge(text) == "Malformed"


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), httpx.ReadTimeout("late"), httpx.InvalidURL("odd")])
async def test_authority_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    Server(monkeypatch, fail)
    with pytest.raises(Unavailable, match="MaaUnreachable") as caught:
        await MaaClient(ISSUER).signing_keys()
    assert caught.value.cause == f"{type(error).__name__}: {error}"
    if isinstance(error, httpx.HTTPError):
        with pytest.raises(Unavailable, match="MaaUnreachable"):
            await MaaClient(ISSUER).attest(EVIDENCE, b"{}")
