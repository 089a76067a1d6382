"""The stand-in as the default target of this suite."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt

from cleanroom.attestation import report_data_for
from localcloud.standins.cgs.auth import IssuerConfig
from localcloud.standins.cgs.callers import MEMBER_HEADER, MemberConfig
from localcloud.standins.cgs.engine import CgsConfig
from localcloud.standins.cgs.nodes import Nodes
from localcloud.standins.cgs.server import create_app
from localcloud.standins.serving import serving
from localcloud.standins.snp.cvm import DevelopmentVirtualMachine
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LocalAuthority
from tests.conformance.governance.target import Attest, Settings
from tests.shared_keys import rsa_key, shared_hardware, shared_virtual_machine

ISSUER = "https://issuer.example/conformance/v2.0"
AUDIENCE = "api://cleanroom-governance"
TENANT = "5f0f2a1e-0000-4000-8000-00000000c0de"
MEMBER_TOKEN = "conformance-member-token-000000"
USERS = ("ann-oid", "bob-oid", "eve-oid")


class StandIn:
    """A stand-in's environment in a folder: certificates, development hardware, an issuer of user tokens."""

    def __init__(self, folder: Path, hardware: DevelopmentHardware | None = None) -> None:
        self.folder = folder
        self.nodes: Nodes
        """The nodes of the server that :meth:`serve` started last."""
        self.authority = LocalAuthority(folder / "tls")
        self.tls = self.authority.issue("cgs")
        self.hardware = hardware or shared_hardware()
        self.machine = DevelopmentVirtualMachine(hardware) if hardware else shared_virtual_machine()
        self.issuer_key = rsa_key("issuer")
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.issuer_key.public_key()))
        jwk = public | {
            "kid": "issuer-1",
            "alg": "RS256",
            "use": "sig",
        }
        (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))

    def config(self, **changes: Any) -> CgsConfig:
        """Return a configuration with one member and one issuer."""
        values: dict[str, Any] = {
            "tls_cert": self.tls.cert,
            "tls_key": self.tls.key,
            "state": self.folder / "state",
            "members": (MemberConfig(name="operator", token=MEMBER_TOKEN, member_data={"tenantId": "member-tenant"}),),
            "issuers": (IssuerConfig(issuer=ISSUER, jwks_file=self.folder / "jwks.json", audience=AUDIENCE),),
            "trust_files": (self.hardware.trust_file,),
            "slow_history": True,
        }
        return CgsConfig(**(values | changes))

    def attest(self, host_data: bytes, **fields: Any) -> Attest:
        """Return a function that creates evidence of a guest on the development hardware."""
        return lambda data: self.hardware.evidence(host_data, report_data_for(data), **fields).model_dump(exclude_none=True)

    def attest_vm(self, data: bytes) -> dict[str, Any]:
        """Return evidence of a confidential VM on the development hardware."""
        evidence = self.machine.evidence(report_data_for(data))
        return evidence.model_dump(by_alias=True, exclude_none=True)

    def settings(self, url: str) -> Settings:
        """Return addresses and credentials of the stand-in."""
        return Settings(
            url=url,
            verify=ssl.create_default_context(cafile=str(self.authority.ca_file)),
            issuer=ISSUER,
            issuer_key=self.issuer_key,
            issuer_kid="issuer-1",
            audience=AUDIENCE,
            tenant=TENANT,
            users=USERS,
            member_headers={MEMBER_HEADER: MEMBER_TOKEN},
            client_url=f"{url}/cgs-client",
            client_headers={MEMBER_HEADER: MEMBER_TOKEN},
            attest=self.attest(bytes(range(32))),
            attest_other=self.attest(b"\xee" * 32),
            attest_vm=self.attest_vm,
        )

    @contextmanager
    def serve(self, **changes: Any) -> Iterator[Settings]:
        """Serve the stand-in from this process."""
        app = create_app(self.config(**changes))
        self.nodes = app.state.nodes
        with serving(app, "cgs", self.tls) as url:
            yield self.settings(url)
