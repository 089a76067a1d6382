"""The SEV-SNP hardware stand-in: a chip that signs reports, and the attestation sidecar of every guest that is launched on it.

Real hardware isolates guests from their host; this process does not. It has the one property that the protocols need: a report's host
data is fixed when the guest is launched, and only the holder of the guest's secret URL can get its reports.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import re
import secrets
import sqlite3
from collections.abc import MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cleanroom.attestation import AttestationEvidence, Product, TrustedRoot, UvmIssuer, host_data_for, report_data_for
from cleanroom.attestation.products import encode_tcb, tcb_text
from cleanroom.attestation.trust import spki_sha256, trust_file_text
from cleanroom.secret import write_secret_file
from localcloud.standins.serving import BANNER, Receive, Scope, Send, StandInConfig, health_route, main
from localcloud.standins.snp.minting import (
    POLICY_CACI,
    UVM_FEED,
    EndorsementIssuer,
    Hierarchy,
    LeafPlan,
    mint_endorsement_issuer,
    mint_hierarchy,
)

MAX_BODY: Final = 1024 * 1024
UVM_SVN: Final = 103
MEASUREMENT: Final = hashlib.sha384(b"NOT CONFIDENTIAL development utility VM").digest()
"""Launch measurement of every development guest (48 bytes)."""


class DevelopmentHardware:
    """A development chip (Milan, report version 3) with its certificate chain, and an issuer of utility-VM endorsements.

    It is created in ``state`` at first use; several processes can start concurrently. A production verifier rejects its reports, because
    only :attr:`trust_file` pins its root.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.trust_file = state / "attestation-trust.json"
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(state / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.trust_file.exists():
                self._create()
        self._hierarchy = self._read_hierarchy()
        self._issuer = EndorsementIssuer(
            _rsa(self._key("uvm-leaf")), tuple(x509.load_pem_x509_certificates((state / "uvm-chain.pem").read_bytes()))
        )
        self.uvm_endorsement = (state / "uvm-endorsement.cose").read_bytes()
        self.chain_pem = self._hierarchy.chain_pem()

    @property
    def issuer(self) -> EndorsementIssuer:
        """The development issuer of utility-VM endorsements."""
        return self._issuer

    @property
    def hierarchy(self) -> Hierarchy:
        """The chain with its keys, for tests that need other certificates of this root."""
        return self._hierarchy

    def report(self, host_data: bytes, report_data: bytes, **fields: Any) -> bytes:
        """Return a signed report of 1184 bytes.

        Args:
            host_data: 32 bytes, see :func:`cleanroom.attestation.host_data_for`.
            report_data: 64 bytes, see :func:`cleanroom.attestation.report_data_for`.
            fields: Other fields of :class:`~localcloud.standins.snp.minting.ReportFields`, such as ``vmpl`` and ``policy``.
        """
        return self._hierarchy.report(**({"measurement": MEASUREMENT, "host_data": host_data, "report_data": report_data} | fields))

    def evidence(self, host_data: bytes, report_data: bytes, **fields: Any) -> AttestationEvidence:
        """:meth:`report` with its certificates and utility-VM endorsement, as a sidecar delivers them."""
        endorsed = tcb_text(encode_tcb(self._hierarchy.tcb, Product.MILAN))
        return AttestationEvidence.of(self.report(host_data, report_data, **fields), self.chain_pem, self.uvm_endorsement, endorsed)

    def _create(self) -> None:
        chip_id = secrets.token_bytes(64)
        hierarchy = mint_hierarchy(LeafPlan(product=Product.MILAN, chip_id=chip_id))
        issuer = mint_endorsement_issuer()
        for name, key in (("ark", hierarchy.root_key), ("ask", hierarchy.intermediate_key), ("vcek", hierarchy.leaf_key)):
            self._write_key(name, key)
        self._write_key("uvm-leaf", issuer.leaf_key)
        (self.state / "chain.pem").write_bytes(hierarchy.chain_pem())
        (self.state / "chip-id").write_text(chip_id.hex())
        (self.state / "uvm-chain.pem").write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in issuer.chain))
        (self.state / "uvm-endorsement.cose").write_bytes(issuer.endorse(MEASUREMENT, UVM_SVN))
        root = TrustedRoot(spki_sha256=spki_sha256(hierarchy.root), product=Product.MILAN, development=True)
        row = UvmIssuer(issuer=issuer.did, feed=UVM_FEED, minimum_svn=100, development=True)
        # Written last and atomically: if it exists, all other files exist.
        partial = self.trust_file.with_suffix(".tmp")
        partial.write_text(trust_file_text([root], [row], note=BANNER))
        partial.replace(self.trust_file)

    def _write_key(self, name: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_secret_file(self.state / f"{name}-key.pem", pem)

    def _key(self, name: str) -> Any:
        # A check of the primes takes a tenth of a second per key, and this class has written the file.
        pem = (self.state / f"{name}-key.pem").read_bytes()
        return serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)

    def _read_hierarchy(self) -> Hierarchy:
        leaf, intermediate, root = x509.load_pem_x509_certificates((self.state / "chain.pem").read_bytes())
        leaf_key = self._key("vcek")
        assert isinstance(leaf_key, ec.EllipticCurvePrivateKey)
        plan = LeafPlan(product=Product.MILAN, chip_id=bytes.fromhex((self.state / "chip-id").read_text()))
        return Hierarchy(plan, _rsa(self._key("ark")), root, _rsa(self._key("ask")), intermediate, leaf_key, leaf)


def _rsa(key: Any) -> rsa.RSAPrivateKey:
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


