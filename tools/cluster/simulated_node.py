"""A node without containers: it reports the pods of the fast tier as a kubelet would, and runs nothing.

API server, scheduler, controllers and Spark Operator are real, and a driver's arguments say how its pod ends:

* ``exit CODE [MESSAGE]`` ends with CODE, after it wrote MESSAGE as its termination message;
* ``eat`` exceeds its memory limit;
* anything else runs until the pod is deleted.

Executors fail: they have no driver to join.

An image that :data:`ABSENT` names cannot be pulled. The states and messages are those of kubelet 1.35 with containerd.
"""

from __future__ import annotations

import datetime as dt
import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException

from tools.cluster.control_plane import LOOPBACK, ControlPlane

NAME = "simulated-1"
ABSENT = "localhost/absent"
CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "50Gi"}
_LEASES, _LEASE_SECONDS = "kube-node-lease", 40
_PROGRAM_ARGUMENTS = 6
"""``driver --properties-file FILE --class CLASS MAIN_FILE`` precedes a driver's own arguments."""
_PULL_BACKOFF = 2.0
_log = logging.getLogger("cluster.node")
_State = dict[str, Any]


class SimulatedNode:
    """The only node of a fast tier."""

    def __init__(self, plane: ControlPlane, api: kubernetes.client.ApiClient) -> None:
        self._plane = plane
        # The package is only partly annotated.
        self._core: Any = kubernetes.client.CoreV1Api(api)
        self._coordination: Any = kubernetes.client.CoordinationV1Api(api)
        self._watch: Any = kubernetes.watch
        self._stop = threading.Event()
        self._known: set[str] = set()
        self._lines: dict[tuple[str, str], str] = {}
        self._logs = self._log_server()

    def start(self) -> None:
        """Register the node, and run its pods until :meth:`stop`."""
        self._register()
        for work in (self._logs.serve_forever, self._renew_lease, self._follow_pods):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Stop reporting."""
        self._stop.set()
        self._logs.shutdown()

    # --- the node

    def _register(self) -> None:
        now = _now()
        self._core.create_node({"metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}}})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": LOOPBACK}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.server_address[1]}},
        }
        self._core.patch_node_status(NAME, {"status": status})
        spec = {"holderIdentity": NAME, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": _now(micro=True)}
        self._coordination.create_namespaced_lease(_LEASES, {"metadata": {"name": NAME}, "spec": spec})

    def _renew_lease(self) -> None:
        while not self._stop.wait(_LEASE_SECONDS / 4):
            try:
                self._coordination.patch_namespaced_lease(NAME, _LEASES, {"spec": {"renewTime": _now(micro=True)}})
            except Exception as error:
                _log.warning("the lease was not renewed: %s", type(error).__name__)

    def _follow_pods(self) -> None:
        while not self._stop.is_set():
            try:
                stream = self._watch.Watch().stream(
                    self._core.list_pod_for_all_namespaces, field_selector=f"spec.nodeName={NAME}", timeout_seconds=60
                )
                for event in stream:
                    self._reconcile(event["type"], event["raw_object"])
            except Exception as error:
                # The watch ends with its timeout, or with the API server.
                _log.info("watch of pods: %s", type(error).__name__)
                self._stop.wait(0.2)

    # --- pods

    def _reconcile(self, kind: str, pod: _State) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            return
        if pod["metadata"].get("deletionTimestamp"):
            if (key := f"delete {uid}") not in self._known:
                self._known.add(key)
                self._in_thread(self._delete, pod)
        elif uid not in self._known:
            self._known.add(uid)
            self._in_thread(self._run, pod)

    def _in_thread(self, work: Callable[[_State], None], pod: _State) -> None:
        def guarded() -> None:
            try:
                work(pod)
            except ApiException as error:
                # The pod is gone.
                if error.status != 404:
                    _log.warning("pod %s: %s", pod["metadata"]["name"], error.body)

        threading.Thread(target=guarded, daemon=True).start()

    def _run(self, pod: _State) -> None:
        container = pod["spec"]["containers"][0]
        if container["image"].startswith(ABSENT):
            self._fail_to_pull(pod, container["image"])
            return
        arguments = list(container.get("args") or ())
        action = ["exit", "64"] if arguments[:1] == ["executor"] else arguments[_PROGRAM_ARGUMENTS:]
        self._event(pod, "Pulled", f'Container image "{container["image"]}" already present on machine and can be accessed by the pod')
        self._event(pod, "Created", "Container created")
        self._event(pod, "Started", "Container started")
        begun = _now()
        self._lines[pod["metadata"]["namespace"], pod["metadata"]["name"]] = f"driver {' '.join(action)}\n"
        self._report(pod, "Running", {"running": {"startedAt": begun}})
        ended: _State = {"startedAt": begun, "finishedAt": _now()}
        match action:
            case ["exit", code, *message]:
                ended |= {"exitCode": int(code), "reason": "Error" if int(code) else "Completed"}
                ended |= {"message": message[0]} if message else {}
            case ["eat", *_]:
                ended |= {"exitCode": 137, "reason": "OOMKilled"}
            case _:
                return
        self._report(pod, "Failed" if ended["exitCode"] else "Succeeded", {"terminated": ended})

    def _fail_to_pull(self, pod: _State, image: str) -> None:
        host, _, path = image.partition("/")
        name, _, digest = path.partition("@")
        text = (
            f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": failed to do request: '
            f'Head "http://{host}/v2/{name}/manifests/{digest}": dial tcp {LOOPBACK}:80: connect: connection refused'
        )
        self._event(pod, "Pulling", f'Pulling image "{image}"')
        self._event(pod, "Failed", f'Failed to pull image "{image}": {text}', warning=True)
        self._event(pod, "Failed", "Error: ErrImagePull", warning=True)
        self._report(pod, "Pending", {"waiting": {"reason": "ErrImagePull", "message": text}})
        if not self._stop.wait(_PULL_BACKOFF):
            message = f'Back-off pulling image "{image}": ErrImagePull: {text}'
            self._event(pod, "BackOff", f'Back-off pulling image "{image}"')
            self._event(pod, "Failed", "Error: ImagePullBackOff", warning=True)
            self._report(pod, "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": message}})

    def _delete(self, pod: _State) -> None:
        metadata, status = pod["metadata"], pod.get("status") or {}
        state = (status.get("containerStatuses") or [{}])[0].get("state") or {}
        if "running" in state:
            self._event(pod, "Killing", f"Stopping container {pod['spec']['containers'][0]['name']}")
            ended = {"exitCode": 143, "reason": "Error", "startedAt": state["running"]["startedAt"], "finishedAt": _now()}
            self._report(pod, "Failed", {"terminated": ended})
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        self._core.delete_namespaced_pod(metadata["name"], metadata["namespace"], body=options)
        self._lines.pop((metadata["namespace"], metadata["name"]), None)

    def _report(self, pod: _State, phase: str, state: Mapping[str, Any]) -> None:
        container = pod["spec"]["containers"][0]
        running = phase == "Running"
        item = {"name": container["name"], "image": container["image"], "imageID": "", "ready": running, "restartCount": 0, "state": state}
        ready = [{"type": "Ready", "status": str(running), "lastTransitionTime": _now()}]
        status = {
            "phase": phase,
            "conditions": ready,
            "podIP": LOOPBACK,
            "podIPs": [{"ip": LOOPBACK}],
            "startTime": _now(),
            "containerStatuses": [item],
        }
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        self._core.patch_namespaced_pod_status(metadata["name"], metadata["namespace"], body)

    def _event(self, pod: _State, reason: str, message: str, *, warning: bool = False) -> None:
        metadata, now = pod["metadata"], _now()
        body = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **{key: metadata[key] for key in ("name", "namespace", "uid")}},
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": "kubelet", "host": NAME},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._core.create_namespaced_event(metadata["namespace"], body)

    # --- logs

    def _log_server(self) -> ThreadingHTTPServer:
        """Return a server of the kubelet's endpoint ``/containerLogs/NAMESPACE/POD/CONTAINER``."""
        lines = self._lines

        class Logs(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].split("/")
                text = lines.get((parts[2], parts[3])) if len(parts) == 5 and parts[1] == "containerLogs" else None
                self.send_response(200 if text is not None else 404)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_: object) -> None:
                return

        files = self._plane.certificates
        files.issue("simulated-node", f"system:node:{NAME}", groups=("system:nodes",), hosts=(LOOPBACK,))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.certificate("simulated-node"), files.key("simulated-node"))
        tls.load_verify_locations(files.certificate("ca"))
        tls.verify_mode = ssl.CERT_REQUIRED
        server = ThreadingHTTPServer((LOOPBACK, 0), Logs)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        return server


def _now(*, micro: bool = False) -> str:
    now = dt.datetime.now(dt.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
