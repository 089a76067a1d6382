"""Client of Microsoft Azure Attestation (MAA): evidence to token, and token to verified claims.

This is plain HTTP, because ``azure-security-attestation`` has no operation for SevSnpVm. Source:
https://learn.microsoft.com/rest/api/attestation/attestation/attest-sev-snp-vm; see ``docs/facts/key-release.md#maa``.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable
from cleanroom.jose import jwk, jws
from cleanroom.jose.encoding import b64url, compact_json
from cleanroom.keys.release_policy import same_authority
from cleanroom.snp_evidence import AttestationEvidence
from cleanroom.transport import async_http_client, retry_after_seconds, ssl_context

API_VERSION = "2022-08-01"
CLOCK_SKEW = dt.timedelta(minutes=5)
"""How far MAA's clock may be ahead of this machine's (``nbf``, ``iat``). ``exp`` has no leeway."""


def attestation_request(evidence: AttestationEvidence, runtime_data: bytes, nonce: int | None = None) -> dict[str, Any]:
    """Return the body of ``POST /attest/SevSnpVm``: evidence and runtime data in base64url.

    Raises:
        AttestationRejected: ``CertificateChainMalformed`` if the endorsements cannot be read.
        InvalidInput: ``InvalidEvidence``, ``InvalidNonce``.
    """
    pem = "".join(_pem(der) for der in read_endorsements(evidence.endorsements))
    endorsements: dict[str, Any] = {}
    try:
        report = base64.b64decode(evidence.evidence, validate=True)
        if evidence.uvm_endorsements:
            endorsements["Uvm"] = [b64url(base64.b64decode(evidence.uvm_endorsements, validate=True))]
    except ValueError as error:
        raise InvalidInput("InvalidEvidence", "attestation: evidence or uvm_endorsements is not standard base64.") from error
    parts = {"SnpReport": b64url(report), "VcekCertChain": b64url(pem.encode("ascii")), "Endorsements": b64url(compact_json(endorsements))}
    body: dict[str, Any] = {
        "report": b64url(compact_json(parts)),
        "runtimeData": {"data": b64url(runtime_data), "dataType": "JSON"},
        # The service only accepts JSON here, and the container security policy is Rego. The token has its digest as host data anyway.
        "initTimeData": {"data": "", "dataType": ""},
    }
    if nonce is not None:
        if not 0 <= nonce < 2**64:
            raise InvalidInput("InvalidNonce", f"nonce: {nonce} is not an unsigned 64-bit number.")
        body["nonce"] = nonce
    return body


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode("ascii")
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def signing_keys(jwks: Mapping[str, Any]) -> dict[str, rsa.RSAPublicKey]:
    """Return the RSA keys of an authority's JWKS by kid, from the leaf in ``x5c`` if present, else from ``n`` and ``e``.

    Unreadable entries are left out, and so are entries whose certificate and numbers are different keys (RFC 7517 section 4.7). A token
    that names one of them is rejected because its key is unknown.
    """
    result: dict[str, rsa.RSAPublicKey] = {}
    entries = jwks.get("keys")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("kid"), str):
            continue
        try:
            chain = entry.get("x5c")
            if isinstance(chain, list) and chain:
                key = x509.load_der_x509_certificate(base64.b64decode(str(chain[0]), validate=True)).public_key()
                if "n" in entry and jwk.public_key(entry) != key:
                    continue
            else:
                key = jwk.public_key(entry)
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, CleanRoomError):
            continue
        if isinstance(key, rsa.RSAPublicKey):
            result[entry["kid"]] = key
    return result


def _refuse(code: str, reason: str, **details: Any) -> Refused:
    return Refused(
        code,
        f"attestation token: {reason}.",
        hint="Attest again. If the error persists, check the authority's address and this machine's clock.",
        details=details,
    )


def validate_token(
    token: str, *, issuer: str, keys: Mapping[str, rsa.RSAPublicKey], at: dt.datetime | None = None, skew: dt.timedelta = CLOCK_SKEW
) -> dict[str, Any]:
    """Verify an attestation token and return its claims.

    Args:
        token: The compact JWT.
        issuer: Required issuer; one trailing slash is ignored.
        keys: The issuer's signing keys by kid (:func:`signing_keys`). They come from the issuer, never from the token's ``jku``.
        at: The instant of the check, by default now. ``nbf ≤ at + skew`` and ``at < exp`` must hold.
        skew: How far the authority's clock may be ahead of this machine's.

    Raises:
        Refused: ``AttestationTokenMalformed``, ``AttestationTokenIssuerMismatch``, ``AttestationTokenKeyUnknown``,
            ``AttestationTokenSignatureInvalid``, ``AttestationTokenExpired``, ``AttestationTokenNotYetValid``.
    """
    try:
        parsed = jws.parse(token)
    except ValueError as error:
        raise _refuse("AttestationTokenMalformed", str(error)) from error
    claims = dict(parsed.payload)
    actual = claims.get("iss")
    if not isinstance(actual, str) or not same_authority(actual, issuer):
        raise _refuse("AttestationTokenIssuerMismatch", f"iss is {actual!r}, trusted is {issuer}", expected=issuer, actual=actual)
    kid = parsed.header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise _refuse("AttestationTokenKeyUnknown", f"kid {kid!r} is not among the authority's keys")
    try:
        jws.verify(parsed, key)
    except ValueError as error:
        raise _refuse("AttestationTokenSignatureInvalid", str(error)) from error
    now = (at or dt.datetime.now(dt.UTC)).timestamp()
    # nbf and iat are optional (RFC 7519 section 4.1.5). A token without exp would never expire, so exp is required.
    expires, begins = claims.get("exp"), claims.get("nbf", claims.get("iat", 0))
    if not _is_time(expires) or not _is_time(begins):
        raise _refuse("AttestationTokenMalformed", "exp must be a number, and so must nbf or iat if present")
    if now >= expires:
        raise _refuse("AttestationTokenExpired", f"it expired at {_instant(expires)}", exp=expires)
    if now + skew.total_seconds() < begins:
        raise _refuse("AttestationTokenNotYetValid", f"it is valid only from {_instant(begins)}", nbf=begins)
    return claims


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**40


def _instant(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def _origin(url: str) -> tuple[str, str] | None:
    """Return scheme and host (with port) of a URL, or None for a malformed one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


