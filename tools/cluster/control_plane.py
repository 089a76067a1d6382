"""The control plane of the test cluster: etcd, API server, controllers and scheduler."""

from __future__ import annotations

from pathlib import Path

from localcloud.launcher.processes import free_ports
from tools.cluster.binaries import KUBE
from tools.cluster.certificates import Certificates
from tools.cluster.servers import Servers

SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
"""The first address of :data:`SERVICE_NETWORK`, which is that of the service ``kubernetes``."""
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
"""The API server's usual port, which the chart's network policies open, in a separate network."""
LOOPBACK = "127.0.0.1"
_OWN_NAMES = ("localhost", "kubernetes", *(f"kubernetes.default{rest}" for rest in ("", ".svc", ".svc.cluster.local")))


class ControlPlane:
    """The control plane of one cluster.

    Args:
        folder: The cluster's state.
        servers: Gets the control plane's processes.
        address: An address that pods reach. Without pods the API server listens on loopback only.
    """

    def __init__(self, folder: Path, servers: Servers, address: str | None = None) -> None:
        self.folder, self.servers, self.address = folder, servers, address
        self.port = API_PORT if address else free_ports(1)[0]
        self.certificates = Certificates(folder / "certificates")

    @property
    def url(self) -> str:
        """The URL of the API server inside the cluster's network."""
        return f"https://{self.address or LOOPBACK}:{self.port}"

    def kubeconfig(self, file: str, *, token: str | None = None) -> Path:
        """Write a kubeconfig for a server of this cluster: with ``token``, or with the client certificate called ``file``."""
        path = self.folder / "servers" / f"{file}.kubeconfig"
        return self.certificates.kubeconfig(path, self.url, "default", file=file, token=token)

    def start(self) -> None:
        """Start the control plane, and wait until the API server is ready.

        Raises:
            ServerFailed: A program has ended, or the API server is not ready in time.
        """
        self._issue_certificates()
        etcd_url = self._start_etcd()
        self._start_api_server(etcd_url)
        self.servers.wait_ready(f"https://{LOOPBACK}:{self.port}/readyz", 180, self.certificates.certificate("ca"))
        private = self.certificates.key("tokens")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('controllers')}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={private}",
            f"--root-ca-file={self.certificates.certificate('ca')}",
        )
        self._run("kube-scheduler", f"--kubeconfig={self.kubeconfig('scheduler')}", "--leader-elect=false", "--secure-port=0")

    def _run(self, name: str, *arguments: str) -> None:
        self.servers.start(name, [KUBE.path, name, *arguments])

    def _issue_certificates(self) -> None:
        issue = self.certificates.issue
        self.certificates.issue_token_key()
        addresses = (API_SERVICE, LOOPBACK, *([self.address] if self.address else []))
        issue("api-server", "kube-apiserver", hosts=(*_OWN_NAMES, *addresses))
        issue("kubelet-client", "kube-apiserver-kubelet-client", groups=("system:masters",))
        issue("admin", "admin", groups=("system:masters",))
        for file, user in (("controllers", "kube-controller-manager"), ("scheduler", "kube-scheduler"), ("proxy", "kube-proxy")):
            issue(file, f"system:{user}")

    def _start_etcd(self) -> str:
        client, peer = (f"http://{LOOPBACK}:{port}" for port in free_ports(2))
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # The data are worthless after the cluster's end.
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        return client

    def _start_api_server(self, etcd_url: str) -> None:
        files = self.certificates
        reachable = ["--bind-address=0.0.0.0", f"--advertise-address={self.address}"]
        # Without a route it finds no address to advertise, and it refuses loopback. No pod reads this one (TEST-NET-1 of RFC 5737).
        local = [f"--bind-address={LOOPBACK}", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"]
        self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            f"--secure-port={self.port}",
            *(reachable if self.address else local),
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            # Tests expire resource versions on purpose; the default interval never does within a test.
            "--etcd-compaction-interval=0",
            f"--client-ca-file={files.certificate('ca')}",
            f"--tls-cert-file={files.certificate('api-server')}",
            f"--tls-private-key-file={files.key('api-server')}",
            f"--kubelet-client-certificate={files.certificate('kubelet-client')}",
            f"--kubelet-client-key={files.key('kubelet-client')}",
            f"--kubelet-certificate-authority={files.certificate('ca')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={files.certificate('tokens')}",
            f"--service-account-signing-key-file={files.key('tokens')}",
        )
