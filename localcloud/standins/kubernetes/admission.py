"""What stands between a pod and its start: the SNP guest it gets, its policy, its variables, and what the image's entry point makes of
``spark.properties``."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import httpx

from cleanroom.spark.policy import POLICY_ANNOTATION, PodContainer, admitted_environment, check_pod
from cleanroom.transport import async_http_client, ssl_context
from localcloud.standins.kubernetes.store import Object
from localcloud.standins.kubernetes.submission import memory_mib

NODE = "localcloud"
POD_IP = "127.0.0.1"
EXECUTOR_CONTAINER = "spark-kubernetes-executor"


class SnpGuests:
    """Client of the SNP hardware stand-in: one guest a pod."""

    def __init__(self, url: str, token_file: Path, ca_file: Path | None) -> None:
        self._url, self._token_file = url.rstrip("/"), token_file
        self._tls = ssl_context(ca_file)

    async def create(self, name: str, policy_base64: str) -> tuple[str, str]:
        """(guest id, attestation URL) of a new guest whose host data is the SHA-256 of the policy."""
        async with self._client() as client:
            response = await client.post(f"{self._url}/guests", json={"name": name, "security_policy_base64": policy_base64})
            response.raise_for_status()
            answer = response.json()
        return answer["guest_id"], answer["url"]

    async def delete(self, guest: str) -> None:
        """Forget a guest; it can make no report from then on."""
        async with self._client() as client:
            response = await client.delete(f"{self._url}/guests/{guest}")
            if response.status_code != 404:
                response.raise_for_status()

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self._token_file.read_text().strip()}"}
        return async_http_client(self._tls, headers=headers, timeout=10)


class Refusal(Exception):
    """The pod's policy does not allow its container."""


def clustered(container: str, properties: dict[str, str]) -> bool:
    """Whether the container is of a driver that asks the API server for executors, or such an executor."""
    return container == EXECUTOR_CONTAINER or properties.get("spark.master", "").startswith("k8s://")


def local_cores(properties: dict[str, str]) -> int:
    """Cores of all executors together."""
    return int(properties.get("spark.executor.cores", "1")) * int(properties.get("spark.executor.instances", "1"))


def submit_arguments(properties: dict[str, str]) -> str:
    """``PYSPARK_SUBMIT_ARGS`` for a driver that hosts its executors' cores and memory in its own process."""
    memory = memory_mib(properties.get("spark.driver.memory", "1g"))
    memory += memory_mib(properties.get("spark.executor.memory", "1g")) * int(properties.get("spark.executor.instances", "1"))
    parts = ["--master", f"local[{local_cores(properties)}]", "--driver-memory", f"{memory}m"]
    left_out = ("spark.kubernetes.", "spark.submit.", "spark.executor.", "spark.driver.memory", "spark.driver.cores", "spark.app.id")
    for key, value in sorted(properties.items()):
        if not key.startswith(left_out):
            parts += ["--conf", f"{key}={value}"]
    return shlex.join([*parts, "pyspark-shell"])


def admit(policy: str | None, container: PodContainer) -> dict[str, str]:
    """The variables with which the policy lets the container start.

    Raises:
        Refusal: it does not let it start at all.
    """
    if policy is None:
        raise Refusal(f"the pod has no {POLICY_ANNOTATION} annotation; this node runs confidential pods only: denied by policy")
    try:
        rego = base64.b64decode(policy, validate=True).decode("utf-8")
    except ValueError as error:
        raise Refusal("the policy annotation is not base64 of UTF-8: denied by policy") from error
    differences = check_pod(rego, container)
    if differences:
        decision = {"decision": "deny", "reason": {"errors": differences}, "input": {"rule": "create_container"}}
        encoded = json.dumps(decision, separators=(",", ":"))
        raise Refusal(
            "failed to create containerd task: failed to create shim task: container creation denied due to policy: "
            f"{'; '.join(differences)}: policyDecision< {encoded} >policyDecision"
        )
    return admitted_environment(rego, container)


def environment_of(pod: Object, container: Object) -> dict[str, str]:
    """The variables that the container declares, with references to the pod resolved.

    Raises:
        Refusal: a reference that the stand-in does not know.
    """
    sources: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: pod["metadata"]["name"],
        "metadata.namespace": lambda: pod["metadata"]["namespace"],
        "metadata.uid": lambda: pod["metadata"]["uid"],
        "spec.nodeName": lambda: NODE,
        "status.podIP": lambda: POD_IP,
        "status.hostIP": lambda: POD_IP,
    }
    result = {}
    for item in container.get("env", ()):
        if "valueFrom" in item:
            path = (item["valueFrom"].get("fieldRef") or {}).get("fieldPath", "")
            if path not in sources:
                raise Refusal(f"env {item['name']}: only fieldRef of {', '.join(sources)} is supported")
            result[item["name"]] = sources[path]()
        else:
            result[item["name"]] = item.get("value", "")
    return result
