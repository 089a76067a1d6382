"""A vault, a managed HSM and an attestation authority for the tests of this folder."""

from __future__ import annotations

import dataclasses
import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyClient, KeyReleasePolicy
from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.jose.jws import sign
from cleanroom.keys import ReleasePolicy, public_jwk, thumbprint
from cleanroom.keys.vault import KeyVaultSettings
from localcloud.standins.keyvault.release import AttestationIssuer
from localcloud.standins.keyvault.server import KeyVaultConfig, create_app
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.shared_keys import rsa_key

AUTHORITY = "https://maa.test.example"
VECTORS = Path(os.environ.get("CLEANROOM_VECTORS", Path(__file__).parents[3] / ".." / "shared" / "vectors")).resolve()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of genuine vectors. Tests that need it are skipped if it is absent."""
    if not VECTORS.is_dir():
        pytest.skip(f"no vectors at {VECTORS}; set CLEANROOM_VECTORS")
    return VECTORS


class StaticCredential:
    """A credential that returns one opaque token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        assert scopes
        return AccessToken(self._token, int(time.time()) + 3600)


class Authority:
    """An attestation authority that signs any claims."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa_key("authority")
        self.jwks_file = folder / "jwks.json"
        self.jwks_file.write_text(json.dumps({"keys": [public_jwk(self.key, kid="test-key")]}))

    def claims(self, guest: rsa.RSAPublicKey, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        jwk = public_jwk(guest)
        claims = {
            "iss": AUTHORITY,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "x-ms-attestation-type": "sevsnpvm",
            "x-ms-compliance-status": "azure-compliant-uvm",
            "x-ms-sevsnpvm-hostdata": "ab" * 32,
            "x-ms-sevsnpvm-is-debuggable": False,
            "x-ms-sevsnpvm-vmpl": 0,
            "x-ms-runtime": {"keys": [{**jwk, "kid": thumbprint(jwk), "key_ops": ["encrypt"]}]},
        }
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, guest: rsa.RSAPublicKey, **changes: Any) -> str:
        return sign({"typ": "JWT", "kid": "test-key", "jku": f"{AUTHORITY}/certs"}, self.claims(guest, **changes), self.key)


@dataclasses.dataclass
class Vault:
    """A running stand-in."""

    url: str
    ca: Path
    app: Any
    policy: ReleasePolicy

    def settings(self, **changes: Any) -> KeyVaultSettings:
        values: dict[str, Any] = {"vault_url": self.url, "ca_file": self.ca, "verify_challenge_resource": False, "retries": 0, **changes}
        return KeyVaultSettings(**values)

    def client(self, token: str = "officer", **options: Any) -> KeyClient:
        return KeyClient(
            self.url,
            StaticCredential(token),
            verify_challenge_resource=False,
            connection_verify=str(self.ca),
            **{"retry_total": 0, **options},
        )

    def release_policy(self, **options: Any) -> KeyReleasePolicy:
        return KeyReleasePolicy(self.policy.encode(), **options)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def local_ca(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    return LocalAuthority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def guest() -> rsa.RSAPrivateKey:
    """The key pair of an attested guest."""
    return rsa_key()


def start_vault(stack: ExitStack, folder: Path, local_ca: LocalAuthority, authority: Authority, **config: Any) -> Vault:
    tls = local_ca.issue("keyvault")
    values: dict[str, Any] = {
        "tls_cert": tls.cert,
        "tls_key": tls.key,
        "state": folder,
        "static_tokens": {"officer": "oid-officer", "releaser": "oid-releaser", "nobody": "oid-nobody"},
        "roles": {
            "oid-officer": ["Key Vault Crypto Officer"],
            "oid-releaser": ["Key Vault Crypto Service Release User"],
        },
        "attestation": [AttestationIssuer(authority=AUTHORITY, jwks_file=authority.jwks_file)],
        "release_authority": local_ca.folder,
        **config,
    }
    clock = values.pop("clock", None)
    app = create_app(KeyVaultConfig(**values), **({} if clock is None else {"clock": clock}))
    url = stack.enter_context(serving(app, "keyvault", tls))
    return Vault(url, local_ca.ca_file, app, ReleasePolicy.for_clean_room(AUTHORITY, "ab" * 32))


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory, local_ca: LocalAuthority, authority: Authority) -> Iterator[Vault]:
    with ExitStack() as stack:
        yield start_vault(stack, tmp_path_factory.mktemp("vault"), local_ca, authority)


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory, local_ca: LocalAuthority, authority: Authority) -> Iterator[Vault]:
    with ExitStack() as stack:
        yield start_vault(stack, tmp_path_factory.mktemp("hsm"), local_ca, authority, mode="managed-hsm")


@pytest.fixture
def name() -> str:
    """A unique key name."""
    return f"k-{os.urandom(6).hex()}"


def http(vault: Vault, token: str | None = "officer") -> httpx.Client:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    context = ssl.create_default_context(cafile=str(vault.ca))
    return httpx.Client(base_url=vault.url, verify=context, headers=headers, params={"api-version": "7.4"})


def error_of(error: pytest.ExceptionInfo[Any]) -> tuple[int, str, str]:
    body = error.value.response.json()["error"]
    return error.value.status_code, body["code"], body["message"]


def service_answer(kind: type[HttpResponseError], status: int, code: str, message: str = "on purpose", inner: str | None = None) -> Any:
    """An error of the SDK with the service's envelope."""
    envelope = {"code": code, "message": message} | ({} if inner is None else {"innererror": {"code": inner}})
    return kind(message=message, response=http_response(status, {"error": envelope}))


def http_response(status: int, body: Any) -> Any:
    """A response as azure-core passes it to its errors. An exception as body is raised when the body is read."""

    def parsed() -> Any:
        if isinstance(body, Exception):
            raise body
        return body

    return SimpleNamespace(status_code=status, reason="", headers={}, json=parsed, text=str)


def exportable(vault: Vault, name: str, **options: Any) -> Any:
    values = {"hardware_protected": True, "exportable": True, "release_policy": vault.release_policy(), "size": 2048, **options}
    return vault.client().create_rsa_key(name, **values)
