"""The service accounts of runs, with exactly the rights that the product's chart gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "chart"
SPARK_SERVICE, DRIVER, VIEWER = "spark-service", "spark", "viewer"
_GROUP = "rbac.authorization.k8s.io"
_VIEWER_RULES = [
    {"apiGroups": ["sparkoperator.k8s.io"], "resources": ["sparkapplications"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]},
]
TOKEN_SECONDS = 24 * 3600

# The package is only partly annotated.
_utils: Any = kubernetes.utils


def chart_rules() -> dict[str, list[dict[str, Any]]]:
    """Return the rules of the Spark service and of drivers, from the chart's template."""
    text = (CHART / "templates" / "rbac.yaml").read_text()
    service, driver = (yaml.safe_load(block) for block in re.findall(r"^rules:\n((?:  .*\n)+)", text, re.MULTILINE))
    return {SPARK_SERVICE: service, DRIVER: driver}


def create_accounts(api: kubernetes.client.ApiClient, namespace: str) -> None:
    """Create the namespace of runs and its accounts: the Spark service, the drivers, and a viewer without the right to create."""
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    create(api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    for name, rules in {**chart_rules(), VIEWER: _VIEWER_RULES}.items():
        create_account(api, namespace, name, rules)


def create_account(
    api: kubernetes.client.ApiClient, namespace: str, name: str, rules: list[dict[str, Any]], *, cluster_role: str | None = None
) -> None:
    """Create a service account and its role: one of its name in the namespace, or ``cluster_role``."""
    account = {"name": name, "namespace": namespace}
    create(api, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    kind, metadata = ("ClusterRole", {"name": cluster_role}) if cluster_role else ("Role", account)
    create(api, {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": metadata, "rules": rules})
    subject, reference = {"kind": "ServiceAccount", **account}, {"apiGroup": _GROUP, "kind": kind, "name": metadata["name"]}
    binding = {"apiVersion": f"{_GROUP}/v1", "kind": f"{kind}Binding", "metadata": metadata}
    create(api, {**binding, "subjects": [subject], "roleRef": reference})


def token(api: kubernetes.client.ApiClient, namespace: str, account: str) -> str:
    """Return a token of a service account."""
    core: Any = kubernetes.client.CoreV1Api(api)
    request = {"spec": {"expirationSeconds": TOKEN_SECONDS}}
    return str(core.create_namespaced_service_account_token(account, namespace, request).status.token)


def create(api: kubernetes.client.ApiClient, item: dict[str, Any]) -> None:
    """Create any object, unless one with its name exists."""
    try:
        _utils.create_from_dict(api, item)
    except _utils.FailToCreateError as error:
        if any(found.status != 409 for found in error.api_exceptions):
            raise
