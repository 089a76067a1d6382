"""Clients and an external token issuer for tests of Entra ID and ARM."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jwt
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.msi import ManagedServiceIdentityClient
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cleanroom.clients.azure import (
    ARM_SCOPE,
    FederatedCredentials,
    Federation,
    ManagedIdentities,
    ManagedIdentity,
    RoleAssignments,
    credential,
    federated_credential,
)
from cleanroom.clients.azure_credentials import Credential
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.servers import AzureWorld
from tests.shared_keys import rsa_key

STORAGE_SCOPE = "https://storage.azure.com/.default"


@dataclass
class Issuer:
    """An issuer like governance's: tokens are PS256 although its key set names RS256, and times are strings."""

    url: str
    key: rsa.RSAPrivateKey
    kid: str = "cgs-1"

    def assertion(self, **changes: Any) -> str:
        """Sign a token whose claims match :meth:`federation`, except for ``changes``."""
        now = int(time.time())
        claims = {
            "aud": "api://AzureADTokenExchange",
            "exp": str(now + 300),
            "nbf": str(now),
            "iat": str(now),
            "iss": self.url,
            "jti": uuid.uuid4().hex,
            "sub": "contract-owner",
        } | changes
        return jwt.encode(claims, self.key, algorithm="PS256", headers={"kid": self.kid})

    def federation(self, **changes: str) -> Federation:
        """The federated credential that accepts :meth:`assertion`."""
        return Federation(**({"issuer": self.url, "subject": "contract-owner"} | changes))


@contextmanager
def issuing(authority: LocalAuthority) -> Iterator[Issuer]:
    """Serve an issuer's discovery document and key set."""
    key = rsa_key("issuer")
    issuer = Issuer("", key)

    async def discovery(request: Request) -> JSONResponse:
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"})

    async def keys(request: Request) -> JSONResponse:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        return JSONResponse({"keys": [{"alg": "RS256", "use": "sig", "kty": "RSA", "kid": "cgs-1", "n": public["n"], "e": public["e"]}]})

    app = Starlette(routes=[Route("/oidc/.well-known/openid-configuration", discovery), Route("/oidc/keys", keys)])
    with serving(app, "issuer", authority.issue("issuer")) as url:
        issuer.url = f"{url}/oidc"
        yield issuer


def user_credential(world: AzureWorld) -> Credential:
    """The credential of Contosso's user, who owns the subscription."""
    return credential(world.credential("contosso"), ca_file=world.ca_file)


def identities(world: AzureWorld) -> ManagedIdentities:
    """Managed identities of Contosso's subscription."""
    return ManagedIdentities(user_credential(world), world.azure("contosso"), ca_file=world.ca_file)


def role_assignments(world: AzureWorld) -> RoleAssignments:
    """Role assignments of Contosso's subscription."""
    return RoleAssignments(user_credential(world), world.azure("contosso"), ca_file=world.ca_file)


def federated_credentials(world: AzureWorld) -> FederatedCredentials:
    """Federated credentials of Contosso's managed identities."""
    return FederatedCredentials(user_credential(world), world.azure("contosso"), ca_file=world.ca_file)


def federated(world: AzureWorld, identity: ManagedIdentity, assertion: str, registered: Federation | None = None) -> Credential:
    """The credential of a managed identity that signs in with ``assertion``."""
    return federated_credential(
        identity.tenant_id, identity.client_id, lambda: assertion, authority=world.url, ca_file=world.ca_file, registered=registered
    )


def msi_sdk(world: AzureWorld) -> ManagedServiceIdentityClient:
    """The unmodified SDK client of managed identities."""
    return ManagedServiceIdentityClient(
        user_credential(world),
        world.subscription_id("contosso"),
        base_url=world.url,
        credential_scopes=[ARM_SCOPE],
        connection_verify=str(world.ca_file),
    )


def authorization_sdk(world: AzureWorld, name: str = "user") -> AuthorizationManagementClient:
    """The unmodified SDK client of role assignments, for one of Contosso's principals."""
    return AuthorizationManagementClient(
        credential(world.credential("contosso", name), ca_file=world.ca_file),
        world.subscription_id("contosso"),
        base_url=world.url,
        credential_scopes=[ARM_SCOPE],
        connection_verify=str(world.ca_file),
    )


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, without verification."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
    return claims
