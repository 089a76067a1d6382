"""Client and stand-in of the attestation authority, with genuine, development and forged evidence."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.attestation import AttestationEvidence, report_data_for
from cleanroom.errors import InvalidInput, Refused, Unavailable
from cleanroom.jose.encoding import b64_any, b64url
from cleanroom.jose.jws import parse, sign
from cleanroom.keys import ReleasePolicy, evaluate, public_jwk, runtime_data, thumbprint
from cleanroom.keys.maa import MaaClient, attestation_request, signing_keys, validate_token
from cleanroom.keys.wrapping_key import wrapping_jwk
from localcloud.standins.maa import MARKER, MaaConfig, create_app
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LocalAuthority, self_signed
from tests.shared_keys import rsa_key, shared_hardware

THEN = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
HOST_DATA = bytes(range(32))


@dataclasses.dataclass
class Maa:
    url: str
    ca: Path
    hardware: DevelopmentHardware

    def client(self) -> MaaClient:
        return MaaClient(self.url, self.ca)

    def post(self, body: Any, path: str = "/attest/SevSnpVm", version: str = "2022-08-01") -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.ca))
        with httpx.Client(base_url=self.url, verify=context) as http:
            return http.post(path, params={"api-version": version}, json=body)

    def evidence(self, bound: bytes, **fields: Any) -> AttestationEvidence:
        return self.hardware.evidence(HOST_DATA, report_data_for(bound), **fields)


@pytest.fixture(scope="module")
def hardware() -> DevelopmentHardware:
    return shared_hardware()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, local_ca: LocalAuthority, hardware: DevelopmentHardware) -> Iterator[Any]:
    with ExitStack() as stack:

        def run(**config: Any) -> Maa:
            tls = local_ca.issue("maa")
            clock = config.pop("clock", None)
            state = tmp_path_factory.mktemp("maa")
            values = {"tls_cert": tls.cert, "tls_key": tls.key, "state": state, "trust_files": (hardware.trust_file,), **config}
            app = create_app(MaaConfig(**values), **({} if clock is None else {"clock": clock}))
            return Maa(stack.enter_context(serving(app, "maa", tls)), local_ca.ca_file, hardware)

        yield run


@pytest.fixture(scope="module")
def maa(start: Any) -> Maa:
    return start()


@pytest.fixture(scope="module")
def maa_in_june(start: Any) -> Maa:
    """Fix the time to an instant at which the certificates of the genuine evidence are valid."""
    return start(clock=lambda: THEN)


@pytest.fixture(scope="module")
def bound(guest: rsa.RSAPrivateKey) -> bytes:
    return runtime_data(guest.public_key())


async def test_the_token_carries_the_report_and_the_runtime_data(maa: Maa, bound: bytes, guest: rsa.RSAPrivateKey) -> None:
    client = maa.client()
    token = await client.attest(maa.evidence(bound), bound)
    claims = await client.validate(token)
    assert claims["iss"] == maa.url
    assert claims["exp"] - claims["iat"] == 8 * 3600
    assert claims["nbf"] == claims["iat"]
    assert claims["x-ms-sevsnpvm-hostdata"] == HOST_DATA.hex()
    assert claims["x-ms-sevsnpvm-is-debuggable"] is False
    assert claims["x-ms-runtime"] == json.loads(bound)
    assert wrapping_jwk(claims)["kid"] == thumbprint(public_jwk(guest))
    assert claims[MARKER] == "NOT CONFIDENTIAL"
    header = parse(token).header
    assert header["jku"] == f"{maa.url}/certs"
    assert header["kid"] in await client.signing_keys()


async def test_metadata_names_issuer_and_keys_with_certificates(maa: Maa) -> None:
    context = ssl.create_default_context(cafile=str(maa.ca))
    async with httpx.AsyncClient(base_url=maa.url, verify=context) as http:
        metadata = (await http.get("/.well-known/openid-configuration")).json()
        keys = (await http.get(metadata["jwks_uri"])).json()["keys"]
    assert metadata["issuer"] == maa.url
    assert [set(key) >= {"kid", "kty", "x5c"} for key in keys] == [True]


@pytest.mark.parametrize("directory", ["milan-v3-caci-cleanroom-maa", "milan-v2-caci-cleanroom-history-maa"])
async def test_real_requests_of_real_hardware_are_attested(maa_in_june: Maa, vectors: Path, directory: str) -> None:
    """The recorded requests to the real service are accepted byte for byte."""
    folder = vectors / "caci" / directory
    body = json.loads((folder / "maa-request.json").read_text())
    for path in ("/attest/SevSnpVm", "/attest/SevSnpVM", "/attest/sevsnpvm"):
        answer = maa_in_june.post(body, path, "2020-10-01")
        assert answer.status_code == 200, answer.text
    claims = parse(answer.json()["token"]).payload
    assert claims["x-ms-runtime"] == json.loads((folder / "runtime_data.bin").read_bytes())
    assert claims["x-ms-compliance-status"] == "azure-compliant-uvm"


async def test_the_claims_of_real_evidence_are_those_expected(maa_in_june: Maa, vectors: Path) -> None:
    body = json.loads((vectors / "caci" / "milan-v3-caci-cleanroom-maa" / "maa-request.json").read_text())
    claims = dict(parse(maa_in_june.post(body).json()["token"]).payload)
    expected = json.loads((vectors / "skr" / "maa-sevsnpvm-claims-expected.json").read_text())["claims"]
    of_the_issuer = {"exp", "iat", "iss", "jti", "nbf", "x-ms-policy-hash", MARKER}
    assert set(claims) - {MARKER} == set(expected)
    for name in set(expected) - of_the_issuer:
        assert claims[name] == expected[name], name
        assert type(claims[name]) is type(expected[name]), name
    policies = json.loads((vectors / "skr" / "release-policies.json").read_text())
    sent = evaluate(ReleasePolicy.parse(policies["sidecar-caci-strict"]), claims, "https://sharedneu.neu.attest.azure.net")
    assert sent.ok


async def test_our_request_for_real_evidence_is_the_real_request(vectors: Path) -> None:
    folder = vectors / "caci" / "milan-v3-caci-cleanroom-maa"
    real = json.loads((folder / "maa-request.json").read_text())
    parts = json.loads(b64_any(real["report"]))
    uvm = json.loads(b64_any(parts["Endorsements"]))["Uvm"][0]
    evidence = AttestationEvidence.of(b64_any(parts["SnpReport"]), b64_any(parts["VcekCertChain"]), b64_any(uvm))
    ours = attestation_request(evidence, (folder / "runtime_data.bin").read_bytes())
    assert b64_any(ours["runtimeData"]["data"]) == b64_any(real["runtimeData"]["data"])
    assert ours["runtimeData"]["dataType"] == real["runtimeData"]["dataType"]
    our_parts = json.loads(b64_any(ours["report"]))
    assert set(our_parts) == set(parts)
    assert b64_any(our_parts["SnpReport"]) == b64_any(parts["SnpReport"])
    assert b64_any(json.loads(b64_any(our_parts["Endorsements"]))["Uvm"][0]) == b64_any(uvm)
    assert "".join(b64_any(our_parts["VcekCertChain"]).decode().split()) == "".join(b64_any(parts["VcekCertChain"]).decode().split())


async def test_development_hardware_is_rejected_without_its_root(start: Any, bound: bytes) -> None:
    strict = start(trust_files=())
    with pytest.raises(Refused) as error:
        await strict.client().attest(strict.evidence(bound), bound)
    assert error.value.code == "MaaRefusedEvidence"
    assert error.value.details == {"status": 400, "code": "InvalidParameter"}


async def test_other_runtime_data_is_rejected(maa: Maa, bound: bytes) -> None:
    other = runtime_data(rsa_key("other").public_key())
    with pytest.raises(Refused) as error:
        await maa.client().attest(maa.evidence(bound), other)
    assert "report-data" in str(error.value.cause)
    with pytest.raises(Refused):
        await maa.client().attest(maa.evidence(bound), bound + b" ")


async def test_runtime_data_must_be_json(maa: Maa) -> None:
    for data in (b"not json", b"\xff\xfe", b'{"a":1,"a":2}', b"[]", b"null", b'"text"'):
        with pytest.raises(Refused) as error:
            await maa.client().attest(maa.evidence(data), data)
        assert error.value.code == "MaaRefusedEvidence"


async def test_a_forged_report_is_rejected(maa: Maa, bound: bytes) -> None:
    evidence = maa.evidence(bound)
    report = bytearray(base64.b64decode(evidence.evidence))
    for offset in (0xC0, 0x50, 0x90, 0x2A0):
        forged = bytearray(report)
        forged[offset] ^= 1
        with pytest.raises(Refused):
            await maa.client().attest(evidence.model_copy(update={"evidence": base64.b64encode(bytes(forged)).decode()}), bound)


async def test_debuggable_guests_are_rejected_unless_configured(maa: Maa, start: Any, bound: bytes) -> None:
    evidence = maa.evidence(bound, policy=0xB001F)
    with pytest.raises(Refused):
        await maa.client().attest(evidence, bound)
    lenient = start(allow_debug=True)
    claims = await lenient.client().validate(await lenient.client().attest(evidence, bound))
    assert claims["x-ms-sevsnpvm-is-debuggable"] is True


async def test_vmpl_is_a_claim(maa: Maa, bound: bytes) -> None:
    claims = await maa.client().validate(await maa.client().attest(maa.evidence(bound, vmpl=2), bound))
    assert claims["x-ms-sevsnpvm-vmpl"] == 2


async def test_no_endorsement_means_no_compliance_status(maa: Maa, bound: bytes) -> None:
    evidence = maa.evidence(bound).model_copy(update={"uvm_endorsements": None})
    claims = await maa.client().validate(await maa.client().attest(evidence, bound))
    assert "x-ms-compliance-status" not in claims


async def test_an_endorsement_for_another_image_is_rejected(maa: Maa, bound: bytes) -> None:
    with pytest.raises(Refused) as error:
        await maa.client().attest(maa.evidence(bound, measurement=bytes(48)), bound)
    assert "uvm-measurement" in str(error.value.cause)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"report": "!!"},
        {"report": b64url(b"{}")},
        {"report": b64url(b"[]")},
        {"report": 5, "runtimeData": {}},
        {"report": b64url(json.dumps({"SnpReport": "AAAA", "VcekCertChain": "AAAA", "Endorsements": ""}).encode())},
        {
            "report": b64url(json.dumps({"SnpReport": "AAAA", "VcekCertChain": "AAAA", "Endorsements": b64url(b'{"Uvm":"x"}')}).encode()),
            "runtimeData": {"data": "e30", "dataType": "JSON"},
        },
    ],
)
def test_malformed_requests_are_bad_requests(maa: Maa, body: Any) -> None:
    answer = maa.post(body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"code", "message"}


def test_route_and_api_version_are_checked(maa: Maa, bound: bytes) -> None:
    body = attestation_request(maa.evidence(bound), bound)
    assert maa.post(body, version="2022-08-01").status_code == 200
    assert maa.post(body, path="/attest/SevSnpVM", version="2020-10-01").status_code == 200
    assert maa.post(body, path="/Attest/sevsnpvm").status_code == 200
    assert maa.post(body, version="1999-01-01").status_code == 400
    for path, status in (("/attest/SgxEnclave", 404), ("/attest", 404), ("/attest/SevSnpVm/more", 404), ("/certs", 405)):
        answer = maa.post(body, path=path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"code", "message"}
    assert maa.post({**body, "nonce": -1}).status_code == 400
    assert maa.post({**body, "nonce": True}).status_code == 400


async def test_nonces_are_unsigned_64_bit_numbers(maa: Maa, bound: bytes) -> None:
    assert await maa.client().attest(maa.evidence(bound), bound, nonce=2**64 - 1)
    for bad in (-1, 2**64):
        with pytest.raises(InvalidInput) as error:
            await maa.client().attest(maa.evidence(bound), bound, nonce=bad)
        assert error.value.code == "InvalidNonce"


async def test_an_unreachable_authority_is_unavailable(local_ca: LocalAuthority, maa: Maa, bound: bytes) -> None:
    client = MaaClient("https://localhost:1", local_ca.ca_file)
    with pytest.raises(Unavailable) as error:
        await client.attest(maa.evidence(bound), bound)
    assert error.value.code == "MaaUnreachable"
    with pytest.raises(Unavailable):
        await client.validate("a.b.c")
    with pytest.raises(InvalidInput):
        MaaClient("http://maa.example")


async def test_a_server_without_a_trusted_certificate_gets_no_request(maa: Maa, bound: bytes) -> None:
    with pytest.raises(Unavailable) as error:
        await MaaClient(maa.url).attest(maa.evidence(bound), bound)
    assert error.value.code == "MaaUnreachable"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.example", "jwks_uri": "{base}/certs"},
        {"issuer": "{base}", "jwks_uri": "https://evil.example/certs"},
        {"issuer": "{base}", "jwks_uri": "http://localhost/certs"},
        {"issuer": "{base}", "jwks_uri": "https://[x/certs"},
        {"issuer": "{base}"},
        {},
    ],
)
async def test_metadata_of_another_issuer_or_host_is_rejected(local_ca: LocalAuthority, metadata: dict[str, str]) -> None:
    async def answer(request: Request) -> JSONResponse:
        base = f"https://{request.headers['host']}"
        return JSONResponse({name: value.replace("{base}", base) for name, value in metadata.items()})

    app = Starlette(routes=[Route("/.well-known/openid-configuration", answer)])
    with serving(app, "fake-maa", local_ca.issue("maa")) as url, pytest.raises(Refused) as error:
        await MaaClient(url, local_ca.ca_file).signing_keys()
    assert error.value.code == "MaaMetadataNotTrusted"


async def test_malformed_responses_of_an_authority_give_typed_errors(local_ca: LocalAuthority, hardware: DevelopmentHardware) -> None:
    said = [b""]

    async def answer(request: Request) -> Response:
        return Response(said[0].replace(b"{base}", f"https://{request.headers['host']}".encode()))

    app = Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])
    evidence = hardware.evidence(bytes(32), bytes(64))
    with serving(app, "fake-maa", local_ca.issue("maa")) as url:
        client = MaaClient(url, local_ca.ca_file)
        for said[0] in (b"[" * 100_000, b"\xff", b"[]", b'{"issuer": "{base}", "jwks_uri": "{base}/\\u0001"}'):
            with pytest.raises((Refused, Unavailable)):
                await client.signing_keys()
            with pytest.raises(Unavailable):
                await client.attest(evidence, b"{}")


@pytest.mark.parametrize("url", ["http://maa.example", "https://[x", "https://", "maa.example", ""])
def test_an_authority_url_must_be_https(url: str) -> None:
    with pytest.raises(InvalidInput, match="InvalidMaaUrl"):
        MaaClient(url)


# Token validation


ISSUER = "https://maa.example"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa_key()


def claims_of(**changes: Any) -> dict[str, Any]:
    now = int(THEN.timestamp())
    values = {"iss": ISSUER, "iat": now, "nbf": now, "exp": now + 60, **changes}
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "at", "code"),
    [
        ({}, 0, None),
        ({}, 59, None),
        ({}, 60, "AttestationTokenExpired"),
        ({}, 86400, "AttestationTokenExpired"),
        ({}, -299, None),
        ({}, -301, "AttestationTokenNotYetValid"),
        ({"iss": f"{ISSUER}/"}, 0, None),
        ({"iss": "https://other.example"}, 0, "AttestationTokenIssuerMismatch"),
        ({"iss": f"{ISSUER}.evil.example"}, 0, "AttestationTokenIssuerMismatch"),
        ({"iss": None}, 0, "AttestationTokenIssuerMismatch"),
        ({"iss": [ISSUER]}, 0, "AttestationTokenIssuerMismatch"),
        ({"exp": None}, 0, "AttestationTokenMalformed"),
        ({"exp": "9999999999"}, 0, "AttestationTokenMalformed"),
        ({"exp": True}, 0, "AttestationTokenMalformed"),
        ({"exp": 10**300}, 0, "AttestationTokenMalformed"),
        ({"nbf": None, "iat": None}, 0, None),
        ({"nbf": None}, -301, "AttestationTokenNotYetValid"),
        ({"nbf": "0"}, 0, "AttestationTokenMalformed"),
    ],
)
def test_tokens_of_another_issuer_or_time_are_rejected(key: rsa.RSAPrivateKey, changes: dict[str, Any], at: int, code: str | None) -> None:
    token = sign({"kid": "k"}, claims_of(**changes), key)
    instant = THEN + dt.timedelta(seconds=at)
    if code is None:
        assert validate_token(token, issuer=ISSUER, keys={"k": key.public_key()}, at=instant)["iss"] == changes.get("iss", ISSUER)
        return
    with pytest.raises(Refused) as error:
        validate_token(token, issuer=ISSUER, keys={"k": key.public_key()}, at=instant)
    assert error.value.code == code


def test_tokens_with_another_signature_or_key_are_rejected(key: rsa.RSAPrivateKey) -> None:
    keys = dict.fromkeys(("k", "1", "None"), key.public_key())
    stranger = rsa_key("stranger")
    cases = {
        sign({"kid": "other"}, claims_of(), key): "AttestationTokenKeyUnknown",
        sign({}, claims_of(), key): "AttestationTokenKeyUnknown",
        sign({"kid": 1}, claims_of(), key): "AttestationTokenKeyUnknown",
        sign({"kid": None}, claims_of(), key): "AttestationTokenKeyUnknown",
        # A jku in the header is ignored: only the authority's keys are used.
        sign({"kid": "other", "jku": "https://evil.example/certs"}, claims_of(), stranger): "AttestationTokenKeyUnknown",
        sign({"kid": "k"}, claims_of(), stranger): "AttestationTokenSignatureInvalid",
        sign({"kid": "k"}, claims_of(), key)[:-2] + "AA": "AttestationTokenMalformed|AttestationTokenSignatureInvalid",
        "": "AttestationTokenMalformed",
        "a.b.c": "AttestationTokenMalformed",
    }
    for token, code in cases.items():
        with pytest.raises(Refused) as error:
            validate_token(token, issuer=ISSUER, keys=keys, at=THEN)
        assert error.value.code in code.split("|")


def test_unreadable_keys_of_a_jwks_are_left_out(key: rsa.RSAPrivateKey) -> None:
    good = public_jwk(key, kid="good")
    stranger = rsa_key("stranger")
    certificate = self_signed("authority", key).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    x5c = [base64.b64encode(certificate).decode()]
    bad = [5, {}, {"kid": "x"}, {"kid": "y", "kty": "RSA", "n": "!", "e": "AQAB"}, {"kid": "z", "x5c": ["AAAA"]}]
    entries = [*bad, good, public_jwk(key, kid="both", x5c=x5c), {"kid": "bare", "x5c": x5c}, public_jwk(stranger, kid="two", x5c=x5c)]
    found = signing_keys({"keys": entries})
    assert found == dict.fromkeys(("good", "both", "bare"), key.public_key())
    assert signing_keys({}) == {}
    assert signing_keys({"keys": "x"}) == {}


def test_genuine_expired_tokens_are_rejected(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(Refused) as error:
        validate_token(sign({"kid": "k"}, claims_of(exp=int(time.time()) - 1), key), issuer=ISSUER, keys={"k": key.public_key()})
    assert error.value.code == "AttestationTokenExpired"
