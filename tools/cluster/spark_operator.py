"""The Spark Operator of the test cluster: its CRDs, its released rights, its webhooks, and its two processes.

The rights come from the chart of the operator's own module, so that they are those of its release. The operator
runs next to the API server instead of in pods; therefore the webhook's Service is an alias of ``localhost``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes
import yaml

from localcloud.launcher.processes import free_ports
from tools.cluster.binaries import OPERATOR, operator_source, spark_home
from tools.cluster.control_plane import LOOPBACK, ControlPlane
from tools.cluster.rights import create, create_account, token
from tools.cluster.servers import ServerFailed

NAMESPACE = "spark-operator"
WEBHOOK = "spark-operator-webhook"
_SERVICE = f"{WEBHOOK}-svc"
_APPLICATION = ("sparkoperator.k8s.io", "v1beta2", "sparkapplications")
_ROLES = ("controller", "webhook")


class SparkOperator:
    """The operator of one cluster. It manages the applications of ``namespace``."""

    def __init__(self, plane: ControlPlane, api: kubernetes.client.ApiClient, namespace: str) -> None:
        self._plane, self._api, self._namespace = plane, api, namespace
        self._chart = operator_source() / "charts" / "spark-operator-chart"
        self._webhook_port = free_ports(1)[0]

    def install(self) -> None:
        """Create the objects of the operator's chart, and wait until the API server serves its CRDs.

        Raises:
            ServerFailed: The CRDs are not established in time.
        """
        create(self._api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for file in sorted((self._chart / "crds").glob("*.yaml")):
            # 1.7 MB of YAML: the parser in C is ten times as fast.
            create(self._api, yaml.load(file.read_text(), yaml.CSafeLoader))
        late = "the CRDs of the Spark Operator are not established after 60 s"
        self._plane.servers.wait_until(self._established, 60, late)
        for role in _ROLES:
            rules = [*released_rules(self._chart, role), *_install_rules(role)]
            create_account(self._api, NAMESPACE, role, rules, cluster_role=f"spark-operator-{role}")
        self._register_webhooks()

    def start(self) -> None:
        """Start controller and webhook, and wait until both are ready.

        Raises:
            ServerFailed: One has ended, or is not ready in time.
        """
        certificates = self._plane.folder / "webhook"
        certificates.mkdir()
        arguments = {
            "controller": ["--enable-ui-service=true", "--controller-threads=4"],
            "webhook": [
                f"--webhook-cert-dir={certificates}",
                f"--webhook-port={self._webhook_port}",
                f"--webhook-secret-name={WEBHOOK}-certs",
                f"--webhook-secret-namespace={NAMESPACE}",
                f"--webhook-svc-name={_SERVICE}",
                f"--webhook-svc-namespace={NAMESPACE}",
                f"--mutating-webhook-name={WEBHOOK}",
                f"--validating-webhook-name={WEBHOOK}",
            ],
        }
        probes = [self._start(role, arguments[role]) for role in _ROLES]
        for probe in probes:
            self._plane.servers.wait_ready(probe, 90)

    def _start(self, role: str, arguments: list[str]) -> str:
        """Start one of the processes, and return the URL of its readiness probe."""
        name, port = f"operator-{role}", free_ports(1)[0]
        environment = {
            "KUBECONFIG": str(self._plane.kubeconfig(name, token=token(self._api, NAMESPACE, role))),
            "SPARK_HOME": str(spark_home()),
            # A pod finds these variables in its environment. The operator derives the address of spark-submit from them.
            "KUBERNETES_SERVICE_HOST": self._plane.address or LOOPBACK,
            "KUBERNETES_SERVICE_PORT": str(self._plane.port),
        }
        common = [f"--namespaces={self._namespace}", "--leader-election=false", f"--health-probe-bind-address={LOOPBACK}:{port}"]
        self._plane.servers.start(name, [OPERATOR.path, role, "start", *common, *arguments], environment)
        return f"http://{LOOPBACK}:{port}/readyz"

    def _established(self) -> bool:
        definitions = kubernetes.client.ApiextensionsV1Api(self._api).list_custom_resource_definition().items
        return all(_is_established(item) for item in definitions)

    def _register_webhooks(self) -> None:
        alias = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": self._webhook_port}]}
        create(self._api, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": _SERVICE, "namespace": NAMESPACE}, "spec": alias})
        launched = {"matchLabels": {"sparkoperator.k8s.io/launched-by-spark-operator": "true"}}
        pods = self._webhook("mutate--v1-pod", ("", "v1", "pods"), ["CREATE"]) | {"objectSelector": launched}
        applications = {
            kind: self._webhook(f"{kind}-sparkoperator-k8s-io-v1beta2-sparkapplication", _APPLICATION, ["CREATE", "UPDATE"])
            for kind in ("mutate", "validate")
        }
        for kind, webhooks in (("Mutating", [pods, applications["mutate"]]), ("Validating", [applications["validate"]])):
            version = "admissionregistration.k8s.io/v1"
            metadata = {"name": WEBHOOK}
            create(self._api, {"apiVersion": version, "kind": f"{kind}WebhookConfiguration", "metadata": metadata, "webhooks": webhooks})

    def _webhook(self, path: str, resource: tuple[str, str, str], operations: list[str]) -> dict[str, Any]:
        group, version, plural = resource
        service = {"name": _SERVICE, "namespace": NAMESPACE, "port": self._webhook_port, "path": f"/{path}"}
        namespaces = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [self._namespace]}
        return {
            "name": f"{path}.sparkoperator.k8s.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": service},
            "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchExpressions": [namespaces]},
            "rules": [{"apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": operations}],
            "timeoutSeconds": 10,
        }


def released_rules(chart: Path, role: str) -> list[dict[str, Any]]:
    """Return the rules of ``role`` in the operator's chart, without its optional parts.

    Raises:
        ServerFailed: The chart has another form than in the pinned release.
    """
    text = (chart / "templates" / role / "_helpers.tpl").read_text()
    found = re.search(rf'define "spark-operator\.{role}\.policyRules" -}}}}\n(.*?)\n{{{{- (?:if|end)', text, re.DOTALL)
    if found is None:
        raise ServerFailed(f"the chart in {chart} does not define the rules of the {role}")
    rules: list[dict[str, Any]] = yaml.safe_load(found[1])
    return rules


def _install_rules(role: str) -> list[dict[str, Any]]:
    """Return the rules that the chart adds outside of its shared templates."""
    if role == "controller":
        return [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
            {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]},
        ]
    kinds = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]
    return [
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "update", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "update"]},
        {"apiGroups": ["admissionregistration.k8s.io"], "resources": kinds, "verbs": ["list", "watch", "get", "update"]},
    ]


def _is_established(definition: Any) -> bool:
    return any(item.type == "Established" and item.status == "True" for item in definition.status.conditions or ())
