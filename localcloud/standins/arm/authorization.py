"""The resource provider ``Microsoft.Authorization``: role assignments and role definitions."""

from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from localcloud.standins.arm.call import ArmError, Call, Routes, covers
from localcloud.standins.arm.roles import BY_NAME, Role, role_of
from localcloud.standins.directory import Assignment, Directory


class AuthorizationProvider:
    """Routes of role assignments. At start the configured grants become assignments."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        directory.seed_assignments(_grants(directory))

    def routes(self) -> Routes:
        """Return the routes."""
        base = r"(?P<scope>/.+)/providers/Microsoft\.Authorization"
        return {
            rf"{base}/roleAssignments": {"GET": self._list_assignments},
            rf"{base}/roleAssignments/(?P<name>[^/]+)": {
                "GET": self._get_assignment,
                "PUT": self._put_assignment,
                "DELETE": self._delete_assignment,
            },
            rf"{base}/roleDefinitions": {"GET": self._list_roles},
            rf"{base}/roleDefinitions/(?P<name>[^/]+)": {"GET": self._get_role},
        }

    async def _list_assignments(self, call: Call) -> Response:
        scope = call.group("scope")
        call.require("Microsoft.Authorization/roleAssignments/read", scope)
        found = [a for a in self._directory.assignments() if covers(a.scope, scope) or covers(scope, a.scope)]
        for term in re.split(r"\s+and\s+", call.request.query_params.get("$filter", "").strip()):
            found = _filtered(found, term, scope)
        return JSONResponse({"value": [_assignment_json(item) for item in found]})

    async def _get_assignment(self, call: Call) -> Response:
        call.require("Microsoft.Authorization/roleAssignments/read", call.group("scope"))
        return JSONResponse(_assignment_json(self._assignment(call)))

    async def _put_assignment(self, call: Call) -> Response:
        scope, name = call.group("scope"), call.group("name").lower()
        call.require("Microsoft.Authorization/roleAssignments/write", scope)
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
        call.require("Microsoft.Authorization/roleAssignments/delete", call.group("scope"))
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
        call.require("Microsoft.Authorization/roleDefinitions/read", call.group("scope"))
        wanted = re.fullmatch(r"\s*roleName eq '(.*)'\s*", call.request.query_params.get("$filter", ""), re.IGNORECASE)
        roles = [role for role in BY_NAME.values() if wanted is None or role.name.lower() == wanted[1].lower()]
        return JSONResponse({"value": [_role_json(call.subscription.id, role) for role in roles]})

    async def _get_role(self, call: Call) -> Response:
        call.require("Microsoft.Authorization/roleDefinitions/read", call.group("scope"))
        role = role_of(call.group("name"))
        if role is None:
            raise ArmError(
                404, "RoleDefinitionDoesNotExist", f"The specified role definition with ID '{call.group('name')}' does not exist."
            )
        return JSONResponse(_role_json(call.subscription.id, role))


def _grants(directory: Directory) -> list[Assignment]:
    """Return the configured grants as assignments, with names derived from their content."""
    grants = []
    for subscription in directory.subscriptions.values():
        scope = f"/subscriptions/{subscription.id}"
        for grant in subscription.grants:
            role = BY_NAME[grant.role]
            account = directory.account_by_object(subscription.tenant_id, grant.object_id)
            if account is None:
                raise ValueError(f"Subscription {subscription.name} has a grant for {grant.object_id}, which is not in its tenant.")
            name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}|{role.id}|{grant.object_id}"))
            kind = "User" if account.kind == "user" else "ServicePrincipal"
            grants.append(Assignment(scope, name, _definition_id(subscription.id, role), grant.object_id, kind, "", 0.0, 0.0))
    return grants


def _filtered(found: list[Assignment], term: str, scope: str) -> list[Assignment]:
    if not term:
        return found
    if term.lower() == "atscope()":
        return [a for a in found if covers(a.scope, scope)]
    match = re.fullmatch(r"(assignedTo\('([^']+)'\)|principalId eq '([^']+)')", term, re.IGNORECASE)
    if match is None:
        raise ArmError(
            400, "UnsupportedQuery", f"The filter '{term}' is not supported. Supported: atScope(), assignedTo('…'), principalId eq '…'."
        )
    found = [a for a in found if a.principal_id == (match[2] or match[3]).lower()]
    if match[2]:
        # The local data planes filter with assignedTo. They see an assignment when it has propagated; its creator sees it immediately.
        found = [a for a in found if a.effective_at <= time.time()]
    return found


def _definition_id(subscription_id: str, role: Role) -> str:
    return f"/subscriptions/{subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{role.id}"


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