class MaaClient:
    """Client of one attestation authority.

    Args:
        base_url: ``https://<instance>.attest.azure.net``, which is also the issuer of its tokens.
        ca_file: PEM roots for TLS; by default the system's.
        timeout: Seconds for one request.
    """

    def __init__(self, base_url: str, ca_file: Path | None = None, *, timeout: float = 30.0) -> None:
        origin = _origin(base_url)
        if origin is None or origin[0] != "https" or not origin[1]:
            raise InvalidInput("InvalidMaaUrl", f"maa_url: {base_url!r} is not an https URL.")
        self.base_url = base_url.rstrip("/")
        self._tls = ssl_context(ca_file)
        self._timeout = timeout

    def _http(self) -> httpx.AsyncClient:
        # The target of a redirect is not the authority that the release policy names.
        return async_http_client(self._tls, timeout=self._timeout)

    async def attest(self, evidence: AttestationEvidence, runtime_data: bytes, nonce: int | None = None) -> str:
        """Have ``evidence``, which binds ``runtime_data`` (a JWKS), attested. Returns the token (JWT), which is not yet validated.

        Raises:
            Refused: ``MaaRefusedEvidence`` if MAA cannot verify it; MAA's code and text are kept.
            Unavailable: ``MaaUnreachable``, ``MaaUnavailable``.
            InvalidInput: ``InvalidEvidence``, ``InvalidNonce``.
        """
        body = attestation_request(evidence, runtime_data, nonce)
        try:
            async with self._http() as http:
                answer = await http.post(f"{self.base_url}/attest/SevSnpVm", params={"api-version": API_VERSION}, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return str(self._document(answer, "attest", "token")["token"])

    async def signing_keys(self) -> dict[str, rsa.RSAPublicKey]:
        """Return the authority's current signing keys, found through its openid-configuration.

        Raises:
            Refused: ``MaaMetadataNotTrusted`` if the metadata names another issuer, or keys on another host.
            Unavailable: ``MaaUnreachable``, ``MaaUnavailable``.
        """
        try:
            async with self._http() as http:
                metadata = self._document(await http.get(f"{self.base_url}/.well-known/openid-configuration"), "metadata")
                jwks_uri = str(metadata.get("jwks_uri"))
                if not same_authority(str(metadata.get("issuer")), self.base_url) or _origin(jwks_uri) != _origin(self.base_url):
                    raise Refused(
                        "MaaMetadataNotTrusted",
                        f"{self.base_url}: its metadata names issuer {metadata.get('issuer')!r} and keys at {jwks_uri!r}, not its own.",
                    )
                return signing_keys(self._document(await http.get(jwks_uri), "keys", "keys"))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    async def validate(self, token: str, *, at: dt.datetime | None = None) -> dict[str, Any]:
        """Fetch the authority's keys, and return the token's claims (see :func:`validate_token`)."""
        return validate_token(token, issuer=self.base_url, keys=await self.signing_keys(), at=at)

    def _unreachable(self, error: httpx.HTTPError | httpx.InvalidURL) -> Unavailable:
        return Unavailable("MaaUnreachable", f"{self.base_url} could not be reached.", cause=f"{type(error).__name__}: {error}")

    def _document(self, answer: httpx.Response, what: str, member: str | None = None) -> Mapping[str, Any]:
        """Return the JSON object of an answer, which must have ``member`` if given. A refusal without MAA's envelope is not MAA's."""
        try:
            parsed = answer.json()
        except (ValueError, RecursionError):
            parsed = None
        document: Mapping[str, Any] = parsed if isinstance(parsed, Mapping) else {}
        status = answer.status_code
        if status == 200 and isinstance(parsed, Mapping) and (member is None or document.get(member)):
            return document
        envelope = document.get("error")
        upstream = envelope if isinstance(envelope, Mapping) else {}
        details: dict[str, Any] = {"status": status, "code": upstream.get("code")}
        if 400 <= status < 500 and status not in (408, 425, 429) and upstream:
            raise Refused(
                "MaaRefusedEvidence",
                f"{self.base_url} rejected the request ({what}, status {status}).",
                cause=str(upstream.get("message") or ""),
                hint="Compare the report, its certificates and the runtime data with those of the guest.",
                details=details,
            )
        if (wait := retry_after_seconds(answer.headers.get("retry-after"))) is not None:
            details["retryAfter"] = wait
        reason = (
            f"the response ({what}) has no {member or 'JSON object'}" if status == 200 else f"it responded with status {status} ({what})"
        )
        raise Unavailable(
            "MaaUnavailable", f"{self.base_url}: {reason}.", hint="If this lasts, check maa_url and any proxy in between.", details=details
        )