class SnpConfig(StandInConfig):
    """Configuration of the stand-in; ``state`` is also the folder of :class:`DevelopmentHardware`."""

    admin_token: SecretStr
    """Bearer token for launching and ending guests, the role of the hypervisor."""


class LaunchRequest(BaseModel):
    """Body of ``POST /guests``, which launches a guest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    security_policy_base64: str
    """base64 of the Rego policy, as in an ARM template. Its SHA-256 becomes the guest's host data."""
    guest_policy: int = Field(default=POLICY_CACI, ge=0, lt=1 << 32)
    """The SNP guest policy; bit 19 makes the guest debuggable."""


class Guests:
    """The launched guests, in SQLite. A guest's ID is a capability, so only its SHA-256 is stored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS guests (id_sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, host_data BLOB NOT NULL,"
                " guest_policy INTEGER NOT NULL, report_id BLOB NOT NULL)"
            )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10, isolation_level=None)

    def launch(self, request: LaunchRequest, host_data: bytes) -> str:
        """Add a guest and return its ID."""
        guest_id = secrets.token_urlsafe(32)
        with closing(self._connect()) as db:
            db.execute(
                "INSERT INTO guests VALUES (?, ?, ?, ?, ?)",
                (_sha256(guest_id), request.name, host_data, request.guest_policy, secrets.token_bytes(32)),
            )
        return guest_id

    def find(self, guest_id: str) -> tuple[bytes, int, bytes] | None:
        """Return a guest's host data, guest policy and report ID; None if the guest does not exist."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT host_data, guest_policy, report_id FROM guests WHERE id_sha256 = ?", (_sha256(guest_id),)).fetchone()
        return (bytes(row[0]), int(row[1]), bytes(row[2])) if row else None

    def end(self, guest_id: str) -> bool:
        """Remove a guest; return whether it existed."""
        with closing(self._connect()) as db:
            return db.execute("DELETE FROM guests WHERE id_sha256 = ?", (_sha256(guest_id),)).rowcount > 0


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class HideGuestIds:
    """ASGI middleware that redacts guest IDs, which are capabilities, for the request log: ``/guests/***``."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a redacted path."""
        inner: MutableMapping[str, Any] = dict(scope)
        if scope["type"] == "http":
            scope["path"] = re.sub(r"^/guests/[^/]+", "/guests/***", scope["path"])
        await self._app(inner, receive, send)


class SnpServer:
    """The routes of the hypervisor and of the guests' attestation sidecars."""

    def __init__(self, config: SnpConfig) -> None:
        self._hardware = DevelopmentHardware(config.state)
        self._guests = Guests(config.state / "guests.sqlite")
        self._token = config.admin_token.get_secret_value()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/guests", self._launch, methods=["POST"]),
            Route("/guests/{guest_id}", self._end, methods=["DELETE"]),
            Route("/guests/{guest_id}/attest/combined", self._combined, methods=["POST"]),
            Route("/guests/{guest_id}/attest/raw", self._raw, methods=["POST"]),
        ]

    def _is_hypervisor(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self._token.encode())

    async def _launch(self, request: Request) -> JSONResponse:
        if not self._is_hypervisor(request):
            return _error(401, "launching a guest requires the hypervisor's bearer token (admin_token)")
        try:
            wanted = LaunchRequest.model_validate_json(await request.body())
            host_data = host_data_for(wanted.security_policy_base64)
        except (ValidationError, binascii.Error) as error:
            return _error(400, f"not a launch request: {error}")
        guest_id = self._guests.launch(wanted, host_data)
        url = f"{request.url.scheme}://localhost:{request.scope['server'][1]}/guests/{guest_id}"
        return JSONResponse({"guest_id": guest_id, "url": url, "host_data": host_data.hex()}, 201)

    async def _end(self, request: Request) -> JSONResponse:
        if not self._is_hypervisor(request):
            return _error(401, "ending a guest requires the hypervisor's bearer token (admin_token)")
        if not self._guests.end(request.path_params["guest_id"]):
            return _error(404, "there is no such guest")
        return JSONResponse({})

    async def _combined(self, request: Request) -> JSONResponse:
        evidence = await self._evidence(request)
        return evidence if isinstance(evidence, JSONResponse) else JSONResponse(evidence.model_dump())

    async def _raw(self, request: Request) -> JSONResponse:
        evidence = await self._evidence(request)
        return evidence if isinstance(evidence, JSONResponse) else JSONResponse({"report": base64.b64decode(evidence.evidence).hex()})

    async def _evidence(self, request: Request) -> AttestationEvidence | JSONResponse:
        guest = self._guests.find(request.path_params["guest_id"])
        if guest is None:
            return _error(404, "there is no such guest")
        try:
            body = await request.body()
            if len(body) > MAX_BODY:
                return _error(413, f"the body has {len(body)} bytes; at most {MAX_BODY} are allowed")
            runtime_data = base64.b64decode(json.loads(body)["runtime_data"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _error(400, f"the body must be {{'runtime_data': base64}}: {type(error).__name__}")
        host_data, guest_policy, report_id = guest
        return self._hardware.evidence(host_data, report_data_for(runtime_data), policy=guest_policy, report_id=report_id)


def create_app(config: SnpConfig) -> Starlette:
    """Return the ASGI application."""
    return Starlette(routes=[health_route("snp"), *SnpServer(config).routes()], middleware=[Middleware(HideGuestIds)])


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def run() -> None:
    """Run the server from the command line (:func:`localcloud.standins.serving.main`)."""
    main("snp", SnpConfig, create_app)
