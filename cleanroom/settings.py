"""Settings of one profile: the identity, its credentials, and the URLs of the services.

Each field can be set in three places. In order of precedence:

1. An environment variable: ``CLEANROOM_<FIELD>``, or ``CLEANROOM_<SECTION>__<FIELD>`` for a field of a section, such as
   ``CLEANROOM_GOVERNANCE__URL``. Lists and tables are JSON.
2. The table ``[profile.<name>]`` of the configuration file, and its section tables ``[profile.<name>.<section>]``.
3. The table ``[default]`` of the configuration file, and its section tables.

:mod:`cleanroom.config_file` finds the configuration file and the profile.

What decides trust for everybody's data is not a setting. It stands in the trust document that the members of the consortium accept, and
where governance is stands in the measured bootstrap file of an attested worker (:mod:`cleanroom.trust`). :class:`Effect` says what a
setting can do.

Temporal's connection settings are those of every Temporal tool: ``temporalio.envconfig`` reads them from ``TEMPORAL_*`` and its own TOML
file. The section ``temporal`` only names that file and the payload keyring.

Example::

    [default]
    collaboration = "flights"
    ca_file = "ca.pem"
    [default.governance]
    url = "https://cgs.example"
    [profile.contosso]
    boundary = "collaborator"
    party = "contosso"
    [profile.contosso.credential]
    kind = "client-secret"
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cleanroom.config_file import ProfileValues, read_profile
from cleanroom.errors import InvalidInput
from cleanroom.identifiers import Name, RunSize
from cleanroom.models import FrozenModel, broken_rule

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SET_UP: Final = (
    "Choose a profile with --profile, or set one up: `cleanroom init NAME`. On one machine, `cleanroom up` writes cleanroom.toml."
)
"""What to do without a setting that every profile has."""
Boundary = Literal["collaborator", "frontend", "clean-room", "spark-service"]
"""A trust boundary: one kind of worker process with its own task queue and credentials."""


class Effect(StrEnum):
    """What a setting can do, as the configuration reference shows it. A field without one of these marks ``may fail``."""

    MAY_FAIL = "may fail"
    """A wrong value makes something fail. It discloses nothing and makes a worker trust nothing."""
    OWN_TRUST = "own trust"
    """Decides what a collaborator's own commands and worker rely on. Attested workers do not use it for any collaborator's data."""
    BOOTSTRAP = "bootstrap"
    """As ``own trust``; attested workers take the value from their measured bootstrap file instead."""


def effect_of(field: FieldInfo) -> Effect:
    """Return the effect of a setting."""
    return next((item for item in field.metadata if isinstance(item, Effect)), Effect.MAY_FAIL)


class SettingsSection(FrozenModel):
    """Base of the sections. The docstring of each field stands in the configuration reference."""


class CredentialSettings(SettingsSection):
    """The Entra ID credential of this profile (``azure-identity``)."""

    kind: Literal["default", "cli", "client-secret", "workload-identity", "managed-identity"] = "default"
    """The credential class of ``azure-identity`` to use."""
    authority: Annotated[str, Effect.OWN_TRUST] = "https://login.microsoftonline.com"
    """URL of the Entra ID authority."""
    tenant_id: str | None = None
    """Tenant of the application; for ``workload-identity`` also from ``AZURE_TENANT_ID``."""
    client_id: str | None = None
    """Client ID of the application or managed identity; for ``workload-identity`` also from ``AZURE_CLIENT_ID``."""
    client_secret_file: Path | None = None
    """File of mode 0600 with the client secret, for kind ``client-secret``."""
    federated_token_file: Path | None = None
    """File with the federated token, for kind ``workload-identity``; also from ``AZURE_FEDERATED_TOKEN_FILE``."""
    disable_instance_discovery: bool = False
    """Whether to skip the authority check of ``azure-identity``, which only knows Microsoft's clouds."""


