"""The runtime of the test cluster's confidential node, without a cluster: OCI specifications as containerd writes them."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from cleanroom.attestation import report_data_for
from cleanroom.attestation.report import parse_report
from cleanroom.spark.policy import POLICY_ANNOTATION, pod_policies
from localcloud.launcher.pod_cluster import Hardware
from localcloud.launcher.supervisor import write_json
from localcloud.standins.kubernetes.admission import ContainerDenied
from localcloud.standins.serving import serving
from localcloud.standins.snp.server import SnpConfig, create_app
from localcloud.tls import LocalAuthority
from tests.unit.spark_support import make_job, make_profile
from tools.cluster import confidential_runtime
from tools.cluster.confidential_runtime import ConfidentialRuntime, serve, source_inside

LAYERS = ("aa" * 32, "bb" * 32)
POD = "/var/lib/kubelet/pods/0f9b7a36-2d66-4f0e-8d0c-4b4a86ff1a10"
SANDBOX = f"/run/containerd/sandboxes/{'c' * 64}"
MOUNTS = {
    "/etc/hosts": (f"{POD}/etc-hosts", "rw"),
    "/dev/termination-log": (f"{POD}/containers/spark-kubernetes-driver/1a2b3c4d", "rw"),
    "/etc/hostname": (f"{SANDBOX}/hostname", "rw"),
    "/etc/resolv.conf": (f"{SANDBOX}/resolv.conf", "rw"),
    "/dev/shm": (f"{SANDBOX}/shm", "rw"),
    "/var/data/spark-local-dir-1": (f"{POD}/volumes/kubernetes.io~empty-dir/spark-local-dir-1", "rw"),
    "/opt/spark/conf": (f"{POD}/volumes/kubernetes.io~configmap/spark-conf-volume-driver", "ro"),
    "/var/run/secrets/kubernetes.io/serviceaccount": (f"{POD}/volumes/kubernetes.io~projected/kube-api-access-x", "ro"),
}


class Node:
    """A node whose images are in a file, and the bundles that containerd gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images.json"
        self.profile = make_profile(layers=LAYERS)
        self.images.write_text(json.dumps({self.profile.image: LAYERS, "localhost/other:latest": ["cc" * 32]}))
        self.job = make_job("attested")
        self.policy = pod_policies(self.job, self.profile).driver
        self.runtime = ConfidentialRuntime(self.images, folder / "hardware.json")

    def bundle(self, name: str, *, kind: str = "container", annotations: dict[str, str] | None = None, **process: Any) -> Path:
        """Write the OCI specification of a driver's container, or of its sandbox."""
        spec = {
            "process": {
                "args": list(self.profile.command("driver")),
                "env": [f"JOB_CONFIG={self.job.encode()}", "LD_PRELOAD=/tmp/x.so", "LANG=C.UTF-8"],
                "cwd": self.profile.working_dir,
                **process,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                *(
                    {"destination": path, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]}
                    for path, (source, access) in MOUNTS.items()
                ),
            ],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/cni-1"}]},
            "annotations": {
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.image-name": self.profile.image,
                "io.kubernetes.cri.sandbox-namespace": "analytics",
                "io.kubernetes.cri.sandbox-name": "run-driver",
                POLICY_ANNOTATION: self.policy.rego_base64,
                **(annotations or {}),
            },
        }
        folder = self.folder / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(spec))
        return folder


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def environment(bundle: Path) -> list[str]:
    return list(json.loads((bundle / "config.json").read_text())["process"]["env"])


def changed(bundle: Path, change: Any) -> Path:
    spec = json.loads((bundle / "config.json").read_text())
    change(spec)
    (bundle / "config.json").write_text(json.dumps(spec))
    return bundle


def test_container_that_fits_its_policy_starts_without_the_variables_that_no_rule_allows(node: Node) -> None:
    bundle = node.bundle("good")
    node.runtime.create("c1", bundle)
    assert environment(bundle) == [f"JOB_CONFIG={node.job.encode()}", "LANG=C.UTF-8"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda spec: spec["process"]["args"].append("--more"), "invalid command"),
        (lambda spec: spec["process"]["env"].__setitem__(0, "JOB_CONFIG=e30="), "JOB_CONFIG has another value than the policy measures"),
        (lambda spec: spec["process"].__setitem__("cwd", "/tmp"), "invalid working directory"),
        (lambda spec: spec["process"].__setitem__("capabilities", {"bounding": ["CAP_SYS_ADMIN"]}), "privileged escalation"),
        (lambda spec: spec["annotations"].__setitem__("io.kubernetes.cri.image-name", "localhost/other:latest"), "no matching containers"),
        (
            lambda spec: spec["annotations"].__setitem__("io.kubernetes.cri.image-name", "localhost/unknown:latest"),
            "no matching containers",
        ),
        (lambda spec: spec["mounts"][-1].__setitem__("source", "/home/operator/token"), "invalid mount list"),
        (lambda spec: spec["mounts"][-1]["options"].__setitem__(2, "rw"), "invalid mount list"),
        (lambda spec: spec["annotations"].__setitem__(POLICY_ANNOTATION, "not base64!"), "not base64"),
        (lambda spec: spec["annotations"].__setitem__(POLICY_ANNOTATION, base64.b64encode(b"package policy").decode()), "invalid policy"),
    ],
    ids=["command", "job", "folder", "privileged", "image", "unknown-image", "host-path", "writable", "garbage", "another-policy"],
)
def test_container_that_differs_from_its_policy_is_refused(node: Node, change: Any, reason: str) -> None:
    bundle = changed(node.bundle("bad"), change)
    with pytest.raises(ContainerDenied, match=reason):
        node.runtime.create("c1", bundle)


