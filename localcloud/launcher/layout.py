"""Where everything of a local cloud is: the state folder's files, the ports, the URLs and the secrets.

Layout of the state folder::

    config/         config file of each stand-in
    logs/           log of each process
    state/          durable state of each server
    tls/            local certificate authority and the server certificates
    secrets/        tokens, client secrets, keyring
    parties.json    the companies, if the user has chosen them
    pod-cluster.json  the cluster that runs the pods, if it is not the stand-in
    parties/        what each collaborator keeps at home: signing keys, connection secrets
    images/         images of the Spark payload
    bootstrap.json  where governance is; the policies of the attested workers measure its digest
    cleanroom.toml  the profiles that the product reads

Ports are chosen once and kept, because issuer URLs are part of documents and of federated credentials.
"""

from __future__ import annotations

import json
import secrets
from functools import cached_property
from pathlib import Path

from cleanroom.secret import Secret, read_secret_file, write_secret_file
from cleanroom.temporal.keyring import Keyring
from cleanroom.webui.gateway import private_origin
from localcloud.launcher import seaweedfs
from localcloud.launcher.chosen_parties import recorded_parties
from localcloud.launcher.companies import Account, Company, Kind
from localcloud.launcher.pod_cluster import recorded_cluster
from localcloud.launcher.ports import stable_ports
from localcloud.standins.kubernetes.image import LocalImage, build_sparkapp_image
from localcloud.standins.kubernetes.server import kubeconfig_path
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LOOPBACK_HOSTS, LocalAuthority, ServerCertificate

KEY_VAULT = "keyvault"
STAND_INS = ("entra", "snp", "maa", KEY_VAULT, "cgs", "kubernetes", "blobaccess")
"""The stand-ins, one process each. The name is also the module's name. Each further company on Azure has its own key vault."""
AZURE_STAND_INS = (KEY_VAULT, "blobaccess")
"""Those that run only if a company is on Azure."""
# 8233 is the port where users expect the Web UI. The gateway listens there; the Web UI's own server is behind it.
_PREFERRED_PORTS = {"temporal": 7233, "codec": 8233}
# Pods do not use these: the SNP stand-in is the hypervisor, and Azurite is behind the access layer.
_ON_LOOPBACK = ("snp", "azurite", "kubernetes")
_OTHER_PORTS = (
    "temporal-ui",
    "temporal-http",
    "temporal-metrics",
    "azurite",
    *(f"seaweedfs-{i}" for i in range(seaweedfs.PORTS)),
    *STAND_INS,
    "observe",
)


