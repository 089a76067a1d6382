"""Service accounts and their rights (role-based access control)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.requests import Request

from localcloud.standins.kubernetes.store import NAMESPACES, ApiFailure, Resource

ALL_VERBS = frozenset({"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"})
_READ = frozenset({"get", "list", "watch"})

ROLES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "admin": {"*": ALL_VERBS},
    # Exactly the rights of the Spark service in deploy/chart/templates/rbac.yaml.
    "spark-service": {
        "sparkapplications": _READ | {"create", "delete"},
        "pods": _READ,
        "pods/log": frozenset({"get"}),
        "events": _READ,
        "resourcequotas": frozenset({"list"}),
    },
    # Exactly the rights of a driver there: its executor pods, and the objects that Spark creates and removes with them.
    "spark": {
        "pods": _READ | {"create", "patch", "delete", "deletecollection"},
        "configmaps": frozenset({"get", "list", "create", "delete", "deletecollection"}),
        "services": frozenset({"get", "list", "delete", "deletecollection"}),
        "persistentvolumeclaims": frozenset({"get", "list", "delete", "deletecollection"}),
    },
    "viewer": {"sparkapplications": _READ, "pods": _READ, "events": _READ},
}


class Accounts:
    """Service accounts by bearer token. Each has one of :data:`ROLES` in one namespace; ``admin`` has it in all namespaces."""

    def __init__(self, tokens: Mapping[str, str], roles: Mapping[str, str], namespace: str) -> None:
        self._tokens, self._roles, self._namespace = dict(tokens), dict(roles), namespace

    @property
    def names(self) -> frozenset[str]:
        """The names of all accounts."""
        return frozenset(self._roles)

    def allow(self, request: Request, verb: str, resource: Resource | None, namespace: str | None, sub: str = "") -> None:
        """Authenticate a request, and authorise it unless ``resource`` is None (discovery).

        Raises:
            ApiFailure: 401 Unauthorized, 403 Forbidden.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = next((name for name, value in self._tokens.items() if hmac.compare_digest(value, token)), None)
        if scheme.lower() != "bearer" or account is None:
            raise ApiFailure(401, "Unauthorized", "Unauthorized")
        if resource is None:
            return
        role = self._roles[account]
        rights = ROLES[role]
        named = f"{resource.plural}/{sub}" if sub else resource.plural
        home = namespace == self._namespace or (resource is NAMESPACES and namespace is None)
        if "*" in rights or (home and verb in rights.get(named, frozenset())):
            return
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        user = f"system:serviceaccount:{self._namespace}:{account}"
        raise ApiFailure(
            403,
            "Forbidden",
            f'{resource.qualified} is forbidden: User "{user}" cannot {verb} resource "{named}" in API group "{resource.group}"{where}',
            {"kind": resource.plural, **({"group": resource.group} if resource.group else {})},
        )