class TemporalSettings(SettingsSection):
    """Temporal's connection, payload encryption and Web UI."""

    config_file: Path | None = None
    """TOML file of ``temporalio.envconfig``; without it, Temporal's default file."""
    profile: str | None = None
    """Profile in that file; without it, ``default``."""
    keyring_file: Annotated[Path | None, Effect.OWN_TRUST] = None
    """Keyring of the payload codec; without it, payloads are not encrypted and the worker logs a warning."""
    ui_url: str = "http://localhost:8233"
    """URL of the Web UI, or of its gateway."""
    codec_token_file: Annotated[Path | None, Effect.OWN_TRUST] = None
    """File of mode 0600 with the bearer token for the codec server and the gateway."""


class GovernanceSettings(SettingsSection):
    """The governance service (CGS)."""

    url: Annotated[str, Effect.BOOTSTRAP] = ""
    """URL of the CCF application, or of ``cgs-client`` in mode ``cgs-client``."""
    mode: Annotated[Literal["app", "cgs-client"], Effect.BOOTSTRAP] = "app"
    """Whether ``url`` is the application or the proxy ``cgs-client``."""
    scope: str = "api://cleanroom-governance/.default"
    """OAuth scope of the user tokens that the service accepts."""
    service_cert_file: Annotated[Path | None, Effect.BOOTSTRAP] = None
    """The CCF network's service certificate, which is the TLS root for ``url``; without it, the profile's ``ca_file``."""
    ccf_endpoint: Annotated[str | None, Effect.BOOTSTRAP] = None
    """The CCF URL that ``cgs-client`` must use; without it, the one that it is configured with."""
    client_cert_file: Path | None = None
    """A member's TLS certificate, for mode ``app``."""
    client_key_file: Path | None = None
    """File of mode 0600 with the key of ``client_cert_file``."""
    proxy_url: Annotated[str, Effect.OWN_TRUST] = ""
    """URL of the ``cgs-client`` through which a member governs; only in a member's profile."""
    member_token_file: Path | None = None
    """File of mode 0600 with the token that ``proxy_url`` requires of the member, if it requires one."""
    member_header: str = "authorization"
    """Header that carries the member's token; ``authorization`` sends it as a bearer token."""


class AzureSettings(SettingsSection):
    """The collaborator's Azure resources, or what the clean room needs to reach them."""

    subscription_id: str = ""
    """Subscription of the managed identities and role assignments."""
    resource_group: str = ""
    """Resource group of the managed identities."""
    location: str = "westeurope"
    """Region of new managed identities."""
    arm_url: Annotated[str, Effect.OWN_TRUST] = "https://management.azure.com"
    """URL of Azure Resource Manager."""
    storage_account_url: Annotated[str, Effect.OWN_TRUST] = ""
    """URL of the storage account with the datasets."""
    storage_account_id: str = ""
    """ARM resource ID of the storage account, on which roles are assigned."""
    key_vault_url: Annotated[str, Effect.OWN_TRUST] = ""
    """URL of the Key Vault or managed HSM with the key encryption keys."""
    key_vault_id: str = ""
    """ARM resource ID of the Key Vault, on which roles are assigned."""
    verify_challenge_resource: Annotated[bool, Effect.OWN_TRUST] = True
    """Whether ``azure-keyvault-keys`` requires the vault's host to be under the resource of its challenge."""
    maa_url: Annotated[str, Effect.OWN_TRUST] = ""
    """URL of the Microsoft Azure Attestation instance that release policies trust."""
    key_vault_release_ca_file: Annotated[Path | None, Effect.OWN_TRUST] = None
    """PEM roots for the certificate chain of signed key releases; without it, ``ca_file``, else the public roots."""


class S3Settings(SettingsSection):
    """S3 storage."""

    endpoint_url: Annotated[str | None, Effect.OWN_TRUST] = None
    """URL of an S3-compatible service; without it, AWS in ``region``."""
    region: str = "us-east-1"
    """AWS region."""
    bucket: str = ""
    """Bucket with the datasets."""


