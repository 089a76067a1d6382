"""Checks before the first run of the Spark Operator: its version, and the rights of operator and drivers in the namespace of the runs.

Only an administrator may ask the API server what another account may do, and which deployments another namespace has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cleanroom.spark.kubernetes_api import call_json

if TYPE_CHECKING:
    import kubernetes


@dataclass(frozen=True)
class Right:
    """One right of an account in a namespace."""

    verb: str
    resource: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


SUBMISSION = (
    Right("create", "pods"),
    Right("create", "configmaps"),
    Right("create", "services"),
    Right("get", "pods"),
    Right("list", "pods"),
)
"""What ``spark-submit`` in cluster mode does as the operator's account."""

NETWORK_POLICIES = Right("create", "networkpolicies", "networking.k8s.io")
"""What ``spark-submit`` of Spark 4.3 does in addition, and that of Spark 4.0 does not. Spark Operator 2.3.0 lacks it."""

DRIVER = (
    Right("create", "pods"),
    Right("watch", "pods"),
    Right("deletecollection", "pods"),
    Right("create", "configmaps"),
    Right("list", "services"),
    Right("list", "persistentvolumeclaims"),
)
"""What a driver does with its executors and the objects of Spark."""


def missing_rights(api: kubernetes.client.ApiClient, account: str, namespace: str, rights: Iterable[Right]) -> list[Right]:
    """Return the rights that a service account lacks.

    Args:
        api: A client with the right to create ``localsubjectaccessreviews``.
        account: The account as ``NAMESPACE/NAME``.
        namespace: Where the account needs the rights.
        rights: The rights.

    Raises:
        Refused: ``Forbidden`` without that right.
    """
    home, _, name = account.partition("/")
    import kubernetes

    review = kubernetes.client.AuthorizationV1Api(api).create_namespaced_local_subject_access_review
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
    lacking = []
    for right in rights:
        attributes = {"namespace": namespace, "verb": right.verb, "resource": right.resource, "group": right.group}
        spec = {"user": f"system:serviceaccount:{home}:{name}", "groups": groups, "resourceAttributes": attributes}
        body = {"metadata": {"namespace": namespace}, "spec": spec}
        answer = call_json(f"ask what {account} may do", review, namespace, body, members=["status"])
        if not answer["status"].get("allowed"):
            lacking.append(right)
    return lacking


def operator_versions(api: kubernetes.client.ApiClient, namespace: str) -> list[str]:
    """Return the versions of the Spark Operator's deployments in its namespace: the label that its Helm chart sets, or the image's tag.

    Args:
        api: A client with the right to list ``deployments`` there.
        namespace: The operator's namespace.

    Raises:
        Refused: ``Forbidden`` without that right.
    """
    import kubernetes

    deployments = kubernetes.client.AppsV1Api(api).list_namespaced_deployment
    selector = "app.kubernetes.io/name=spark-operator"
    what = f"list deployments of the Spark Operator in namespace {namespace}"
    found = call_json(what, deployments, namespace, label_selector=selector, members=["items"])["items"]
    return sorted({_version(item) for item in found})


def _version(deployment: Mapping[str, Any]) -> str:
    label = (deployment["metadata"].get("labels") or {}).get("app.kubernetes.io/version")
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return (label or image.partition("@")[0].rpartition(":")[2]).removeprefix("v")
