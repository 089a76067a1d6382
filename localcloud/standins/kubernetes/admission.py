"""The steps before a container starts: its SNP guest, its security policy, its variables, and the arguments of its Spark driver."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx

from cleanroom.spark.policy import NODE_MOUNTS, POLICY_ANNOTATION, PodContainer, PodMount, admitted_environment, check_pod
from cleanroom.transport import async_http_client, ssl_context
from localcloud.standins.kubernetes.mounts import SERVICE_ACCOUNT
from localcloud.standins.kubernetes.store import Object
from localcloud.standins.kubernetes.submission import memory_mib

NODE = "localcloud"
POD_IP = "127.0.0.1"
_SANDBOX = "sandbox:///tmp/atlas"
EXECUTOR_CONTAINER = "spark-kubernetes-executor"


class SnpGuests:
    """Client of the SNP hardware stand-in. Each pod is one guest."""

    def __init__(self, url: str, token_file: Path, ca_file: Path | None) -> None:
        self._url, self._token_file = url.rstrip("/"), token_file
        self._tls = ssl_context(ca_file)

    async def create(self, name: str, policy_base64: str) -> tuple[str, str]:
        """Launch a guest whose host data is the SHA-256 of the policy; return its ID and its attestation URL."""
        async with self._client() as client:
            response = await client.post(f"{self._url}/guests", json={"name": name, "security_policy_base64": policy_base64})
            response.raise_for_status()
            answer = response.json()
        return answer["guest_id"], answer["url"]

    async def delete(self, guest: str) -> None:
        """End a guest. It gets no attestation reports from then on."""
        async with self._client() as client:
            response = await client.delete(f"{self._url}/guests/{guest}")
            if response.status_code != 404:
                response.raise_for_status()

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self._token_file.read_text().strip()}"}
        return async_http_client(self._tls, headers=headers, timeout=10)


class ContainerDenied(Exception):
    """The container may not start: its policy denies it, or the stand-in does not support it."""


def uses_executor_pods(container: str, properties: dict[str, str]) -> bool:
    """Whether the container is an executor, or a driver that creates executor pods."""
    return container == EXECUTOR_CONTAINER or properties.get("spark.master", "").startswith("k8s://")


def local_cores(properties: dict[str, str]) -> int:
    """Return the total number of executor cores."""
    return int(properties.get("spark.executor.cores", "1")) * int(properties.get("spark.executor.instances", "1"))


def submit_arguments(properties: dict[str, str]) -> str:
    """Return ``PYSPARK_SUBMIT_ARGS`` for a driver that runs its executors in its own process, with their cores and memory."""
    memory = memory_mib(properties.get("spark.driver.memory", "1g"))
    memory += memory_mib(properties.get("spark.executor.memory", "1g")) * int(properties.get("spark.executor.instances", "1"))
    parts = ["--master", f"local[{local_cores(properties)}]", "--driver-memory", f"{memory}m"]
    left_out = ("spark.kubernetes.", "spark.submit.", "spark.executor.", "spark.driver.memory", "spark.driver.cores", "spark.app.id")
    for key, value in sorted(properties.items()):
        if not key.startswith(left_out):
            parts += ["--conf", f"{key}={value}"]
    return shlex.join([*parts, "pyspark-shell"])


def admit(policy: str | None, container: PodContainer) -> dict[str, str]:
    """Check a container against the pod's policy, and return the variables with which it may start.

    Raises:
        ContainerDenied: The policy denies the container, or is missing or malformed.
    """
    if policy is None:
        raise ContainerDenied(f"the pod has no annotation {POLICY_ANNOTATION}, and this node runs only confidential pods: denied by policy")
    try:
        rego = base64.b64decode(policy, validate=True).decode("utf-8")
    except ValueError as error:
        raise ContainerDenied(f"the annotation {POLICY_ANNOTATION} is not base64 of UTF-8: denied by policy") from error
    differences = check_pod(rego, container)
    if differences:
        decision = {"decision": "deny", "reason": {"errors": differences}, "input": {"rule": "create_container"}}
        encoded = json.dumps(decision, separators=(",", ":"))
        raise ContainerDenied(
            "failed to create containerd task: failed to create shim task: container creation denied due to policy: "
            f"{'; '.join(differences)}: policyDecision< {encoded} >policyDecision"
        )
    return admitted_environment(rego, container)


def environment_of(pod: Object, container: Object) -> dict[str, str]:
    """Return the variables that the container declares, with references to the pod resolved.

    Raises:
        ContainerDenied: A variable has a reference that the stand-in does not support.
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
                raise ContainerDenied(f"env {item['name']}: the reference {path!r} is not supported; use one of {', '.join(sources)}")
            result[item["name"]] = sources[path]()
        else:
            result[item["name"]] = item.get("value", "")
    return result


def mounts_of(pod: Object, container: Object) -> tuple[PodMount, ...]:
    """Return the bind mounts that containerd would make, with their sources as a utility VM sees them.

    Volumes that are made for the pod are inside of the VM. Any other one, such as a path of the node, is not.
    """
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    found = [_mount(path, f"{_SANDBOX}/node{path}") for path in NODE_MOUNTS]
    found.append(_mount("/etc/resolv.conf", f"{_SANDBOX}/resolvconf/resolv.conf"))
    found.append(_mount(SERVICE_ACCOUNT, f"{_SANDBOX}/emptydir/token", read_only=True))
    for item in container.get("volumeMounts", ()):
        volume = volumes.get(item["name"], {})
        inside = any(kind in volume for kind in ("emptyDir", "configMap", "projected"))
        source = f"{_SANDBOX}/emptydir/{item['name']}" if inside else str((volume.get("hostPath") or {}).get("path", f"/{item['name']}"))
        found.append(_mount(item["mountPath"], source, read_only="configMap" in volume or bool(item.get("readOnly"))))
    return tuple(found)


def _mount(destination: str, source: str, *, read_only: bool = False) -> PodMount:
    return PodMount(destination=destination, source=source, options=("rbind", "rprivate", "ro" if read_only else "rw"))


def service_variables(services: Iterable[Object]) -> dict[str, str]:
    """Return the variables with which the kubelet describes each service of the namespace to a container that starts.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    result: dict[str, str] = {}
    for service in services:
        prefix = service["metadata"]["name"].upper().replace("-", "_")
        address, (first, *_) = service["spec"]["clusterIP"], service["spec"]["ports"]
        port, protocol = str(first["port"]), first.get("protocol", "TCP")
        url = f"{protocol.lower()}://{address}:{port}"
        named = f"{prefix}_PORT_{port}_{protocol}"
        result |= {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": port, f"{prefix}_PORT": url, named: url}
        result |= {f"{named}_PROTO": protocol.lower(), f"{named}_PORT": port, f"{named}_ADDR": address}
        if "name" in first:
            result[f"{prefix}_SERVICE_PORT_{first['name'].upper().replace('-', '_')}"] = port
    return result
