"""Lists every secret of a local cloud, so that a scanner can search for it."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization

from localcloud.standins.cgs.store import Sealer
from localcloud.standins.keyvault.store import KeyStore as VaultStore
from tests.canary.scanner import Scanner, private_numbers, private_parts
from tests.local_cloud import Cloud


def every_secret(cloud: Cloud, scanner: Scanner) -> None:
    """Add every secret of the cloud to ``scanner``."""
    state = cloud.state
    for file in sorted((state / "secrets").iterdir()):
        if file.name == "codec-keyring.json":
            for name, key in json.loads(file.read_text())["keys"].items():
                scanner.know(f"codec key {name}", base64.b64decode(key))
        else:
            scanner.know(f"token {file.name}", file.read_bytes().strip())
    for file in sorted((state / "parties").rglob("*")):
        name = str(file.relative_to(state / "parties"))
        if file.suffix == ".dataset-key":
            text = file.read_bytes().strip()
            scanner.know(f"dataset key {name}", base64.b64decode(text))
        elif file.name == "s3-connection.json":
            scanner.know(f"connection secret {name}", json.loads(file.read_text())["awsSecretAccessKey"].encode())
    for folder in (state / "state", state / "tls", state / "parties"):
        for file in sorted(folder.rglob("*.pem")):
            if b"PRIVATE KEY" in file.read_bytes():
                for part, value in private_parts(file.read_bytes()):
                    scanner.know(f"private key {file.relative_to(state)} {part}", value)
    for name, token in json.loads((state / "state/kubernetes/tokens.json").read_text()).items():
        scanner.know(f"Kubernetes token {name}", token.encode())
    for name, guest in json.loads((state / "guests.json").read_text()).items():
        scanner.know(f"guest capability {name}", guest["url"].rsplit("/", 1)[-1].encode())
    scanner.know("seal of governance", bytes.fromhex((state / "state/cgs/storage.key").read_text()))
    scanner.know("seal of Key Vault", bytes.fromhex((state / "state/keyvault/keyvault-seal.key").read_text()))
    _vault_keys(state, scanner)
    _governance_secrets(state, scanner)


def _vault_keys(state: Path, scanner: Scanner) -> None:
    """Add the private parts of the key encryption keys."""
    vault = VaultStore(state / "state/keyvault")
    try:
        for record in vault.keys(deleted=False):
            for version in vault.versions(record.name):
                key = serialization.load_der_private_key(vault.material(version), None)
                for part, value in private_numbers(key):
                    scanner.know(f"key encryption key {record.name} {part}", value)
    finally:
        vault.close()


def sealed_values(state: Path) -> list[tuple[str, bytes]]:
    """Return key and plain value of everything that governance stores sealed now."""
    sealer = Sealer(state / "state/cgs/storage.key")
    with sqlite3.connect(state / "state/cgs/cgs.sqlite") as db:
        rows = db.execute("SELECT tab, key, value FROM kv").fetchall()
    db.close()
    opened = []
    for table, key, sealed in rows:
        # Public tables contain JSON. A sealed value opens only under its own table and key.
        with suppress(InvalidTag, TypeError, ValueError):
            opened.append((key, sealer.open(table, key, sealed)))
    return opened


def _governance_secrets(state: Path, scanner: Scanner) -> None:
    """Add what governance stores sealed: the owners' secrets, the runs' copies, the issuer's signing key."""
    opened = sealed_values(state)
    assert len(opened) > 5
    for key, plain in opened:
        try:
            value = json.loads(plain)
        except ValueError:
            value = None
        if isinstance(value, dict) and "pem" in value:
            for part, number in private_parts(value["pem"].encode()):
                scanner.know(f"issuer's signing key {part}", number)
        elif isinstance(value, dict) and "awsSecretAccessKey" in value:
            scanner.know(f"secret {key}", value["awsSecretAccessKey"].encode())
        elif isinstance(value, dict) and "consent" in value:
            continue  # A consent receipt is not secret.
        elif len(plain) >= 16:
            scanner.know(f"secret {key}", plain)
