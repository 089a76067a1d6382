"""Entra ID and Azure Resource Manager in one server: ``python -m localcloud.standins.entra --config FILE``.

Routes of Entra ID (``{tenant}`` is an ID or a domain):

* ``GET /{tenant}/v2.0/.well-known/openid-configuration`` and ``GET /{tenant}/discovery/v2.0/keys``
* ``POST /{tenant}/oauth2/v2.0/token``: grant ``client_credentials`` with ``client_secret``, or with a federated ``client_assertion``
* ``GET /common/discovery/instance``, which MSAL requests for an unknown authority

Routes of ARM: :mod:`localcloud.standins.arm`. Errors have the real codes and JSON shapes, so that ``azure-identity`` reports
them as it does in production.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.transport import async_http_client, ssl_context
from localcloud.standins.arm.server import Arm
from localcloud.standins.directory import Account, Directory, DirectoryConfig, Tenant
from localcloud.standins.entra.federation import check_assertion
from localcloud.standins.serving import StandInConfig, health_route, main
from localcloud.standins.tokens import KNOWN_RESOURCES, EntraError, TokenSigner

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class EntraConfig(StandInConfig, DirectoryConfig):
    """Configuration of the server."""

    authority: str | None = None
    """Public base URL, with which every issuer URL starts (default: ``https://localhost:<port>``)."""
    issuer_ca_file: Path | None = None
    """Root certificates for external issuers of federated credentials (default: the system's)."""
    resources: frozenset[str] = frozenset()
    """Further resources (audiences) for which tokens are issued."""
    token_seconds: int = Field(default=3600, ge=1)


class Entra:
    """The routes of Entra ID."""

    def __init__(self, config: EntraConfig, directory: Directory, signer: TokenSigner) -> None:
        self._config = config
        self._directory = directory
        self._signer = signer
        self.http = async_http_client(ssl_context(config.issuer_ca_file), timeout=10)
        self._resources = KNOWN_RESOURCES | config.resources

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/common/discovery/instance", self.instance, methods=["GET"]),
            Route("/{tenant}/v2.0/.well-known/openid-configuration", self.discovery, methods=["GET"]),
            Route("/{tenant}/discovery/v2.0/keys", self.keys, methods=["GET"]),
            Route("/{tenant}/oauth2/v2.0/token", self.token, methods=["POST"]),
        ]

    def authority(self, request: Request) -> str:
        """Return the configured authority, else the address of the socket. The Host header is never used."""
        return (self._config.authority or f"https://localhost:{request.scope['server'][1]}").rstrip("/")

    async def instance(self, request: Request) -> Response:
        """Answer the instance discovery of MSAL."""
        authority = self.authority(request)
        host = authority.removeprefix("https://")
        tenant = request.query_params.get("authorization_endpoint", "").removeprefix("https://").partition("/")[2].partition("/")[0]
        return JSONResponse(
            {
                "tenant_discovery_endpoint": f"{authority}/{tenant or 'common'}/v2.0/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
            }
        )

    async def discovery(self, request: Request) -> Response:
        """Answer with the OpenID configuration of a tenant."""
        authority = self.authority(request)
        try:
            tenant = self._tenant(request)
        except EntraError as error:
            return error.response(authority, None)
        base = f"{authority}/{tenant.id}"
        return JSONResponse(
            {
                "issuer": f"{base}/v2.0",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "claims_supported": ["sub", "iss", "aud", "exp", "iat", "tid", "oid", "preferred_username", "name", "ver"],
            }
        )

    async def keys(self, request: Request) -> Response:
        """Answer with the signing keys of a tenant."""
        authority = self.authority(request)
        try:
            tenant = self._tenant(request)
        except EntraError as error:
            return error.response(authority, None)
        return JSONResponse(self._signer.jwks(f"{authority}/{tenant.id}/v2.0"))

    async def token(self, request: Request) -> Response:
        """Issue a token."""
        authority = self.authority(request)
        correlation = request.headers.get("client-request-id")
        async with request.form(max_files=0) as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
        try:
            tenant = self._tenant(request)
            account = await self._authenticate(tenant, fields, request)
            resource = self._resource(fields, tenant)
        except EntraError as error:
            return error.response(authority, correlation)
        lifetime = self._config.token_seconds
        token = self._signer.issue(account, authority=authority, resource=resource, lifetime=lifetime)
        body = {"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token}
        return JSONResponse(body, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    def _tenant(self, request: Request) -> Tenant:
        name = request.path_params["tenant"]
        tenant = self._directory.tenant(name)
        if tenant is None:
            raise EntraError(
                90002,
                "invalid_request",
                f"Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."
                " Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.",
            )
        return tenant

    async def _authenticate(self, tenant: Tenant, fields: dict[str, str], request: Request) -> Account:
        grant = fields.get("grant_type")
        if not grant:
            raise EntraError(900144, "invalid_request", "The request body must contain the following parameter: 'grant_type'.")
        if grant != "client_credentials":
            raise EntraError(70003, "unsupported_grant_type", f"The app requested an unsupported grant type '{grant}'.")
        client_id, secret = _client(fields, request)
        if not client_id:
            raise EntraError(900144, "invalid_request", "The request body must contain the following parameter: 'client_id'.")
        account = self._directory.account(tenant.id, client_id)
        if account is None:
            raise EntraError(
                700016,
                "unauthorized_client",
                f"Application with identifier '{client_id}' was not found in the directory '{tenant.domain}'. This can happen if the"
                " application has not been installed by the administrator of the tenant or consented to by any user in the tenant."
                " You may have sent your authentication request to the wrong tenant.",
            )
        if fields.get("client_assertion_type") == _ASSERTION_TYPE and "client_assertion" in fields:
            credentials = self._directory.federated(account.identity_id) if account.identity_id else []
            await check_assertion(
                fields["client_assertion"], client_id=client_id, name=account.name, credentials=credentials, http=self.http
            )
            return account
        if secret is None:
            raise EntraError(
                7000218,
                "invalid_client",
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            )
        if account.secret is None or not hmac.compare_digest(account.secret, secret.encode()):
            raise EntraError(
                7000215,
                "invalid_client",
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client"
                f" secret ID, for a secret added to app '{client_id}'.",
            )
        return account

    def _resource(self, fields: dict[str, str], tenant: Tenant) -> str:
        scope = fields.get("scope", "")
        asked = [item for item in scope.split() if item not in ("openid", "profile", "offline_access")]
        if len(asked) != 1 or not asked[0].endswith("/.default"):
            raise EntraError(
                70011,
                "invalid_scope",
                "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not"
                f" valid. The scope {scope} is not valid.",
            )
        resource = asked[0].removesuffix("/.default").rstrip("/")
        if resource not in self._resources and not resource.endswith(".blob.core.windows.net"):
            raise EntraError(
                500011,
                "invalid_resource",
                f"The resource principal named {resource} was not found in the tenant named {tenant.domain}. This can happen if the"
                " application has not been installed by the administrator of the tenant or consented to by any user in the tenant."
                " You might have sent your authentication request to the wrong tenant.",
            )
        return resource


def _client(fields: dict[str, str], request: Request) -> tuple[str | None, str | None]:
    """Return client ID and secret from the body, else from HTTP Basic authentication (RFC 6749, section 2.3.1)."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if "client_secret" not in fields and kind.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None, None
        return unquote(name), unquote(secret)
    return fields.get("client_id"), fields.get("client_secret")


def create_app(config: EntraConfig) -> Starlette:
    """Return the ASGI application: Entra ID and ARM with one directory in ``config.state``."""
    directory = Directory(
        config.state / "entra.sqlite",
        tenants=config.tenants,
        principals=config.principals,
        subscriptions=config.subscriptions,
        propagation_seconds=config.propagation_seconds,
    )
    # httpx would also log this server's own requests, including their queries.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signer = TokenSigner(config.state)
    entra = Entra(config, directory, signer)
    arm = Arm(directory, signer, entra.authority)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await entra.http.aclose()
        directory.close()

    return Starlette(routes=[health_route("entra"), *arm.routes(), *entra.routes()], lifespan=lifespan)


def run() -> None:
    """Run the server from the command line (:func:`localcloud.standins.serving.main`)."""
    main("entra", EntraConfig, create_app)
