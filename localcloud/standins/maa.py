"""Stand-in of Microsoft Azure Attestation (docs/facts/key-release.md): ``python -m localcloud.standins.maa --config FILE``.

It verifies SNP reports, certificates, utility-VM endorsements and runtime data with the product's verifier and the configured roots, and
issues tokens. NOT CONFIDENTIAL: its signing key is in a file, and every token has the claim :data:`MARKER`.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.attestation import AttestationEvidence, Expectations, SnpReport, TrustStore, Verdict, report_data_for, verify_evidence
from cleanroom.attestation.products import decode_tcb
from cleanroom.attestation.uvm import verify_endorsement
from cleanroom.jose import jws
from cleanroom.jose.encoding import b64_any, b64url, strict_json
from cleanroom.jose.jwk import public_jwk
from cleanroom.secret import read_secret_file, write_secret_file
from localcloud.standins.serving import StandInConfig, health_route, main
from localcloud.tls import self_signed

_LOG = logging.getLogger("localcloud.maa")
_API_VERSIONS = frozenset({"2020-10-01", "2022-08-01", "2025-06-01"})
_LIFETIME = dt.timedelta(hours=8)
_MAXIMUM_BODY = 512 * 1024
_KATA_FEED = "ConfAKS-AMD-UVM"
MARKER = "x-ms-development-stand-in"
"""Claim in every token of this stand-in. Tokens of the real service do not have it."""
_POLICY = b"version=1.2; authorizationrules{=> permit();}; issuancerules{};"


class MaaConfig(StandInConfig):
    """Configuration of the stand-in."""

    amd_roots: bool = True
    """Trust genuine AMD hardware and Microsoft's utility VMs."""
    trust_files: tuple[Path, ...] = ()
    """Development roots (``TrustStore.load``)."""
    allow_debug: bool = False
    """Whether debuggable guests get tokens (``is-debuggable`` true). The release policy must then reject them."""
    issuer: str | None = None
    """Value of ``iss`` (default: ``https://<Host header>``, the address that the client used)."""
    token_seconds: int = int(_LIFETIME.total_seconds())


