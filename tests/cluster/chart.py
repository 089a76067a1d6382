"""The chart on a cluster, installed with the commands of docs/kubernetes.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes
import yaml

from cleanroom.secret import write_secret_file
from cleanroom.spark.policy import POLICY_ANNOTATION, PodPolicy
from tests.cluster.place import Place
from tests.cluster.runs import PATIENCE
from tests.cluster.worker_policies import worker_policy
from tools.cluster.binaries import HELM, KUBE, KUBERNETES, operator_source

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/kubernetes.md"
EXAMPLE = ROOT / "deploy/chart/ci/example-values.yaml"
RELEASE, NAMESPACE = "cr", "cleanroom"
OPERATOR_NAMESPACE = "spark-operator"
ATTESTED = ("clean-room", "spark-service")
FILES = ("keyring.json", "governance.pem", "s3.json")


def documented_commands() -> list[str]:
    """Return the commands of kubectl and helm in the order in which the page has them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(("kubectl ", "helm "))]


@dataclass
class Chart:
    """A release of the chart.

    ``outputs`` has what each documented command printed, and ``deployments`` the deployment of each boundary.
    """

    place: Place
    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)
    deployments: dict[str, Any] = field(default_factory=dict)

    def install(self) -> None:
        """Run the documented commands, with the example's values for an image that the cluster has."""
        for name in FILES:
            (self.folder / name).write_text(name)
        (self.folder / "deploy").symlink_to(ROOT / "deploy")
        (self.folder / "my-values.yaml").write_text(yaml.safe_dump(values := self.values()))
        kubeconfig: dict[str, Any] = json.loads(self.place.kubeconfig("admin").read_text())
        for namespace in (NAMESPACE, OPERATOR_NAMESPACE):
            for context in kubeconfig["contexts"]:
                context["context"]["namespace"] = namespace
            write_secret_file(self.folder / namespace, json.dumps(kubeconfig).encode())
        with self.place.api() as api:
            create_what_a_cluster_has(api)
        for boundary, policy in self._policies().items():
            values["boundaries"][boundary]["podAnnotations"] = {POLICY_ANNOTATION: policy.rego_base64}
        (self.folder / "my-values.yaml").write_text(yaml.safe_dump(values))
        for command in documented_commands():
            self.outputs[command] = self._documented(shlex.split(command))

    def values(self) -> dict[str, Any]:
        """Return the example's values with one version, on any node, with a program that answers the probes."""
        values: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
        repository, _, digest = self.place.image.partition("@")
        values["image"] |= {"repository": repository, "digest": digest}
        del values["draining"]
        for boundary in (*values["boundaries"].values(), *values["collaborators"].values()):
            boundary |= {"replicas": 1, "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}}
            boundary.pop("nodeSelector", None)
            if "podAnnotations" in boundary:
                # The policy measures the rest of the pod.
                del boundary["podAnnotations"]
            for sidecar in boundary.get("sidecars", ()):
                sidecar |= {"image": self.place.image, "command": ["/bin/sleep", "86400"]}
        return values

    def _policies(self) -> dict[str, PodPolicy]:
        """Return the policies of the attested boundaries, which measure what `helm template` renders."""
        options = ["--namespace", NAMESPACE, "--values", "my-values.yaml", "--kube-version", KUBERNETES]
        rendered = list(yaml.safe_load_all(self.run("helm", "template", RELEASE, "deploy/chart", *options)))
        deployments = {
            item["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"]["template"]["spec"]
            for item in rendered
            if item and item["kind"] == "Deployment"
        }
        return {boundary: worker_policy(self.place, deployments[boundary]) for boundary in ATTESTED}

    def _documented(self, command: list[str]) -> str:
        if command[:3] == ["kubectl", "create", "namespace"]:
            # The cluster was started with the namespace of the runs.
            return self.run(*command, allowed="AlreadyExists")
        if command[:3] == ["helm", "install", "spark-operator"]:
            return self._try_operator(command)
        if command[0] == "helm":
            # The cluster was started with the drivers' account, too.
            command += ["--take-ownership"]
        return self.run(*command)

    def _try_operator(self, command: list[str]) -> str:
        """Let the API server admit what the operator's chart creates, by other names: the cluster runs the operator outside of pods."""
        name, chart, *options = command[2:]
        assert chart == "spark-operator/spark-operator"
        options.remove("--create-namespace")
        rendered = self.run("helm", "template", f"documented-{name}", str(operator_source() / "charts/spark-operator-chart"), *options)
        return self.run("kubectl", "create", "--dry-run=server", "--filename=-", text=rendered, namespace=OPERATOR_NAMESPACE)

    def run(self, *command: str, text: str | None = None, allowed: str = "", namespace: str = NAMESPACE) -> str:
        """Run a command of kubectl or helm as an administrator, and return what it prints.

        Args:
            command: The command.
            text: Its input.
            allowed: Text of an error that the caller expects.
            namespace: The namespace of objects that name none.
        """
        programs: dict[str, list[str]] = {"kubectl": [str(KUBE.path), "kubectl"], "helm": [str(HELM.path)]}
        settings = {"KUBECONFIG": namespace, "HOME": str(self.folder)}
        done = subprocess.run(
            [*programs[command[0]], *command[1:]],
            cwd=self.folder,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **settings},
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0 or (allowed and allowed in output), f"{' '.join(command)}: {output}"
        return done.stdout


def create_what_a_cluster_has(api: kubernetes.client.ApiClient) -> None:
    """Create what the example expects of a cluster: a runtime class for confidential containers, and a volume for keys."""
    kubernetes.client.NodeV1Api(api).create_runtime_class({"metadata": {"name": "kata-cc"}, "handler": "runc"})
    core = kubernetes.client.CoreV1Api(api)
    size, modes = {"storage": "1Mi"}, ["ReadWriteOnce"]
    where = {"hostPath": {"path": "/run/litware-keys", "type": "DirectoryOrCreate"}}
    core.create_persistent_volume(
        {"metadata": {"name": "keys"}, "spec": {"capacity": size, "accessModes": modes, "storageClassName": "", **where}}
    )


def claim_volume(api: kubernetes.client.ApiClient) -> None:
    """Claim the volume for Litware's keys."""
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}, "volumeName": "keys"}
    claim = {"metadata": {"name": "litware-keys"}, "spec": spec}
    kubernetes.client.CoreV1Api(api).create_namespaced_persistent_volume_claim(NAMESPACE, claim)


def wait_for(listed: Callable[..., Any], done: Callable[[list[Any]], bool], namespace: str, seconds: int = PATIENCE) -> list[Any]:
    """Return the objects of a namespace as soon as ``done`` accepts them."""
    found = listed(namespace)
    if done(found.items):
        return list(found.items)
    stream = kubernetes.watch.Watch().stream(listed, namespace, resource_version=found.metadata.resource_version, timeout_seconds=seconds)
    for _ in stream:
        if done(items := listed(namespace).items):
            return list(items)
    raise AssertionError(f"{listed.__name__}: {[item.metadata.name for item in listed(namespace).items]}")
