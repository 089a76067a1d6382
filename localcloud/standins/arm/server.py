"""The part of Azure Resource Manager that publishing a dataset needs: managed identities, federated credentials, role assignments.

Routes (any ``api-version``; ids compare without regard to case):

* ``/subscriptions/{s}``, ``/subscriptions/{s}/resourceGroups/{g}``: GET
* ``…/providers/Microsoft.ManagedIdentity/userAssignedIdentities[/{name}]``: GET, PUT, PATCH, DELETE
* ``…/userAssignedIdentities/{name}/federatedIdentityCredentials[/{name}]``: GET, PUT, DELETE
* ``{scope}/providers/Microsoft.Authorization/roleAssignments[/{guid}]``: GET (``$filter``: ``atScope()``, ``assignedTo('…')``,
  ``principalId eq '…'``), PUT, DELETE
* ``{scope}/providers/Microsoft.Authorization/roleDefinitions[/{guid}]``: GET (``$filter=roleName eq '…'``)

Every call needs a bearer token for ARM from the subscription's own tenant, and a role that permits the action there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localcloud.standins.arm.authorization import AuthorizationProvider
from localcloud.standins.arm.call import ArmError, Call, Routes
from localcloud.standins.arm.identities import ManagedIdentityProvider
from localcloud.standins.directory import Account, Directory, Subscription
from localcloud.standins.tokens import TokenSigner

AUDIENCES = frozenset(
    f"{host}{slash}" for host in ("https://management.azure.com", "https://management.core.windows.net") for slash in ("", "/")
)


class Arm:
    """The ARM routes. They accept tokens of the Entra ID in the same server."""

    def __init__(self, directory: Directory, signer: TokenSigner, authority: Callable[[Request], str]) -> None:
        self._directory = directory
        self._signer = signer
        self._authority = authority
        own: Routes = {
            r"/subscriptions/[^/]+": {"GET": self._get_subscription},
            r"/subscriptions/[^/]+/resourceGroups/(?P<group>[^/]+)": {"GET": self._get_group},
        }
        self._table = [
            (re.compile(pattern, re.IGNORECASE), handlers)
            for routes in (AuthorizationProvider(directory).routes(), ManagedIdentityProvider(directory).routes(), own)
            for pattern, handlers in routes.items()
        ]

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/subscriptions/{rest:path}", self.handle, methods=["GET", "PUT", "PATCH", "DELETE"])]

    async def handle(self, request: Request) -> Response:
        """Answer a request to ARM."""
        try:
            return await self._dispatch(request)
        except ArmError as error:
            return error.response()

    async def _dispatch(self, request: Request) -> Response:
        path = request.url.path.rstrip("/")
        caller = self._caller(request)
        subscription = self._subscription(path, caller)
        if not request.query_params.get("api-version"):
            raise ArmError(
                400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests."
            )
        for pattern, handlers in self._table:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            handler = handlers.get(request.method)
            if handler is None:
                raise ArmError(405, "MethodNotAllowed", f"The HTTP method {request.method} is not supported here.")
            call = Call(self._directory, request, caller, subscription, path, match)
            self._check_group(call)
            return await handler(call)
        raise ArmError(404, "InvalidResourceType", f"The resource type could not be found for '{path}'.")

    # Authentication

    def _caller(self, request: Request) -> Account:
        challenge = {"WWW-Authenticate": f'Bearer authorization_uri="{self._authority(request)}/", error="invalid_token"'}
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise ArmError(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", challenge)
        try:
            claims = self._signer.verify(token, AUDIENCES)
        except jwt.ExpiredSignatureError as error:
            raise ArmError(401, "ExpiredAuthenticationToken", "The access token has expired.", challenge) from error
        except jwt.InvalidAudienceError as error:
            raise ArmError(
                401, "InvalidAuthenticationTokenAudience", "The access token has been obtained for the wrong audience.", challenge
            ) from error
        except jwt.PyJWTError as error:
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.", challenge) from error
        caller = self._directory.account_by_object(str(claims.get("tid")), str(claims["oid"]))
        if caller is None:
            raise ArmError(401, "InvalidAuthenticationToken", "The principal of the access token does not exist.", challenge)
        return caller

    def _subscription(self, path: str, caller: Account) -> Subscription:
        wanted = path.split("/")[2].lower()
        subscription = self._directory.subscriptions.get(wanted)
        if subscription is None:
            raise ArmError(404, "SubscriptionNotFound", f"The subscription '{wanted}' could not be found.")
        if subscription.tenant_id != caller.tenant_id:
            raise ArmError(
                401,
                "InvalidAuthenticationTokenTenant",
                f"The access token is from the wrong issuer '{caller.tenant_id}'. It must match the tenant '{subscription.tenant_id}'"
                " associated with this subscription.",
            )
        return subscription

    def _check_group(self, call: Call) -> None:
        match = re.match(r"/subscriptions/[^/]+/resourceGroups/([^/]+)", call.path, re.IGNORECASE)
        if match and match[1].lower() not in {name.lower() for name in call.subscription.resource_groups}:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{match[1]}' could not be found.")

    # Subscriptions and groups

    async def _get_subscription(self, call: Call) -> Response:
        call.require("Microsoft.Resources/subscriptions/read", call.path)
        it = call.subscription
        return JSONResponse(
            {
                "id": f"/subscriptions/{it.id}",
                "subscriptionId": it.id,
                "tenantId": it.tenant_id,
                "displayName": it.name,
                "state": "Enabled",
            }
        )

    async def _get_group(self, call: Call) -> Response:
        call.require("Microsoft.Resources/subscriptions/resourceGroups/read", call.path)
        return JSONResponse(
            {
                "id": f"/subscriptions/{call.subscription.id}/resourceGroups/{call.group('group')}",
                "name": call.group("group"),
                "type": "Microsoft.Resources/resourceGroups",
                "location": call.subscription.location,
                "properties": {"provisioningState": "Succeeded"},
            }
        )