class Layout:
    """Paths, ports, URLs and secrets of the local cloud in the folder ``state``."""

    def __init__(self, state: Path) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.companies = recorded_parties(state)
        self.cluster = recorded_cluster(state)
        self.authority = LocalAuthority(state / "tls")
        own = (*(f"metrics-{name}" for name in self.companies.workers), *self.key_vaults)
        names = dict.fromkeys((*_OTHER_PORTS, *own))
        self.ports = stable_ports(state / "ports.json", preferred=_PREFERRED_PORTS, others=tuple(names))
        self.config_file = state / "cleanroom.toml"
        self.temporal_config_file = state / "temporal.toml"
        self.keyring_file = state / "secrets/codec-keyring.json"
        self.codec_token_file = state / "secrets/codec-token"
        self.guests_file = state / "guests.json"
        self.bootstrap_file = state / "bootstrap.json"
        self.images = state / "images"

    def address(self, name: str) -> str | None:
        """The IP address where a stand-in or store listens for the pods of a cluster; None for one on loopback only."""
        return self.cluster.address if self.cluster is not None and name not in _ON_LOOPBACK else None

    def url(self, name: str) -> str:
        """``https://<host>:<port>`` of a stand-in or store: ``localhost``, or the address for pods."""
        return f"https://{self.address(name) or 'localhost'}:{self.ports[name]}"

    @property
    def s3_url(self) -> str:
        """URL of the S3 server."""
        return self.url("seaweedfs-0")

    @property
    def storage_hosts(self) -> tuple[str, ...]:
        """Hosts of stores, key vault and attestation service."""
        azure = ("blobaccess", *self.key_vaults) if self.key_vaults else ()
        urls = (self.s3_url, *map(self.url, azure), self.url("maa"))
        return tuple(url.removeprefix("https://") for url in urls)

    @property
    def key_vaults(self) -> tuple[str, ...]:
        """The key vaults, one process for each company on Azure."""
        return tuple(self.key_vault(company) for company in self.companies.of(Kind.AZURE))

    def key_vault(self, company: Company) -> str:
        """Return the name of the company's key vault among the processes."""
        return KEY_VAULT if company == self.companies.of(Kind.AZURE)[0] else f"{KEY_VAULT}-{company.name}"

    @property
    def temporal_ui_url(self) -> str:
        """URL of the Web UI's own server, behind the gateway."""
        return f"http://localhost:{self.ports['temporal-ui']}"

    @property
    def codec_url(self) -> str:
        """Origin of the gateway, which serves the Web UI and the codec: a private name below ``localhost``."""
        self._make_keyring()
        return private_origin(Keyring.load(self.keyring_file), self.ports["codec"])

    @property
    def codec_address(self) -> str:
        """URL under which this machine's processes reach the gateway."""
        return f"http://localhost:{self.ports['codec']}"

    @property
    def kubeconfig(self) -> Path:
        """The Spark service's kubeconfig."""
        if self.cluster is not None:
            return self.cluster.kubeconfig
        return kubeconfig_path(self.data("kubernetes"), "spark-service")

    def data(self, name: str) -> Path:
        """Folder of a server's durable state."""
        return self.state / "state" / name

    def log(self, name: str) -> Path:
        """Log file of a process."""
        return self.state / "logs" / f"{name}.log"

    def certificate(self, name: str) -> ServerCertificate:
        """Server certificate of a process, issued at first use."""
        address = self.address(name)
        return self.authority.issue(name, (*LOOPBACK_HOSTS, *([address] if address else [])))

    def home(self, collaborator: str) -> Path:
        """Folder of a collaborator's own keys and connection secrets."""
        return self.state / "parties" / collaborator

    def connection_secret_file(self, collaborator: str) -> Path:
        """A collaborator's S3 connection secret."""
        return self.home(collaborator) / "s3-connection.json"

    def secret_file(self, account: Account) -> Path:
        """Client secret of an account, generated at first use."""
        return account.secret_file(self.state / "secrets")

    def token_file(self, name: str) -> Path:
        """A random token, generated at first use."""
        file = self.state / "secrets" / name
        if not file.exists():
            write_secret_file(file, secrets.token_hex(32).encode())
        return file

    def token(self, name: str) -> Secret:
        """The content of :meth:`token_file`."""
        return read_secret_file(self.token_file(name), what=name)

    @property
    def member_token_file(self) -> Path:
        """Token of the consortium's member."""
        return self.token_file("cgs-member")

    @cached_property
    def hardware(self) -> DevelopmentHardware:
        """The development chip that signs attestation reports."""
        return DevelopmentHardware(self.data("snp"))

    @cached_property
    def image(self) -> LocalImage:
        """Image of the Spark payload: that of the cluster's node, or one built from the current sources."""
        if self.cluster is not None:
            found = self.cluster
            return LocalImage(reference=found.image, layers=found.layers, program=(), spark_version=found.spark_version)
        return build_sparkapp_image(self.images)

    def _make_keyring(self) -> None:
        if not self.keyring_file.exists():
            self.keyring_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Keyring.generate().save(self.keyring_file)

    def make_secrets(self) -> None:
        """Generate the keyring, the codec token and the S3 connection secrets where they are missing."""
        self._make_keyring()
        if not self.codec_token_file.exists():
            write_secret_file(self.codec_token_file, f"{secrets.token_urlsafe(32)}\n".encode())
        for company in self.companies.of(Kind.S3):
            key = self.token(f"s3-{company.name}").reveal_text()
            connection = {"awsAccessKeyId": company.access_key, "awsSecretAccessKey": key}
            write_secret_file(self.connection_secret_file(company.name), json.dumps(connection).encode())
