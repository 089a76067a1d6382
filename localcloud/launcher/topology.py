"""What runs on one machine, with which settings, and in which order: the collaboration of the three companies.

Everything lies below one state folder: ``config/`` (a file a stand-in), ``logs/``, ``state/``, ``tls/`` (the local certificate
authority), ``secrets/``, ``parties/`` (what each person has at home) and ``cleanroom.toml``, the profiles for the product. Ports are chosen
once and kept, because issuer URLs are part of documents and federated credentials.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.secret import Secret, read_secret_file, write_secret_file
from cleanroom.spark.rego import PAUSE, ContainerRule, EnvRule, render
from cleanroom.temporal.attributes import ALL as SEARCH_ATTRIBUTES
from cleanroom.temporal.keyring import Keyring
from cleanroom.transport import http_client, ssl_context
from localcloud.launcher import azurite, companies, seaweedfs, temporal_server
from localcloud.launcher.companies import CLEAN_ROOM, COLLABORATION, CONTOSSO, CONTOSSO_STORAGE, CONTOSSO_VAULT, PEOPLE, SERVICES, Account
from localcloud.launcher.ports import stable_ports
from localcloud.launcher.processes import Ready, Service
from localcloud.launcher.profiles import write_profiles
from localcloud.launcher.supervisor import Step, python, write_json
from localcloud.standins.blobaccess import BlobAccessConfig, StorageAccount
from localcloud.standins.cgs.auth import IssuerConfig
from localcloud.standins.cgs.bootstrap import User, bootstrap
from localcloud.standins.cgs.callers import MemberConfig
from localcloud.standins.cgs.engine import CgsConfig
from localcloud.standins.entra.server import EntraConfig
from localcloud.standins.keyvault.auth import ArmRoles, TokenIssuer
from localcloud.standins.keyvault.release import AttestationIssuer
from localcloud.standins.keyvault.server import KeyVaultConfig
from localcloud.standins.kubernetes.image import LocalImage, build_sparkapp_image
from localcloud.standins.kubernetes.server import KubernetesConfig, kubeconfig_path
from localcloud.standins.maa import MaaConfig
from localcloud.standins.serving import StandInConfig
from localcloud.standins.snp.server import DevelopmentHardware
from localcloud.tls import LocalAuthority, ServerCertificate

EXECUTOR_PODS_VARIABLE = "CLEANROOM_EXECUTOR_PODS"
"""``1`` gives executors pods of their own, as on a cluster (docs/kubernetes.md); a run then takes longer to start."""
STAND_INS = ("entra", "snp", "maa", "keyvault", "cgs", "kubernetes", "blobaccess")
# People look for the Web UI at 8233: there they find its gateway, which shows it readable. The Web UI's own server is behind it.
_PREFERRED_PORTS = {"temporal": 7233, "codec": 8233}
_OTHER_PORTS = (
    "temporal-ui",
    "temporal-http",
    "temporal-metrics",
    "azurite",
    *(f"seaweedfs-{i}" for i in range(seaweedfs.PORTS)),
    *STAND_INS,
)
GUESTS = ("clean-room", "spark-service")
S3_BUCKET = "litware"
S3_REGION = "us-east-1"


class LocalCloud:
    """The collaboration below ``state``; :meth:`items` is what the supervisor runs.

    Args:
        propagation_seconds: How late role assignments and federated credentials become effective, as they do in Azure.
    """

    def __init__(self, state: Path, *, propagation_seconds: float = 0) -> None:
        self.state = state
        self._propagation_seconds = propagation_seconds
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.authority = LocalAuthority(state / "tls")
        self.ports = stable_ports(state / "ports.json", preferred=_PREFERRED_PORTS, others=_OTHER_PORTS)
        self.config_file = state / "cleanroom.toml"

    # Places

    def url(self, name: str) -> str:
        """``https://localhost:<port>`` of a stand-in or store."""
        return f"https://localhost:{self.ports[name]}"

    @property
    def s3_url(self) -> str:
        return self.url("seaweedfs-0")

    @property
    def temporal_ui_url(self) -> str:
        """The Web UI's own server, behind the gateway."""
        return f"http://localhost:{self.ports['temporal-ui']}"

    @property
    def codec_url(self) -> str:
        """The gateway: Web UI and codec on one origin."""
        return f"http://localhost:{self.ports['codec']}"

    @property
    def keyring_file(self) -> Path:
        return self.state / "secrets/codec-keyring.json"

    @property
    def codec_token_file(self) -> Path:
        return self.state / "secrets/codec-token"

    @property
    def member_token_file(self) -> Path:
        """Token of the consortium's member."""
        return self._token_file("cgs-member")

    @property
    def guests_file(self) -> Path:
        return self.state / "guests.json"

    @property
    def kubeconfig(self) -> Path:
        return kubeconfig_path(self.state / "state/kubernetes", "spark-service")

    def secret_file(self, account: Account) -> Path:
        return account.secret_file(self.state / "secrets")

    def home(self, party: str) -> Path:
        """What a person has at home: keys, connection secrets."""
        return self.state / "parties" / party

    def connection_secret_file(self, party: str) -> Path:
        """Litware's S3 connection secret."""
        return self.home(party) / "s3-connection.json"

    @cached_property
    def hardware(self) -> DevelopmentHardware:
        return DevelopmentHardware(self.state / "state/snp")

    @cached_property
    def image(self) -> LocalImage:
        """The Spark payload as the sources are now."""
        return build_sparkapp_image(self.state / "images")

    def policy(self, guest: str) -> str:
        """Security policy (Rego) of a service that runs as a confidential container; its SHA-256 is the guest's host data."""
        rule = ContainerRule(
            name=guest,
            id=f"localhost/cleanroom/{guest}",
            command=("cleanroom", "worker", guest),
            env_rules=(EnvRule(pattern="CLEANROOM_CONFIG=/etc/cleanroom/cleanroom.toml", required=True, strategy="string"),),
            layers=(hashlib.sha256(f"NOT CONFIDENTIAL development image {guest}".encode()).hexdigest(),),
        )
        return render([PAUSE, rule], minimum_svn=4)

    def host_data(self, guest: str) -> str:
        return hashlib.sha256(self.policy(guest).encode()).hexdigest()

    # What runs

    def items(self, *, workers: bool = True) -> list[Service | Step]:
        """Services and steps with their dependencies."""
        self._make_secrets()
        services: list[Service | Step] = [
            self._temporal(),
            self._codec_server(),
            self._azurite(),
            self._seaweedfs(),
            *(self._stand_in(name, config) for name, config in self._configs().items()),
            Step("guests", self._launch_guests, after=("snp",)),
            Step("settings", lambda: write_profiles(self), after=("guests",)),
            Step("bucket", self._create_bucket, after=("seaweedfs",)),
            Step("collaboration", self._create_collaboration, after=("cgs", "entra")),
        ]
        if workers:
            ready = tuple(item.name for item in services)
            services += [self._worker(account.name, after=ready) for account in (*PEOPLE, *SERVICES)]
        return services

    def _stand_in(self, name: str, config: StandInConfig) -> Service:
        file = self.state / f"config/{name}.json"
        # Configs may hold tokens, so the file is private.
        write_secret_file(file, json.dumps(config.model_dump(mode="json", exclude_defaults=False)).encode())
        if name == "snp":
            write_secret_file(file, json.dumps(self._snp_config()).encode())
        return Service(
            name=name,
            argv=python(f"localcloud.standins.{name}", "--config", str(file)),
            ready=Ready(kind="http", url=f"{self.url(name)}/healthz", ca_file=self.authority.ca_file),
            url=self.url(name),
            log=self._log(name),
        )

    def _configs(self) -> dict[str, StandInConfig]:
        entra, maa = self.url("entra"), self.url("maa")
        ca = self.authority.ca_file
        tenants = companies.tenants()
        contosso_issuer = f"{entra}/{CONTOSSO.tenant_id}"
        return {
            "entra": EntraConfig(
                **self._common("entra"),
                tenants=tenants,
                principals=companies.principals(self.state / "secrets"),
                subscriptions=companies.subscriptions(),
                authority=entra,
                issuer_ca_file=ca,
                propagation_seconds=self._propagation_seconds,
            ),
            "maa": MaaConfig(**self._common("maa"), amd_roots=False, trust_files=(self.hardware.trust_file,), issuer=maa),
            "keyvault": KeyVaultConfig(
                **self._common("keyvault"),
                authority_url=contosso_issuer,
                issuers=(TokenIssuer(issuer=f"{contosso_issuer}/v2.0", jwks_uri=f"{contosso_issuer}/discovery/v2.0/keys", ca_file=ca),),
                arm=self._roles_of(companies.vault_id(), CONTOSSO_VAULT),
                attestation=(AttestationIssuer(authority=maa, ca_file=ca),),
                release_authority=self.authority.folder,
            ),
            "blobaccess": BlobAccessConfig(
                **self._common("blobaccess"),
                azurite_url=self.url("azurite"),
                azurite_ca_file=ca,
                accounts={
                    "contosso": StorageAccount(
                        tenant_id=CONTOSSO.tenant_id,
                        jwks_uri=f"{contosso_issuer}/discovery/v2.0/keys",
                        roles=self._roles_of(companies.storage_account_id(), CONTOSSO_STORAGE),
                    )
                },
            ),
            "cgs": CgsConfig(
                **self._common("cgs"),
                members=(MemberConfig(name="consortium", token=self._token("cgs-member")),),
                issuers=tuple(
                    IssuerConfig(
                        issuer=f"{entra}/{tenant.id}/v2.0",
                        jwks_uri=f"{entra}/{tenant.id}/discovery/v2.0/keys",
                        ca_file=ca,
                        audience="api://cleanroom-governance",
                    )
                    for tenant in tenants
                ),
                trust_files=(self.hardware.trust_file,),
            ),
            "kubernetes": KubernetesConfig(
                **self._common("kubernetes"),
                images=self.state / "images",
                ca_file=ca,
                snp_url=self.url("snp"),
                snp_token_file=self._token_file("snp-admin"),
                snp_ca_file=ca,
                executor_pods=os.environ.get(EXECUTOR_PODS_VARIABLE) == "1",
            ),
            "snp": StandInConfig(**self._common("snp")),
        }

    def _roles_of(self, resource_id: str, service: Account) -> ArmRoles:
        """How ``service`` asks ARM for the role assignments on its own resource."""
        return ArmRoles(
            url=self.url("entra"),
            vault_id=resource_id,
            token_url=f"{self.url('entra')}/{service.tenant_id}/oauth2/v2.0/token",
            client_id=service.client_id,
            client_secret_file=self.secret_file(service),
            ca_file=self.authority.ca_file,
        )

    def _common(self, name: str) -> dict[str, Any]:
        tls = self._tls(name)
        return {"port": self.ports[name], "tls_cert": tls.cert, "tls_key": tls.key, "state": self.state / "state" / name}

    def _snp_config(self) -> dict[str, Any]:
        # Not through SnpConfig: its token would be dumped as asterisks.
        common = StandInConfig(**self._common("snp")).model_dump(mode="json")
        return common | {"admin_token": self._token("snp-admin")}

    def _temporal(self) -> Service:
        return temporal_server.service(
            database=self.state / "state/temporal/temporal.db",
            port=self.ports["temporal"],
            ui_port=self.ports["temporal-ui"],
            http_port=self.ports["temporal-http"],
            metrics_port=self.ports["temporal-metrics"],
            log=self._log("temporal"),
            search_attributes={key.name: _temporal_type(key) for key in SEARCH_ATTRIBUTES},
            codec_endpoint=f"{self.codec_url}/codec",
        )

    def _codec_server(self) -> Service:
        argv = python(
            "starters.codec_server", "--keyring", str(self.keyring_file), "--tokens", str(self.codec_token_file),
            "--port", str(self.ports["codec"]), "--ui-upstream", self.temporal_ui_url,
        )  # fmt: skip
        return Service(
            name="codec",
            argv=argv,
            ready=Ready(kind="http", url=f"{self.codec_url}/healthz", any_status=True),
            url=self.codec_url,
            log=self._log("codec"),
        )

    def _azurite(self) -> Service:
        return azurite.service(
            folder=self.state / "state/azurite",
            tls=self._tls("azurite"),
            ca_file=self.authority.ca_file,
            accounts={"contosso": base64.b64encode(self._token("azurite-contosso").encode()).decode()},
            port=self.ports["azurite"],
            main=azurite.install(azurite.default_install_folder()),
            log=self._log("azurite"),
        )

    def _seaweedfs(self) -> Service:
        return seaweedfs.service(
            folder=self.state / "state/seaweedfs",
            tls=self._tls("seaweedfs"),
            ca_file=self.authority.ca_file,
            identities=[
                seaweedfs.S3Identity("operator", "OPERATOR", Secret(self._token("s3-operator").encode()), ("Admin",)),
                seaweedfs.S3Identity.owner("litware", "LITWARE", Secret(self._token("s3-litware").encode()), [S3_BUCKET]),
            ],
            ports=[self.ports[f"seaweedfs-{i}"] for i in range(seaweedfs.PORTS)],
            log=self._log("seaweedfs"),
        )

    def _worker(self, profile: str, *, after: Sequence[str]) -> Service:
        ready = self.state / f"state/workers/{profile}.ready"
        argv = python("starters.worker", profile, "--config", str(self.config_file), "--ready-file", str(ready))
        return Service(
            name=f"worker.{profile}",
            argv=argv,
            ready=Ready(kind="file", path=ready),
            url=f"queue of {profile}",
            log=self._log(f"worker.{profile}"),
            after=tuple(after),
        )

    # Steps

    def _launch_guests(self) -> None:
        """Launch the two services that run as confidential containers, once; a guest's URL is its capability to get reports."""
        known: dict[str, dict[str, str]] = json.loads(self.guests_file.read_text()) if self.guests_file.exists() else {}
        token = self._token("snp-admin")
        with http_client(ssl_context(self.authority.ca_file), timeout=30) as http:
            for name in GUESTS:
                if known.get(name, {}).get("host_data") == self.host_data(name):
                    continue
                policy = base64.b64encode(self.policy(name).encode()).decode()
                answer = http.post(
                    f"{self.url('snp')}/guests",
                    json={"name": name, "security_policy_base64": policy},
                    headers={"Authorization": f"Bearer {token}"},
                )
                answer.raise_for_status()
                launched = answer.json()
                known[name] = {"url": launched["url"], "host_data": launched["host_data"]}
        write_json(self.guests_file, known)

    def guest_url(self, name: str) -> str:
        """Attestation URL of a launched guest."""
        return str(json.loads(self.guests_file.read_text())[name]["url"])

    def _create_bucket(self) -> None:
        endpoint = check_storage_url(self.s3_url, "s3", declared=[self.s3_url.removeprefix("https://")])
        operator = S3Credentials(Secret(b"OPERATOR"), Secret(self._token("s3-operator").encode()))
        store = S3Store(S3_BUCKET, region=S3_REGION, endpoint=endpoint, credentials=operator, ca_file=self.authority.ca_file)
        store.create_bucket()
        # The first write of a bucket makes its volumes, which takes seconds; and only a write shows that it can be written.
        store.put("ready", b"")
        store.delete("ready")
        store.close()

    def _create_collaboration(self) -> None:
        users = [User(oid=a.object_id, tenant_id=a.tenant_id, identifier=a.username) for a in (*PEOPLE, *SERVICES)]
        asyncio.run(
            bootstrap(
                self.url("cgs"),
                self.authority.ca_file,
                self._token("cgs-member"),
                COLLABORATION,
                users,
                [self.host_data(CLEAN_ROOM.name)],
            )
        )

    # Small things

    def _make_secrets(self) -> None:
        if not self.keyring_file.exists():
            self.keyring_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Keyring.generate().save(self.keyring_file)
        if not self.codec_token_file.exists():
            write_secret_file(self.codec_token_file, f"{secrets.token_urlsafe(32)}\n".encode())
        connection = {"awsAccessKeyId": "LITWARE", "awsSecretAccessKey": self._token("s3-litware")}
        write_secret_file(self.connection_secret_file("litware"), json.dumps(connection).encode())

    def _token_file(self, name: str) -> Path:
        file = self.state / "secrets" / name
        if not file.exists():
            write_secret_file(file, secrets.token_hex(32).encode())
        return file

    def _token(self, name: str) -> str:
        return read_secret_file(self._token_file(name), what=name).reveal_text()

    def _tls(self, name: str) -> ServerCertificate:
        return self.authority.issue(name)

    def _log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"


def _temporal_type(key: Any) -> str:
    """``KEYWORD_LIST`` as the command line spells it: ``KeywordList``."""
    return str(key.indexed_value_type.name).title().replace("_", "")
