"""Authentication with Entra ID tokens, and role checks with ARM (docs/facts/key-release.md)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt
from pydantic import BaseModel, ConfigDict

from cleanroom.secret import read_secret_file
from cleanroom.transport import http_client, jwks_client, ssl_context
from localcloud.standins.arm.call import covers
from localcloud.standins.arm.roles import BY_NAME, Role, role_of
from localcloud.standins.keyvault.errors import KeyVaultError, forbidden, unauthorized, unavailable

_LOG = logging.getLogger("localcloud.keyvault")
_DATA_ACTIONS = "Microsoft.KeyVault/vaults/keys"


class TokenIssuer(BaseModel):
    """An Entra tenant whose access tokens the vault accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    jwks_uri: str
    ca_file: Path | None = None


class ArmRoles(BaseModel):
    """How role assignments are read from ARM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    vault_id: str
    """ARM resource ID of the vault, the scope of the role check."""
    token_url: str
    """``<authority>/<tenant>/oauth2/v2.0/token``."""
    client_id: str
    client_secret_file: Path
    ca_file: Path | None = None


class Caller(BaseModel):
    """An authenticated caller."""

    model_config = ConfigDict(frozen=True)

    object_id: str


class Authenticator:
    """Verifies bearer tokens: JWTs of the issuers for this vault's audience, or configured static tokens in tests."""

    def __init__(self, issuers: list[TokenIssuer], audience: str, static_tokens: Mapping[str, str]) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._clients = {issuer.issuer: jwks_client(issuer.jwks_uri, issuer.ca_file) for issuer in issuers}
        self._audiences = [audience, f"{audience}/"]
        self._static = dict(static_tokens)

    def authenticate(self, authorization: str | None) -> Caller:
        """Authenticate an ``Authorization`` header.

        Raises:
            KeyVaultError: 401, to be sent with the challenge; 503 if the issuer's keys cannot be fetched.
        """
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
        if token in self._static:
            return Caller(object_id=self._static[token])
        try:
            issuer = str(jwt.decode(token, options={"verify_signature": False}).get("iss"))
            client = self._clients.get(issuer)
            if client is None:
                raise unauthorized("AKV10032: Invalid issuer.")
            claims: dict[str, Any] = jwt.decode(
                token,
                client.get_signing_key_from_jwt(token).key,
                algorithms=["RS256"],
                audience=self._audiences,
                issuer=issuer,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise unavailable("The token issuer's signing keys could not be fetched.") from error
        except jwt.ExpiredSignatureError as error:
            raise unauthorized("[TokenExpired] Error validating token: IDX10223.") from error
        except jwt.InvalidAudienceError as error:
            raise unauthorized("AKV10022: Invalid audience.") from error
        except jwt.PyJWTError as error:
            raise unauthorized(f"[BearerReadAccessTokenFailed] Error validating token: {type(error).__name__}.") from error
        object_id = claims.get("oid")
        if not isinstance(object_id, str):
            raise unauthorized("AKV10034: The token has no oid claim.")
        return Caller(object_id=object_id)


class StaticRoles:
    """Configured roles, for a vault without ARM: object ID to role names. The object ID ``*`` means every caller."""

    def __init__(self, roles: Mapping[str, list[str]]) -> None:
        self._roles = {oid: [BY_NAME[name] for name in names] for oid, names in roles.items()}

    def of(self, caller: Caller, resource: str = "") -> list[Role]:
        """Return the caller's roles."""
        return [*self._roles.get(caller.object_id, []), *self._roles.get("*", [])]


class ArmRoleReader:
    """Reads role assignments from ARM at every request, so that a removed role stops working immediately."""

    def __init__(self, config: ArmRoles) -> None:
        self._config = config
        self._http = http_client(ssl_context(config.ca_file), timeout=10.0)
        self._secret = read_secret_file(config.client_secret_file, what="Key Vault's own client secret")
        self._lock = threading.Lock()
        self._token: tuple[str, float] = ("", 0.0)

    def _bearer(self) -> str:
        with self._lock:
            if self._token[1] < time.monotonic():
                answer = self._http.post(
                    self._config.token_url,
                    data={
                        "grant_type": "client_credentials",
                        "client_id": self._config.client_id,
                        "client_secret": self._secret.reveal_text().strip(),
                        "scope": "https://management.azure.com/.default",
                    },
                )
                answer.raise_for_status()
                document = answer.json()
                self._token = (document["access_token"], time.monotonic() + float(document.get("expires_in", 300)) / 2)
            return self._token[0]

    def of(self, caller: Caller, resource: str = "") -> list[Role]:
        """Return the caller's roles at ``resource``, a path below the vault or account such as ``/keys/name``.

        Raises:
            KeyVaultError: 503 if the role assignments cannot be read. Clients must not take this for a missing role.
        """
        url = f"{self._config.url.rstrip('/')}{self._config.vault_id}/providers/Microsoft.Authorization/roleAssignments"
        parameters = {"api-version": "2022-04-01", "$filter": f"assignedTo('{caller.object_id}')"}
        try:
            answer = self._http.get(url, params=parameters, headers={"Authorization": f"Bearer {self._bearer()}"})
            answer.raise_for_status()
            assignments = answer.json()["value"]
            # ARM also lists the assignments on resources below the scope of the request.
            held = [
                item["properties"] for item in assignments if covers(str(item["properties"]["scope"]), self._config.vault_id + resource)
            ]
            ids = [str(item["roleDefinitionId"]) for item in held]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("role assignments could not be read: %s", type(error).__name__)
            raise unavailable("Role assignments could not be read.") from error
        return [role for role in map(role_of, ids) if role is not None]


def require(roles: list[Role], caller: Caller, action: str, resource: str) -> None:
    """Require that a role permits a data action, such as ``release/action``.

    Raises:
        KeyVaultError: 403 ForbiddenByRbac.
    """
    data_action = f"{_DATA_ACTIONS}/{action}"
    if not any(role.permits_data(data_action) for role in roles):
        raise _forbidden_by_rbac(caller, data_action, resource)


def _forbidden_by_rbac(caller: Caller, action: str, resource: str) -> KeyVaultError:
    message = (
        "Caller is not authorized to perform action on resource.\r\n"
        "If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\n"
        f"Caller: oid={caller.object_id}\r\nAction: '{action}'\r\nResource: '{resource}'\r\nAssignment: (not found)"
    )
    return forbidden(message, "ForbiddenByRbac")
