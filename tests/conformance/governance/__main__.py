"""A stand-in to run this suite against from outside: ``python -m tests.conformance.governance``.

Serves governance and two development guests until it is interrupted, and prints the environment that names them, for a shell to read.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from cleanroom.secret import write_secret_file
from localcloud.standins.serving import announce, serving
from localcloud.standins.snp import server as snp
from tests.conformance.governance.standin import AUDIENCE, ISSUER, TENANT, USERS, StandIn

POLICIES = {"CLEANROOM_CGS_ATTESTATION_URL": "cGFja2FnZSBhCg==", "CLEANROOM_CGS_OTHER_ATTESTATION_URL": "cGFja2FnZSBiCg=="}


def main(folder: Path) -> None:
    """Serve until SIGINT or SIGTERM."""
    announce("cgs")
    standin = StandIn(folder)
    key = folder / "issuer-key.pem"
    write_secret_file(key, standin.issuer_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = standin.tls
    hardware = snp.SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=folder / "snp", admin_token=SecretStr("admin-token"))
    with ExitStack() as stack:
        settings = stack.enter_context(standin.serve())
        guests = stack.enter_context(serving(snp.create_app(hardware), "snp", tls))
        environment = {
            "CLEANROOM_CGS_URL": settings.url,
            "CLEANROOM_CGS_CA_FILE": str(standin.authority.ca_file),
            "CLEANROOM_CGS_ISSUER": ISSUER,
            "CLEANROOM_CGS_ISSUER_KEY": str(key),
            "CLEANROOM_CGS_ISSUER_KID": settings.issuer_kid,
            "CLEANROOM_CGS_AUDIENCE": AUDIENCE,
            "CLEANROOM_CGS_TENANT": TENANT,
            "CLEANROOM_CGS_USERS": ",".join(USERS),
            "CLEANROOM_CGS_MEMBER_HEADERS": json.dumps(dict(settings.member_headers or {})),
            "CLEANROOM_CGS_CLIENT_URL": settings.client_url or "",
            "CLEANROOM_CGS_CLIENT_HEADERS": json.dumps(dict(settings.client_headers)),
        }
        with httpx.Client(verify=settings.verify, headers={"authorization": "Bearer admin-token"}) as admin:
            for name, policy in POLICIES.items():
                launched = admin.post(f"{guests}/guests", json={"name": name, "security_policy_base64": policy}).raise_for_status()
                environment[name] = launched.json()["url"]
        for name, value in environment.items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    # Before any thread is made, so that all of them inherit it and the wait below gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with tempfile.TemporaryDirectory(prefix="cgs-") as made:
        main(Path(made))
