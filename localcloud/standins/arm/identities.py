"""The resource provider ``Microsoft.ManagedIdentity``: user-assigned identities and their federated credentials."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import JSONResponse, Response

from localcloud.standins.arm.call import ArmError, Call, Routes
from localcloud.standins.directory import Directory, FederatedCredential, ManagedIdentity

_IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
_MAX_TEXT = 600
_MAX_FEDERATED = 20


class ManagedIdentityProvider:
    """Routes of user-assigned identities and federated credentials."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def routes(self) -> Routes:
        """Return the routes."""
        identities = rf"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{re.escape(_IDENTITIES)}"
        federated = rf"(?P<identity>{identities}/[^/]+)/federatedIdentityCredentials"
        return {
            rf"/subscriptions/[^/]+/providers/{re.escape(_IDENTITIES)}": {"GET": self._list_identities},
            identities: {"GET": self._list_identities},
            rf"{identities}/(?P<name>[^/]+)": {
                "GET": self._get_identity,
                "PUT": self._put_identity,
                "PATCH": self._put_identity,
                "DELETE": self._delete_identity,
            },
            federated: {"GET": self._list_federated},
            rf"{federated}/(?P<name>[^/]+)": {
                "GET": self._get_federated,
                "PUT": self._put_federated,
                "DELETE": self._delete_federated,
            },
        }

    async def _list_identities(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/read", call.path)
        prefix = re.split(r"/providers/", call.path, maxsplit=1, flags=re.IGNORECASE)[0]
        return JSONResponse({"value": [_identity_json(item) for item in self._directory.identities(prefix)]})

    async def _get_identity(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/read", call.path)
        return JSONResponse(_identity_json(self._identity(call.path)))

    async def _put_identity(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/write", call.path)
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
        call.require(f"{_IDENTITIES}/delete", call.path)
        return Response(status_code=200 if self._directory.delete_identity(call.path) else 204)

    def _identity(self, resource_id: str) -> ManagedIdentity:
        found = self._directory.identity(resource_id)
        if found is None:
            group, name = resource_id.split("/")[4], resource_id.rpartition("/")[2]
            raise ArmError(404, "ResourceNotFound", f"The Resource '{_IDENTITIES}/{name}' under resource group '{group}' was not found.")
        return found

    async def _list_federated(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/federatedIdentityCredentials/read", call.path)
        identity = self._identity(call.group("identity"))
        return JSONResponse({"value": [_federated_json(item) for item in self._directory.federated(identity.id)]})

    async def _get_federated(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/federatedIdentityCredentials/read", call.path)
        identity = self._identity(call.group("identity"))
        name = call.group("name")
        for item in self._directory.federated(identity.id):
            if item.name.lower() == name.lower():
                return JSONResponse(_federated_json(item))
        raise ArmError(404, "NotFound", f"The specified Federated Identity Credential {name} was not found within '{identity.name}'.")

    async def _put_federated(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/federatedIdentityCredentials/write", call.path)
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
        if any(len(value) > _MAX_TEXT for value in (issuer, subject, audiences[0])):
            raise ArmError(
                400, "BadRequest", f"Federated Identity Credential issuer, subject and audience have {_MAX_TEXT} characters at most."
            )
        others = [item for item in self._directory.federated(identity.id) if item.name.lower() != name.lower()]
        if any((item.issuer, item.subject) == (issuer, subject) for item in others):
            raise ArmError(409, "Conflict", "Issuer and subject combination already exists for this Managed Identity.")
        if len(others) >= _MAX_FEDERATED:
            raise ArmError(400, "BadRequest", f"Too many Federated Identity Credentials: the limit is {_MAX_FEDERATED}.")
        credential, new = self._directory.put_federated(identity.id, name, issuer, subject, audiences)
        return JSONResponse(_federated_json(credential), 201 if new else 200)

    async def _delete_federated(self, call: Call) -> Response:
        call.require(f"{_IDENTITIES}/federatedIdentityCredentials/delete", call.path)
        identity = self._identity(call.group("identity"))
        return Response(status_code=200 if self._directory.delete_federated(identity.id, call.group("name")) else 204)


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