def test_pod_without_a_policy_runs_as_on_any_node(node: Node) -> None:
    bundle = changed(node.bundle("plain"), lambda spec: spec["annotations"].pop(POLICY_ANNOTATION))
    node.runtime.create("c1", bundle)
    assert "LD_PRELOAD=/tmp/x.so" in environment(bundle)


def test_path_of_the_node_is_not_inside_of_the_utility_vm() -> None:
    for path in ("/etc/hosts", "/home/pods/etc-hosts", f"{POD}/volumes/kubernetes.io~host-path/x", f"{SANDBOX}/other"):
        assert source_inside(path) == path


@pytest.fixture
def hardware(node: Node, local_authority: LocalAuthority, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The SNP stand-in, and the URL of each pod's sidecar, which listens in this machine's network here."""
    tls, token = local_authority.issue("snp"), node.folder / "token"
    token.write_text("hypervisor-token")
    urls: list[str] = []

    def listen(network: str, port: int) -> socket.socket:
        assert (network, port) == ("/run/netns/cni-1", 8284)
        listener = socket.create_server(("127.0.0.1", 0))
        urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
        return listener

    monkeypatch.setattr(confidential_runtime, "listen_in_network", listen)
    config = SnpConfig(tls_cert=tls.cert, tls_key=tls.key, state=node.folder / "snp", admin_token=SecretStr("hypervisor-token"))
    with serving(create_app(config), "snp", tls) as url:
        found = Hardware(url=url, token_file=token, ca_file=local_authority.ca_file)
        write_json(node.folder / "hardware.json", found.model_dump(mode="json"))
        yield urls


def test_pod_gets_a_guest_with_its_policy_until_its_sandbox_is_deleted(node: Node, hardware: list[str]) -> None:
    node.runtime.create("pod", node.bundle("sandbox", kind="sandbox"))
    (url,) = hardware
    answer = httpx.post(f"{url}/attest/combined", json={"runtime_data": base64.b64encode(b"nonce").decode()})
    report = parse_report(base64.b64decode(answer.json()["evidence"]))
    assert (report.host_data.hex(), report.report_data) == (node.policy.host_data, report_data_for(b"nonce"))
    assert httpx.post(f"{url}/guests", json={}).status_code == 404
    node.runtime.delete("another")
    node.runtime.delete("pod")
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{url}/attest/combined", json={})


def test_pod_does_not_start_when_the_hardware_launches_no_guest(node: Node) -> None:
    (node.folder / "token").write_text("t")
    write_json(
        node.folder / "hardware.json",
        {"url": "https://127.0.0.1:1", "token_file": str(node.folder / "token"), "ca_file": "/etc/ssl/certs/ca-certificates.crt"},
    )
    with pytest.raises(ContainerDenied, match="did not launch a guest for analytics/run-driver"):
        node.runtime.create("pod", node.bundle("sandbox", kind="sandbox"))


def test_client_reports_a_refusal_as_runc_does_and_fails_closed(node: Node) -> None:
    address = node.folder / "s"
    client = [sys.executable, "-I", "-S", str(Path(confidential_runtime.__file__).with_name("runtime_client.py")), str(address), "create"]

    def run(bundle: Path) -> tuple[int, str]:
        log = node.folder / "log"
        log.write_text("")
        call = ["--log", str(log), "create", "--bundle", str(bundle), "c1"]
        done = subprocess.run([*client, *call], capture_output=True, text=True, check=False)
        return done.returncode, log.read_text()

    code, log = run(node.folder)
    assert code == 1
    assert "does not answer" in log
    threading.Thread(target=serve, args=(address, node.runtime), daemon=True).start()
    while not address.exists():
        pass
    assert run(node.bundle("good")) == (0, "")
    code, log = run(node.bundle("bad", cwd="/tmp"))
    assert code == 1
    assert "container creation denied due to policy: invalid working directory" in json.loads(log)["msg"]
    code, log = run(node.folder / "absent")
    assert (code, "the confidential runtime failed: FileNotFoundError" in log) == (1, True)
