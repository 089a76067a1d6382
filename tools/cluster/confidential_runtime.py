"""What the utility VM of a confidential node does, under a real kubelet: policies and attestation. The hardware is a stand-in.

containerd calls ``confidential-runc`` in runc's place. For each pod with a policy annotation this process

* launches a guest of the hardware stand-in, whose host data is the policy's, and serves its attestation at ``http://localhost:8284`` in the
  pod's own network, as the sidecar of Azure does;
* refuses containers that differ from the policy, and drops the variables that the policy does not allow, with the product's own code;
* ends the guest with the pod.

A pod without a policy runs as on any node, without a guest: it cannot attest itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socketserver
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from cleanroom.spark.policy import POLICY_ANNOTATION, PodContainer, PodMount
from cleanroom.transport import http_client, ssl_context
from localcloud.launcher.pod_cluster import Hardware
from localcloud.standins.kubernetes.admission import ContainerDenied, SnpGuests, admit
from tools.cluster.isolation import listen_in_network

ATTESTATION_PORT = 8284
ROUTES = ("/attest/combined", "/attest/raw")
MAX_BODY = 1024 * 1024
_CRI = "io.kubernetes.cri"
# Sources of mounts on the node, and where they are inside of a utility VM (cleanroom/spark/policy.py).
_INSIDE = (
    (r"/volumes/kubernetes\.io~(empty-dir|configmap|projected|secret|downward-api)/([^/]+)$", r"sandbox:///tmp/atlas/emptydir/\2"),
    (r"/sandboxes/[0-9a-f]+/resolv\.conf$", "sandbox:///tmp/atlas/resolvconf/resolv.conf"),
    (r"/sandboxes/[0-9a-f]+/(hostname|hosts|shm)$", r"sandbox:///tmp/atlas/node/\1"),
    (r"/pods/[0-9a-f-]+/etc-hosts$", "sandbox:///tmp/atlas/node/hosts"),
    (r"/pods/[0-9a-f-]+/containers/[^/]+/[0-9a-f]+$", "sandbox:///tmp/atlas/node/termination-log"),
)


def container_of(spec: Mapping[str, Any], images: Mapping[str, list[str]]) -> PodContainer:
    """Return a container as its policy sees it.

    Args:
        spec: The OCI specification that containerd wrote.
        images: The layers of each image of the node.
    """
    process, annotations = spec["process"], spec["annotations"]
    return PodContainer(
        command=tuple(process["args"]),
        environment=dict(pair.split("=", 1) for pair in process.get("env", ())),
        layers=tuple(images.get(annotations.get(f"{_CRI}.image-name"), ())),
        working_dir=process["cwd"],
        privileged="CAP_SYS_ADMIN" in process.get("capabilities", {}).get("bounding", ()),
        mounts=tuple(
            PodMount(destination=mount["destination"], source=source_inside(mount["source"]), options=tuple(mount["options"]))
            for mount in spec["mounts"]
            if mount.get("type") == "bind"
        ),
    )


def source_inside(source: str) -> str:
    """Return a mount's source as the utility VM sees it; a path of the node that is not made for the pod stays what it is."""
    for pattern, inside in _INSIDE:
        if found := re.search(pattern, source):
            return found.expand(inside)
    return source


class Guest:
    """The guest of one pod, and its attestation in the pod's network."""

    def __init__(self, hardware: Hardware, name: str, policy: str, network: str) -> None:
        self._guests = SnpGuests(hardware.url, hardware.token_file, hardware.ca_file)
        self._id, url = asyncio.run(self._guests.create(name, policy))
        client = http_client(ssl_context(hardware.ca_file), timeout=30)

        class Sidecar(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                if self.path not in ROUTES or length > MAX_BODY:
                    return self._answer(404, b"{}")
                try:
                    response = client.post(f"{url}{self.path}", content=self.rfile.read(length))
                except httpx.HTTPError:
                    return self._answer(503, b"{}")
                return self._answer(response.status_code, response.content)

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                print(f"{name}: {format % args}", flush=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", ATTESTATION_PORT), Sidecar, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listen_in_network(network, ATTESTATION_PORT)
        threading.Thread(target=self._server.serve_forever, daemon=True, name=name).start()

    def end(self) -> None:
        """End the guest, which gets no more reports."""
        self._server.shutdown()
        self._server.server_close()
        asyncio.run(self._guests.delete(self._id))


class ConfidentialRuntime:
    """Decides about each container of the node.

    Args:
        images_file: JSON: the layers of each image, by each of its names.
        hardware_file: The :class:`Hardware` of this node's guests. While it does not exist, pods have no guests.
    """

    def __init__(self, images_file: Path, hardware_file: Path) -> None:
        self._images_file, self._hardware_file = images_file, hardware_file
        self._guests: dict[str, Guest] = {}

    def create(self, identifier: str, bundle: Path) -> None:
        """Prepare the creation of a container.

        Raises:
            ContainerDenied: The policy of the pod denies it, or the hardware cannot launch a guest.
        """
        file = bundle / "config.json"
        spec = json.loads(file.read_text())
        annotations = spec.get("annotations", {})
        policy = annotations.get(POLICY_ANNOTATION)
        if policy is None:
            return
        if annotations.get(f"{_CRI}.container-type") == "sandbox":
            self._launch(identifier, spec, policy)
            return
        environment = admit(policy, container_of(spec, json.loads(self._images_file.read_text())))
        spec["process"]["env"] = [f"{name}={value}" for name, value in environment.items()]
        file.write_text(json.dumps(spec))

    def delete(self, identifier: str) -> None:
        """End the guest of a pod whose sandbox is deleted."""
        if (guest := self._guests.pop(identifier, None)) is not None:
            guest.end()

    def _launch(self, identifier: str, spec: Mapping[str, Any], policy: str) -> None:
        if not self._hardware_file.exists():
            return
        hardware = Hardware.model_validate_json(self._hardware_file.read_text())
        annotations = spec["annotations"]
        name = f"{annotations.get(f'{_CRI}.sandbox-namespace')}/{annotations.get(f'{_CRI}.sandbox-name')}"
        network = next(item["path"] for item in spec["linux"]["namespaces"] if item["type"] == "network")
        try:
            self._guests[identifier] = Guest(hardware, name, policy, network)
        except (httpx.HTTPError, OSError) as error:
            raise ContainerDenied(f"the hardware did not launch a guest for {name}: {error}") from error


def serve(address: Path, runtime: ConfidentialRuntime) -> None:
    """Answer ``runtime_client.py`` until this process ends."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = json.loads(self.rfile.readline())
            refused = ""
            try:
                if asked["command"] == "create":
                    runtime.create(asked["id"], Path(asked["bundle"]))
                else:
                    runtime.delete(asked["id"])
            except ContainerDenied as denial:
                refused = str(denial)
            except Exception as error:  # An error of this program must not let a container run.
                refused = f"the confidential runtime failed: {type(error).__name__}: {error}"
            print(asked["command"], asked["id"], refused or "ok", flush=True)
            self.wfile.write(json.dumps({"refused": refused}).encode() + b"\n")

    with socketserver.ThreadingUnixStreamServer(str(address), Handler) as server:
        server.daemon_threads = True
        server.serve_forever()


def main() -> int:
    """Run the process: ``python -m tools.cluster.confidential_runtime SOCKET IMAGES HARDWARE``."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("socket", "images", "hardware"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    serve(options.socket, ConfidentialRuntime(options.images, options.hardware))
    return 0


if __name__ == "__main__":
    sys.exit(main())
