"""Azure Resource Manager, as far as publishing a dataset needs it: managed identities, federated credentials, role assignments.

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
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localcloud.arm_roles import BY_NAME, Role, role_of
from localcloud.entra_directory import Account, Assignment, Directory, FederatedCredential, ManagedIdentity, Subscription
from localcloud.entra_tokens import TokenSigner

AUDIENCES = frozenset(
    f"{host}{slash}" for host in ("https://management.azure.com", "https://management.core.windows.net") for slash in ("", "/")
)
_IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
_MAX_FEDERATED = 20


class ArmError(Exception):
    """A refusal: HTTP status, ARM code, text."""

    def __init__(self, status: int, code: str, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code, text)
        self.status, self.code, self.text, self.headers = status, code, text, headers

    def response(self) -> JSONResponse:
        return JSONResponse({"error": {"code": self.code, "message": self.text}}, self.status, headers=self.headers)


@dataclass(frozen=True)
class Call:
    """One authenticated call."""

    request: Request
    caller: Account
    subscription: Subscription
    path: str
    match: re.Match[str]

    def group(self, name: str) -> str:
        return self.match[name]

    async def body(self) -> dict[str, Any]:
        """The JSON object of the body.

        Raises:
            ArmError: ``InvalidRequestContent``.
        """
        try:
            value = await self.request.json()
        except ValueError as error:
            raise ArmError(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.") from error
        if not isinstance(value, dict):
            raise ArmError(400, "InvalidRequestContent", "The request content was invalid: an object is expected.")
        return value


Handler = Callable[[Call], Coroutine[Any, Any, Response]]


class Arm:
    """The ARM routes over a directory; tokens are those of the same server's Entra ID."""

    def __init__(self, directory: Directory, signer: TokenSigner, authority: Callable[[Request], str]) -> None:
        self._directory = directory
        self._signer = signer
        self._authority = authority
        group = r"/subscriptions/[^/]+/resourceGroups/(?P<group>[^/]+)"
        identities = rf"{group}/providers/{_IDENTITIES}"
        table: list[tuple[str, dict[str, Handler]]] = [
            (r"(?P<scope>/.+)/providers/Microsoft\.Authorization/roleAssignments", {"GET": self._list_assignments}),
            (
                r"(?P<scope>/.+)/providers/Microsoft\.Authorization/roleAssignments/(?P<name>[^/]+)",
                {"GET": self._get_assignment, "PUT": self._put_assignment, "DELETE": self._delete_assignment},
            ),
            (r"(?P<scope>/.+)/providers/Microsoft\.Authorization/roleDefinitions", {"GET": self._list_roles}),
            (r"(?P<scope>/.+)/providers/Microsoft\.Authorization/roleDefinitions/(?P<name>[^/]+)", {"GET": self._get_role}),
            (rf"/subscriptions/[^/]+/providers/{_IDENTITIES}", {"GET": self._list_identities}),
            (identities, {"GET": self._list_identities}),
            (
                rf"{identities}/(?P<name>[^/]+)",
                {"GET": self._get_identity, "PUT": self._put_identity, "PATCH": self._put_identity, "DELETE": self._delete_identity},
            ),
            (
                rf"(?P<identity>{identities}/(?P<parent>[^/]+))/federatedIdentityCredentials",
                {"GET": self._list_federated},
            ),
            (
                rf"(?P<identity>{identities}/(?P<parent>[^/]+))/federatedIdentityCredentials/(?P<name>[^/]+)",
                {"GET": self._get_federated, "PUT": self._put_federated, "DELETE": self._delete_federated},
            ),
            (r"/subscriptions/[^/]+", {"GET": self._get_subscription}),
            (group, {"GET": self._get_group}),
        ]
        self._table = [(re.compile(pattern, re.IGNORECASE), handlers) for pattern, handlers in table]
        directory.seed_assignments(_grants(directory))

    def routes(self) -> list[Route]:
        return [Route("/subscriptions/{rest:path}", self.handle, methods=["GET", "PUT", "PATCH", "DELETE"])]

    async def handle(self, request: Request) -> Response:
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
            call = Call(request, caller, subscription, path, match)
            self._check_group(call)
            return await handler(call)
        raise ArmError(404, "InvalidResourceType", f"The resource type could not be found for '{path}'.")

    # Who may do what

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

    def _require(self, call: Call, action: str, scope: str) -> None:
        now = time.time()
        for assignment in self._directory.assignments(call.caller.object_id):
            role = role_of(assignment.role_id)
            if role is not None and assignment.effective_at <= now and _covers(assignment.scope, scope) and role.permits(action):
                return
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"The client '{call.caller.client_id}' with object id '{call.caller.object_id}' does not have authorization to perform action"
            f" '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
        )

    # Subscriptions and groups

    async def _get_subscription(self, call: Call) -> Response:
        self._require(call, "Microsoft.Resources/subscriptions/read", call.path)
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
        self._require(call, "Microsoft.Resources/subscriptions/resourceGroups/read", call.path)
        return JSONResponse(
            {
                "id": f"/subscriptions/{call.subscription.id}/resourceGroups/{call.group('group')}",
                "name": call.group("group"),
                "type": "Microsoft.Resources/resourceGroups",
                "location": call.subscription.location,
                "properties": {"provisioningState": "Succeeded"},
            }
        )

    # Managed identities

    async def _list_identities(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/read", call.path)
        prefix = re.split(r"/providers/", call.path, maxsplit=1, flags=re.IGNORECASE)[0]
        return JSONResponse({"value": [_identity_json(item) for item in self._directory.identities(prefix)]})

    async def _get_identity(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/read", call.path)
        return JSONResponse(_identity_json(self._identity(call.path)))

    async def _put_identity(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/write", call.path)
        name = call.group("name")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,127}", name):
            raise ArmError(400, "InvalidResourceName", f"The resource name '{name}' is invalid: 3 to 128 letters, digits, '-' and '_'.")
        body = await call.body()
        old = self._directory.identity(call.path)
        if call.request.method == "PATCH" and old is None:
            self._identity(call.path)
        location = str(body.get("location") or (old.location if old else ""))
        if not location:
            raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
        if old is not None and location.replace(" ", "").lower() != old.location.replace(" ", "").lower():
            raise ArmError(
                409,
                "InvalidResourceLocation",
                f"The resource '{name}' already exists in location '{old.location}'. A resource with the same name cannot be created in"
                f" location '{location}'. Please select a new resource name.",
            )
        tags = body.get("tags")
        kept = {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else (old.tags if old else {})
        identity, new = self._directory.put_identity(call.path, call.subscription.tenant_id, name, location, kept)
        return JSONResponse(_identity_json(identity), 201 if new else 200)

    async def _delete_identity(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/delete", call.path)
        return Response(status_code=200 if self._directory.delete_identity(call.path) else 204)

    def _identity(self, resource_id: str) -> ManagedIdentity:
        found = self._directory.identity(resource_id)
        if found is None:
            group, name = resource_id.split("/")[4], resource_id.rpartition("/")[2]
            raise ArmError(404, "ResourceNotFound", f"The Resource '{_IDENTITIES}/{name}' under resource group '{group}' was not found.")
        return found

    # Federated credentials

    async def _list_federated(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/federatedIdentityCredentials/read", call.path)
        identity = self._identity(call.group("identity"))
        return JSONResponse({"value": [_federated_json(item) for item in self._directory.federated(identity.id)]})

    async def _get_federated(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/federatedIdentityCredentials/read", call.path)
        identity = self._identity(call.group("identity"))
        name = call.group("name")
        for item in self._directory.federated(identity.id):
            if item.name.lower() == name.lower():
                return JSONResponse(_federated_json(item))
        raise ArmError(404, "NotFound", f"The specified Federated Identity Credential {name} was not found within '{identity.name}'.")

    async def _put_federated(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/federatedIdentityCredentials/write", call.path)
        identity = self._identity(call.group("identity"))
        name = call.group("name")
        properties = (await call.body()).get("properties")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,119}", name):
            raise ArmError(
                400, "BadRequest", f"Federated Identity Credential name '{name}' is invalid: 3 to 120 letters, digits, '-', '_'."
            )
        if not isinstance(properties, dict):
            raise ArmError(400, "BadRequest", "'properties' is required.")
        issuer, subject, audiences = properties.get("issuer"), properties.get("subject"), properties.get("audiences")
        if not isinstance(issuer, str) or not issuer.startswith("https://"):
            raise ArmError(400, "BadRequest", "Federated Identity Credential 'issuer' has to be an https URL.")
        if not isinstance(subject, str) or not subject:
            raise ArmError(400, "BadRequest", "Federated Identity Credential 'subject' is required.")
        if not isinstance(audiences, list) or len(audiences) != 1 or not isinstance(audiences[0], str):
            raise ArmError(400, "BadRequest", "Federated Identity Credential 'audiences' has to hold exactly one value.")
        others = [item for item in self._directory.federated(identity.id) if item.name.lower() != name.lower()]
        if any((item.issuer, item.subject) == (issuer, subject) for item in others):
            raise ArmError(409, "Conflict", "Issuer and subject combination already exists for this Managed Identity.")
        if len(others) >= _MAX_FEDERATED:
            raise ArmError(400, "BadRequest", f"Too many Federated Identity Credentials: the limit is {_MAX_FEDERATED}.")
        credential, new = self._directory.put_federated(identity.id, name, issuer, subject, audiences)
        return JSONResponse(_federated_json(credential), 201 if new else 200)

    async def _delete_federated(self, call: Call) -> Response:
        self._require(call, f"{_IDENTITIES}/federatedIdentityCredentials/delete", call.path)
        identity = self._identity(call.group("identity"))
        return Response(status_code=200 if self._directory.delete_federated(identity.id, call.group("name")) else 204)

    # Role assignments and definitions

    async def _list_assignments(self, call: Call) -> Response:
        scope = call.group("scope")
        self._require(call, "Microsoft.Authorization/roleAssignments/read", scope)
        found = [a for a in self._directory.assignments() if _covers(a.scope, scope) or _covers(scope, a.scope)]
        for term in re.split(r"\s+and\s+", call.request.query_params.get("$filter", "").strip()):
            found = _filtered(found, term, scope)
        return JSONResponse({"value": [_assignment_json(item) for item in found]})

    async def _get_assignment(self, call: Call) -> Response:
        self._require(call, "Microsoft.Authorization/roleAssignments/read", call.group("scope"))
        return JSONResponse(_assignment_json(self._assignment(call)))

    async def _put_assignment(self, call: Call) -> Response:
        scope, name = call.group("scope"), call.group("name").lower()
        self._require(call, "Microsoft.Authorization/roleAssignments/write", scope)
        try:
            uuid.UUID(name)
        except ValueError as error:
            raise ArmError(400, "InvalidRoleAssignmentId", f"The role assignment ID '{name}' is not valid. It must be a GUID.") from error
        properties = (await call.body()).get("properties")
        if not isinstance(properties, dict) or not properties.get("roleDefinitionId") or not properties.get("principalId"):
            raise ArmError(
                400, "InvalidCreateRoleAssignmentRequest", "properties.roleDefinitionId and properties.principalId are required."
            )
        role = role_of(str(properties["roleDefinitionId"]))
        if role is None:
            raise ArmError(
                400,
                "RoleDefinitionDoesNotExist",
                f"The specified role definition with ID '{properties['roleDefinitionId']}' does not exist.",
            )
        principal_id = str(properties["principalId"]).lower()
        principal = self._directory.account_by_object(call.subscription.tenant_id, principal_id)
        if principal is None:
            raise ArmError(
                400,
                "PrincipalNotFound",
                f"Principal {principal_id.replace('-', '')} does not exist in the directory {call.subscription.tenant_id}. Check that you"
                " have the correct principal ID. If you are creating this principal and then immediately assigning a role, this error"
                " might be related to a replication delay.",
            )
        existing = self._directory.assignments()
        here = next((a for a in existing if a.name == name and a.scope.lower() == scope.lower()), None)
        if here is not None:
            if (here.principal_id, role_of(here.role_id)) != (principal_id, role):
                raise ArmError(
                    400,
                    "RoleAssignmentUpdateNotPermitted",
                    "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
                )
            return JSONResponse(_assignment_json(here), 200)
        twin = next(
            (a for a in existing if (a.scope.lower(), a.principal_id, role_of(a.role_id)) == (scope.lower(), principal_id, role)), None
        )
        if twin is not None:
            raise ArmError(
                409, "RoleAssignmentExists", f"The role assignment already exists. The ID of the existing role assignment is {twin.name}."
            )
        kind = "User" if principal.kind == "user" else "ServicePrincipal"
        definition = _definition_id(call.subscription.id, role)
        created = self._directory.add_assignment(scope, name, definition, principal_id, kind, call.caller.object_id)
        return JSONResponse(_assignment_json(created), 201)

    async def _delete_assignment(self, call: Call) -> Response:
        self._require(call, "Microsoft.Authorization/roleAssignments/delete", call.group("scope"))
        try:
            assignment = self._assignment(call)
        except ArmError:
            return Response(status_code=204)
        self._directory.delete_assignment(assignment)
        return JSONResponse(_assignment_json(assignment))

    def _assignment(self, call: Call) -> Assignment:
        name, scope = call.group("name").lower(), call.group("scope").lower()
        for item in self._directory.assignments():
            if item.name == name and item.scope.lower() == scope:
                return item
        raise ArmError(404, "RoleAssignmentNotFound", f"The role assignment '{name}' is not found.")

    async def _list_roles(self, call: Call) -> Response:
        self._require(call, "Microsoft.Authorization/roleDefinitions/read", call.group("scope"))
        wanted = re.fullmatch(r"\s*roleName eq '(.*)'\s*", call.request.query_params.get("$filter", ""), re.IGNORECASE)
        roles = [role for role in BY_NAME.values() if wanted is None or role.name.lower() == wanted[1].lower()]
        return JSONResponse({"value": [_role_json(call.subscription.id, role) for role in roles]})

    async def _get_role(self, call: Call) -> Response:
        self._require(call, "Microsoft.Authorization/roleDefinitions/read", call.group("scope"))
        role = role_of(call.group("name"))
        if role is None:
            raise ArmError(
                404, "RoleDefinitionDoesNotExist", f"The specified role definition with ID '{call.group('name')}' does not exist."
            )
        return JSONResponse(_role_json(call.subscription.id, role))


def _grants(directory: Directory) -> list[Assignment]:
    """The roles that the config gives, as assignments with names derived from their content."""
    grants = []
    for subscription in directory.subscriptions.values():
        scope = f"/subscriptions/{subscription.id}"
        for grant in subscription.grants:
            role = BY_NAME[grant.role]
            account = directory.account_by_object(subscription.tenant_id, grant.object_id)
            if account is None:
                raise ValueError(f"subscription {subscription.name}: no principal {grant.object_id} in its tenant")
            name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}|{role.id}|{grant.object_id}"))
            kind = "User" if account.kind == "user" else "ServicePrincipal"
            grants.append(Assignment(scope, name, _definition_id(subscription.id, role), grant.object_id, kind, "", 0.0, 0.0))
    return grants


def _covers(outer: str, inner: str) -> bool:
    """Whether ``outer`` is ``inner`` or a scope above it."""
    a, b = outer.rstrip("/").lower(), inner.rstrip("/").lower()
    return a == b or b.startswith(f"{a}/")


def _filtered(found: list[Assignment], term: str, scope: str) -> list[Assignment]:
    if not term:
        return found
    if term.lower() == "atscope()":
        return [a for a in found if _covers(a.scope, scope)]
    match = re.fullmatch(r"(assignedTo\('([^']+)'\)|principalId eq '([^']+)')", term, re.IGNORECASE)
    if match is None:
        raise ArmError(
            400, "UnsupportedQuery", f"The filter '{term}' is not supported. Supported: atScope(), assignedTo('…'), principalId eq '…'."
        )
    found = [a for a in found if a.principal_id == (match[2] or match[3]).lower()]
    if match[2]:
        # The data planes of this machine ask with assignedTo: they see an assignment when it has propagated, its maker at once.
        found = [a for a in found if a.effective_at <= time.time()]
    return found


def _definition_id(subscription_id: str, role: Role) -> str:
    return f"/subscriptions/{subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{role.id}"


def _identity_json(item: ManagedIdentity) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "type": _IDENTITIES,
        "location": item.location,
        "tags": item.tags,
        "properties": {"tenantId": item.tenant_id, "principalId": item.principal_id, "clientId": item.client_id},
    }


def _federated_json(item: FederatedCredential) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "type": f"{_IDENTITIES}/federatedIdentityCredentials",
        "properties": {"issuer": item.issuer, "subject": item.subject, "audiences": list(item.audiences)},
    }


def _assignment_json(item: Assignment) -> dict[str, Any]:
    stamp = datetime.fromtimestamp(item.created_at, UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": item.id,
        "name": item.name,
        "type": "Microsoft.Authorization/roleAssignments",
        "properties": {
            "roleDefinitionId": item.role_id,
            "principalId": item.principal_id,
            "principalType": item.principal_type,
            "scope": item.scope,
            "createdBy": item.created_by,
            "createdOn": stamp,
            "updatedOn": stamp,
        },
    }


def _role_json(subscription_id: str, role: Role) -> dict[str, Any]:
    permission = {"actions": role.actions, "notActions": role.not_actions, "dataActions": role.data_actions, "notDataActions": []}
    return {
        "id": _definition_id(subscription_id, role),
        "name": role.id,
        "type": "Microsoft.Authorization/roleDefinitions",
        "properties": {"roleName": role.name, "type": "BuiltInRole", "assignableScopes": ["/"], "permissions": [permission]},
    }