class NotificationSettings(SettingsSection):
    """Reminders to people, in addition to the Web UI."""

    url_file: Annotated[Path | None, Effect.OWN_TRUST] = None
    """File of mode 0600 with the HTTPS URL (a webhook) to which this boundary's worker posts reminders; without it, it posts none."""


class AttestationSettings(SettingsSection):
    """How evidence is obtained. What it must satisfy stands in the trust document."""

    url: str = "http://localhost:8284"
    """The sidecar in the guest that produces reports (``POST /attest/combined``); always a local address."""
    crl_files: tuple[Path, ...] = ()
    """AMD's certificate revocation lists, DER or PEM, which a job of the operator refreshes; read at every verification."""


class KubernetesSettings(SettingsSection):
    """The cluster that runs Spark. What the pods run stands in the trust document."""

    kubeconfig: Path | None = None
    """Kubeconfig file; without it, the pod's service account."""
    context: str | None = None
    """Context in the kubeconfig; without it, the current one."""
    namespace: str = "analytics"
    """Namespace of the SparkApplications."""
    spark_version: str = "4.0.0"
    """Spark version of the image."""
    service_account: str = "spark"
    """Kubernetes service account of the driver."""
    operator_account: str = Field(default="spark-operator/spark-operator-controller", pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$")
    """Namespace and service account of the Spark Operator. `cleanroom doctor` checks its rights."""
    virtual_nodes: bool = False
    """Whether pods run on confidential virtual nodes (AKS VN2)."""


NO_DYNAMIC_ALLOCATION = (
    "dynamic allocation is refused, because Spark would remove idle executors with the rows and shuffle files that they hold, "
    "read the inputs again for them, and show the cluster's operator by the number of pods how much data each step of a query selects."
)
"""Why every run has a fixed number of executors. Settings and the driver's pod say it."""


class SizeSettings(SettingsSection):
    """What a deployment changes of a built-in size of runs. Members have the meaning of those of :class:`SparkSettings`."""

    driver_cores: int | None = None
    driver_memory: str | None = None
    driver_memory_overhead: str | None = None
    executor_cores: int | None = None
    executor_memory: str | None = None
    executor_memory_overhead: str | None = None
    executor_instances: int | None = None


class SparkSettings(SettingsSection):
    """Sizes and limits of Spark jobs."""

    driver_cores: int = Field(default=1, ge=1)
    """CPU cores of the driver."""
    driver_memory: str = "1g"
    """Memory of the driver's JVM."""
    driver_memory_overhead: str | None = None
    """Memory of the driver's pod in addition, for Python; without it, Spark's 40 % of ``driver_memory``."""
    executor_cores: int = Field(default=2, ge=1)
    """CPU cores of each executor."""
    executor_memory: str = "2g"
    """Memory of each executor's JVM."""
    executor_memory_overhead: str | None = None
    """Memory of each executor's pod in addition, for Python; without it, Spark's 40 % of ``executor_memory``."""
    executor_instances: int = Field(default=1, ge=1)
    """Number of executors."""
    largest_size: RunSize | Literal["none"] = "large"
    """Largest size that a caller may choose with ``cleanroom run start --size``; ``none`` allows no choice."""
    sizes: dict[RunSize, SizeSettings] = {}
    """What this deployment changes of the built-in sizes ``small``, ``medium`` and ``large``: tables with the settings above."""
    driver_start_seconds: int = Field(default=900, ge=1)
    """Seconds until a driver that has not started counts as failed."""
    run_seconds: int = Field(default=6 * 3600, ge=1)
    """Longest run in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_executors(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if str(name).lower().replace("_", "").startswith("dynamicallocation"):
                raise ValueError(f"{name}: {NO_DYNAMIC_ALLOCATION} Set executor_instances, or offer sizes")
        return values


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(env_prefix="CLEANROOM_", env_nested_delimiter="__", frozen=True, extra="forbid")

    profile: str = "default"
    """Name of the profile; set by ``--profile`` or ``CLEANROOM_PROFILE``."""
    collaboration: Annotated[str, Effect.BOOTSTRAP] = ""
    """ID of the contract in the governance service."""
    boundary: Boundary = "collaborator"
    """Trust boundary of this profile's worker."""
    party: Name | None = None
    """Name of the collaborator for whom this profile acts."""
    deputy: bool = False
    """Whether this profile belongs to a deputy of ``party``: it signs decisions with the deputy's key, and serves no task queue."""
    parties: Annotated[dict[Name, str], Effect.OWN_TRUST] = {}
    """User IDs in governance by collaborator name; the name is also part of the collaborator's task queue."""
    ca_file: Annotated[Path | None, Effect.OWN_TRUST] = None
    """PEM roots for TLS with all services of this profile; without it, the operating system's."""
    keys_dir: Annotated[Path, Effect.OWN_TRUST] = Path("~/.local/share/cleanroom/keys")
    """Directory of mode 0700 with the collaborator's dataset keys and signing key."""
    secret_files: Annotated[dict[str, Path], Effect.OWN_TRUST] = {}
    """Files of mode 0600 with secrets, by the name that dataset files refer to as ``secret:NAME``."""
    storage_hosts: Annotated[tuple[str, ...], Effect.OWN_TRUST] = ()
    """Additional storage hosts (``host`` or ``host:port``), such as emulators and private endpoints."""
    credential: CredentialSettings = CredentialSettings()
    """Section ``credential``."""
    temporal: TemporalSettings = TemporalSettings()
    """Section ``temporal``."""
    governance: GovernanceSettings = GovernanceSettings()
    """Section ``governance``."""
    azure: AzureSettings = AzureSettings()
    """Section ``azure``."""
    s3: S3Settings = S3Settings()
    """Section ``s3``."""
    notifications: NotificationSettings = NotificationSettings()
    """Section ``notifications``."""
    attestation: AttestationSettings = AttestationSettings()
    """Section ``attestation``."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Section ``kubernetes``."""
    spark: SparkSettings = SparkSettings()
    """Section ``spark``."""

    @property
    def user_names(self) -> dict[str, str]:
        """Names of collaborators by user ID."""
        return {user: name for name, user in self.parties.items() if user}

    @property
    def governance_roots(self) -> Path | None:
        """PEM roots for TLS with the governance application."""
        return self.governance.service_cert_file or self.ca_file

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give environment variables precedence over the file, whose tables are passed to the constructor."""
        return env_settings, init_settings


def load_settings(profile: str | None = None, *, path: Path | None = None) -> Settings:
    """Load the settings of a profile.

    Args:
        profile: Its name. Without it, ``$CLEANROOM_PROFILE``, else ``default``.
        path: The configuration file. Without it, see :func:`cleanroom.config_file.config_path`.

    Raises:
        NotFound: ``ConfigNotFound``, ``ProfileNotFound``.
        InvalidInput: ``ConfigMalformed``, ``ConfigInvalid`` (names the field).
    """
    return validated(read_profile(profile, path=path))


def validated(found: ProfileValues) -> Settings:
    """Return the settings of a profile, with those of the environment.

    Raises:
        InvalidInput: ``ConfigInvalid`` (names the field).
    """
    try:
        return Settings(**found.values | {"profile": found.profile})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            "ConfigInvalid",
            f"config: the field {where} of profile {found.profile!r} is not valid: {broken_rule(first)}.",
            hint=f"{known_fields(first)}Edit {found.file}.",
        ) from error


def known_fields(problem: ErrorDetails) -> str:
    """Return the fields that a section of :class:`Settings` with an unknown one has, as a sentence; empty for another problem."""
    section: Any = Settings
    for part in problem["loc"][:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field is not None else None
    known = getattr(section, "model_fields", None)
    return f"Known: {', '.join(sorted(known))}. " if known and problem["type"] == "extra_forbidden" else ""