class MaaError(Exception):
    """An error response: ``{"error": {"code", "message"}}``."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class TokenKey:
    """The signing key and its self-signed certificate, in the folder ``state``."""

    def __init__(self, state: Path) -> None:
        key_file, cert_file = state / "maa-key.pem", state / "maa-cert.pem"
        if not (key_file.exists() and cert_file.exists()):
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            cert = self_signed("attestation stand-in (NOT CONFIDENTIAL)", key).sign(key, hashes.SHA256())
            pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            write_secret_file(key_file, pem)
            cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(read_secret_file(key_file, what="attestation signing key").reveal(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        self.key = loaded
        self._der = x509.load_pem_x509_certificate(cert_file.read_bytes()).public_bytes(serialization.Encoding.DER)
        self.kid = base64.b64encode(hashlib.sha256(self._der).digest()).decode("ascii")

    def jwks(self) -> dict[str, Any]:
        """Return the key set, for ``GET /certs``."""
        jwk = public_jwk(self.key, kid=self.kid, alg="RS256", use="sig", x5c=[base64.b64encode(self._der).decode("ascii")])
        return {"keys": [jwk]}


def evidence_of(body: Mapping[str, Any]) -> tuple[AttestationEvidence, bytes]:
    """Parse a request body; return its evidence and runtime data.

    Raises:
        MaaError: ``InvalidParameter`` if the body is malformed.
    """
    try:
        report = strict_json(b64_any(_text(body, "report")))
        endorsements = strict_json(b64_any(_text(report, "Endorsements"))) if report.get("Endorsements") else {}
        uvm = endorsements.get("Uvm") or []
        if not isinstance(uvm, list) or len(uvm) > 1:
            raise ValueError("Uvm must be a list of one endorsement")
        runtime = body.get("runtimeData")
        if not isinstance(runtime, Mapping) or str(runtime.get("dataType")).upper() != "JSON":
            raise ValueError("runtimeData must have the members data and dataType, and dataType must be JSON")
        evidence = AttestationEvidence.of(
            b64_any(_text(report, "SnpReport")), b64_any(_text(report, "VcekCertChain")), b64_any(str(uvm[0])) if uvm else None
        )
        return evidence, b64_any(_text(runtime, "data"))
    except (ValueError, AttributeError, TypeError) as error:
        raise MaaError("InvalidParameter", f"The request body is malformed: {error}") from error


def _text(value: Any, name: str) -> str:
    member = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(member, str) or not member:
        raise ValueError(f"{name} is missing")
    return member


def _compliance(verdict: Verdict, evidence: AttestationEvidence) -> str | None:
    """Return the compliance status; None without a utility-VM endorsement, or if its issuer is unknown."""
    if verdict.failures or not evidence.uvm_endorsements:
        return None
    feed = verify_endorsement(base64.b64decode(evidence.uvm_endorsements)).feed
    return "azure-signed-katacc-uvm" if feed == _KATA_FEED else "azure-compliant-uvm"


def snp_claims(report: SnpReport, verdict: Verdict) -> dict[str, Any]:
    """Return the ``x-ms-sevsnpvm-*`` claims of a verified report."""
    assert verdict.product is not None
    tcb = decode_tcb(report.reported_tcb, verdict.product)
    values: dict[str, Any] = {
        "authorkeydigest": report.author_key_digest.hex(),
        "bootloader-svn": tcb.bootloader,
        "familyId": report.family_id.hex(),
        "guestsvn": report.guest_svn,
        "hostdata": report.host_data.hex(),
        "idkeydigest": report.id_key_digest.hex(),
        "imageId": report.image_id.hex(),
        "is-debuggable": report.policy.debug_allowed,
        "launchmeasurement": report.measurement.hex(),
        "microcode-svn": tcb.microcode,
        "migration-allowed": report.policy.migration_allowed,
        "reportdata": report.report_data.hex(),
        "reportid": report.report_id.hex(),
        "smt-allowed": report.policy.smt_allowed,
        "snpfw-svn": tcb.snp,
        "tee-svn": tcb.tee,
        "vmpl": report.vmpl,
    }
    return {f"x-ms-sevsnpvm-{name}": value for name, value in values.items()}


class MaaServer:
    """The routes of the attestation service."""

    def __init__(self, config: MaaConfig, clock: Callable[[], dt.datetime]) -> None:
        self._config = config
        self._clock = clock
        self._trust = TrustStore.load(amd=config.amd_roots, root_files=config.trust_files)
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._token_key = TokenKey(config.state)

    def routes(self) -> list[Route]:
        """Return the routes."""
        attest = Route("/attest/{kind}", self.attest, methods=["POST"])
        attest.path_regex = re.compile(attest.path_regex.pattern, re.IGNORECASE)  # clients spell it differently
        return [
            attest,
            Route("/.well-known/openid-configuration", self.metadata, methods=["GET"]),
            Route("/certs", self.certs, methods=["GET"]),
        ]

    def _issuer(self, request: Request) -> str:
        return self._config.issuer or f"https://{request.headers.get('host', 'localhost')}"

    async def metadata(self, request: Request) -> Response:
        """Answer ``GET /.well-known/openid-configuration``."""
        issuer = self._issuer(request)
        return JSONResponse(
            {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/certs",
                "response_types_supported": ["token", "none"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "claims_supported": ["is-debuggable", "x-ms-runtime", "x-ms-sevsnpvm-hostdata", MARKER],
            }
        )

    async def certs(self, request: Request) -> Response:
        """Answer ``GET /certs``."""
        return JSONResponse(self._token_key.jwks())

    async def attest(self, request: Request) -> Response:
        """Answer ``POST /attest/SevSnpVm``. The path is case-insensitive."""
        try:
            if request.path_params["kind"].lower() != "sevsnpvm":
                raise MaaError("NotFound", f"Attestation type {request.path_params['kind']!r} is not supported; use SevSnpVm.", 404)
            if request.query_params.get("api-version") not in _API_VERSIONS:
                raise MaaError("InvalidParameter", f"api-version must be one of {', '.join(sorted(_API_VERSIONS))}.")
            raw = await request.body()
            if len(raw) > _MAXIMUM_BODY:
                raise MaaError("InvalidParameter", f"The request body is longer than {_MAXIMUM_BODY} bytes.")
            try:
                body = strict_json(raw)
            except ValueError as error:
                raise MaaError("InvalidParameter", "The request body is not JSON.") from error
            if not isinstance(body, dict):
                raise MaaError("InvalidParameter", "The request body is not a JSON object.")
            return JSONResponse({"token": await run_in_threadpool(self._token, body, self._issuer(request))})
        except MaaError as error:
            _LOG.info("request rejected: %s: %s", error.code, error.message)
            return JSONResponse({"error": {"code": error.code, "message": error.message}}, error.status)

    def _token(self, body: Mapping[str, Any], issuer: str) -> str:
        evidence, runtime_data = evidence_of(body)
        nonce = body.get("nonce")
        if nonce is not None and (not isinstance(nonce, int) or isinstance(nonce, bool) or not 0 <= nonce < 2**64):
            raise MaaError("InvalidParameter", f"nonce is {nonce!r}; it must be an unsigned 64-bit number.")
        now = self._clock()
        verdict = self._verify(evidence, runtime_data, now)
        try:
            runtime = strict_json(runtime_data)
        except ValueError as error:
            raise MaaError("InvalidParameter", "runtimeData.data is not JSON although its dataType says so.") from error
        if not isinstance(runtime, dict):
            raise MaaError("InvalidParameter", "runtimeData.data is not a JSON object.")
        assert verdict.report is not None
        issued = int(now.timestamp())
        claims: dict[str, Any] = {
            "exp": issued + self._config.token_seconds,
            "iat": issued,
            "iss": issuer,
            "jti": secrets.token_hex(32),
            "nbf": issued,
            "x-ms-attestation-type": "sevsnpvm",
            "x-ms-policy-hash": b64url(hashlib.sha256(_POLICY).digest()),
            "x-ms-runtime": runtime,
            "x-ms-ver": "1.0",
            MARKER: "NOT CONFIDENTIAL",
            **snp_claims(verdict.report, verdict),
        }
        compliance = _compliance(verdict, evidence)
        if compliance is not None:
            claims["x-ms-compliance-status"] = compliance
        header = {"alg": "RS256", "jku": f"{issuer}/certs", "kid": self._token_key.kid, "typ": "JWT"}
        return jws.sign(header, dict(sorted(claims.items())), self._token_key.key)

    def _verify(self, evidence: AttestationEvidence, runtime_data: bytes, now: dt.datetime) -> Verdict:
        # VMPL, migration and SMT become claims, which the release policy checks.
        expectations = Expectations(
            allow_debug=self._config.allow_debug, allow_migration=True, vmpl=None, report_data=report_data_for(runtime_data)
        )
        verdict = verify_evidence(evidence, trust=self._trust, expectations=expectations, at=now)
        # A valid endorsement of an unknown issuer only omits the compliance status.
        failed = [check for check in verdict.failures if check.id != "uvm-issuer"]
        if failed or verdict.report is None:
            reasons = "; ".join(f"{check.id}: expected {check.expected}, actual {check.actual}" for check in failed)
            raise MaaError("InvalidParameter", f"The evidence cannot be verified: {reasons}")
        return verdict


async def _no_operation(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods with the service's error format."""
    assert isinstance(error, HTTPException)
    message = f"The operation {request.method} {request.url.path} is not supported."
    code = "MethodNotAllowed" if error.status_code == 405 else "NotFound"
    return JSONResponse({"error": {"code": code, "message": message}}, error.status_code, error.headers)


def _wall_clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def create_app(config: MaaConfig, *, clock: Callable[[], dt.datetime] = _wall_clock) -> Starlette:
    """Return the ASGI application; tests replace the ``clock``."""
    app = Starlette(routes=[health_route("maa"), *MaaServer(config, clock).routes()], exception_handlers={HTTPException: _no_operation})
    app.router.redirect_slashes = False
    return app


if __name__ == "__main__":
    main("maa", MaaConfig, create_app)
