"""Settings of one profile: who acts, with which credentials, and where the services are.

Precedence: environment ``CLEANROOM_<SECTION>__<FIELD>`` > profile table > ``[default]`` table of the config file > defaults here.
The file is ``$CLEANROOM_CONFIG``, else ``./cleanroom.toml``, else ``./.cleanroom/cleanroom.toml``, else
``./.cleanroom/demo/cleanroom.toml``, else ``~/.config/cleanroom/cleanroom.toml``. Temporal's own connection settings come from
``temporalio.envconfig`` (``TEMPORAL_*`` and its TOML file); ours only name that file and the payload keyring.

Example::

    [default]
    collaboration = "flights"
    ca_file = "ca.pem"                      # relative paths are relative to this file
    [default.governance]
    url = "https://cgs.example"
    [profile.contosso]
    boundary = "collaborator"
    party = "contosso"
    [profile.contosso.credential]
    kind = "client-secret"
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cleanroom.errors import InvalidInput, NotFound
from cleanroom.identifiers import HexDigest, Name

CONFIG_VARIABLE = "CLEANROOM_CONFIG"
PROFILE_VARIABLE = "CLEANROOM_PROFILE"

Boundary = Literal["collaborator", "frontend", "clean-room", "spark-service"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CredentialSettings(_Section):
    """How this profile gets tokens from Entra ID (``azure-identity``)."""

    kind: Literal["default", "cli", "client-secret", "workload-identity", "managed-identity"] = "default"
    authority: str = "https://login.microsoftonline.com"
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret_file: Path | None = None
    federated_token_file: Path | None = None
    disable_instance_discovery: bool = False
    """True where the authority is not one of Microsoft's clouds."""


class TemporalSettings(_Section):
    config_file: Path | None = None
    """TOML file of ``temporalio.envconfig``; the usual default when absent."""
    profile: str | None = None
    keyring_file: Path | None = None
    """Keyring of the payload codec; without one, payloads travel unencrypted and the worker says so."""
    ui_url: str = "http://localhost:8233"
    codec_token_file: Path | None = None


class GovernanceSettings(_Section):
    url: str = ""
    mode: Literal["app", "cgs-client"] = "app"
    scope: str = "api://cleanroom-governance/.default"
    """OAuth scope of the user tokens that CGS accepts."""
    service_cert_file: Path | None = None
    """Certificate of the governance service, which CCF issues to itself: the one root for TLS with ``url`` (mode ``app``), or what the
    proxy is told to expect (mode ``cgs-client``). The profile's ``ca_file`` when absent."""
    ccf_endpoint: str | None = None
    """Mode ``cgs-client``: the CCF URL that the proxy shall use; its own when absent."""
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    """Certificate and key (mode 0600) of a member of the consortium, for reading in mode ``app``."""
    proxy_url: str = ""
    """URL of the ``cgs-client`` through which a member of the consortium governs; needed in a member's profile alone."""
    member_token_file: Path | None = None
    """What that proxy wants to see of its member, where it asks for anything: a file of mode 0600."""
    member_header: str = "authorization"
    """Header that carries it (``authorization`` sends it as a bearer token)."""


class AzureSettings(_Section):
    """The collaborator's Azure subscription, or what the clean room needs to reach it."""

    subscription_id: str = ""
    resource_group: str = ""
    location: str = "westeurope"
    arm_url: str = "https://management.azure.com"
    storage_account_url: str = ""
    storage_account_id: str = ""
    """ARM resource id of the storage account: the scope of the role assignment."""
    key_vault_url: str = ""
    key_vault_id: str = ""
    verify_challenge_resource: bool = True
    """False where the vault's host is not under ``vault.azure.net`` (azure-keyvault-keys)."""
    maa_url: str = ""
    key_vault_release_ca_file: Path | None = None
    """Roots for the certificate chain of the signed release response; the system's when absent."""


class S3Settings(_Section):
    endpoint_url: str | None = None
    region: str = "us-east-1"
    bucket: str = ""


class AttestationSettings(_Section):
    url: str = "http://localhost:8284"
    """The in-guest sidecar that produces reports (``POST /attest/combined``)."""
    amd_roots: bool = True
    trust_files: tuple[Path, ...] = ()
    """Further roots (development hardware); each is announced as NOT CONFIDENTIAL."""
    refuse_allow_all: bool = True
    """Refuse host data of known allow-all policies (spec/execute.md R6)."""
    report_version_floor: int = Field(default=2, ge=2, le=5)
    require_uvm: bool = True


class KubernetesSettings(_Section):
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str = "analytics"
    image: str = ""
    """Image of the Spark application, by digest."""
    image_layers: tuple[HexDigest, ...] = ()
    """dm-verity root hashes of the image's layers, bottom first: what the pod security policy binds."""
    spark_version: str = "4.0.0"
    service_account: str = "spark"
    virtual_nodes: bool = False
    """Pods go to confidential virtual nodes (AKS VN2)."""


class SparkSettings(_Section):
    service_host_data: tuple[HexDigest, ...] = ()
    """Host data that the clean room accepts from the Spark service."""
    driver_cores: int = Field(default=1, ge=1)
    driver_memory: str = "1g"
    executor_cores: int = Field(default=2, ge=1)
    executor_memory: str = "2g"
    executor_instances: int = Field(default=1, ge=1)
    driver_start_seconds: int = Field(default=900, ge=1)
    run_seconds: int = Field(default=6 * 3600, ge=1)


class Settings(BaseSettings):
    """Everything one process knows about where it is and as whom it acts."""

    model_config = SettingsConfigDict(env_prefix="CLEANROOM_", env_nested_delimiter="__", frozen=True, extra="forbid")

    profile: str = "default"
    collaboration: str = ""
    """Id of the contract in CGS."""
    boundary: Boundary = "collaborator"
    party: Name | None = None
    parties: dict[Name, str] = {}
    """Collaborators by name: their user id in governance. The name is also that of their task queue."""
    ca_file: Path | None = None
    """Roots for TLS of every service of this profile; the system's when absent."""
    keys_dir: Path = Path("~/.local/share/cleanroom/keys")
    """Where a collaborator's own keys lie (dataset keys, signing key): folder of mode 0700."""
    secret_files: dict[str, Path] = {}
    """Secrets of this profile by name: files of mode 0600, named in dataset files as ``secret:NAME``."""
    storage_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) declared as storage although they are not Azure's or AWS's: emulators."""
    credential: CredentialSettings = CredentialSettings()
    temporal: TemporalSettings = TemporalSettings()
    governance: GovernanceSettings = GovernanceSettings()
    azure: AzureSettings = AzureSettings()
    s3: S3Settings = S3Settings()
    attestation: AttestationSettings = AttestationSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    spark: SparkSettings = SparkSettings()

    @property
    def governance_roots(self) -> Path | None:
        """Roots for TLS with the governance application itself."""
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
        # The file's tables arrive as init values; the environment must beat them.
        return env_settings, init_settings


def config_path(explicit: Path | None = None) -> Path | None:
    """The config file in force, or None where there is none.

    Raises:
        NotFound: ``ConfigNotFound`` when a file was named and does not exist.
    """
    named = explicit or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise NotFound(
                "ConfigNotFound", f"config: there is no file {named}.", hint="Run `cleanroom up`, or name another file with --config."
            )
        return named
    local = (Path("cleanroom.toml"), Path(".cleanroom/cleanroom.toml"), Path(".cleanroom/demo/cleanroom.toml"))
    candidates = (*local, Path.home() / ".config/cleanroom/cleanroom.toml")
    return next((path for path in candidates if path.is_file()), None)


def load_tables(path: Path) -> dict[str, Any]:
    """The file's tables ``default`` and ``profile``.

    Raises:
        InvalidInput: ``ConfigMalformed``.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("ConfigMalformed", f"config: {path} is not valid TOML.", cause=str(error)) from error


def load_settings(profile: str | None = None, *, path: Path | None = None) -> Settings:
    """Settings of ``profile`` (``$CLEANROOM_PROFILE`` when None).

    Raises:
        NotFound: ``ConfigNotFound``, ``ProfileNotFound``.
        InvalidInput: ``ConfigMalformed``, ``ConfigInvalid`` (names the field).
    """
    name = profile or os.environ.get(PROFILE_VARIABLE) or "default"
    file = config_path(path)
    values: dict[str, Any] = {}
    if file is None and name != "default":
        raise NotFound(
            "ConfigNotFound",
            f"profile: {name!r} needs a config file, and there is none.",
            hint="Run `cleanroom up`, or name a file with --config or CLEANROOM_CONFIG.",
        )
    if file is not None:
        tables = load_tables(file)
        profiles = tables.get("profile", {})
        if name != "default" and name not in profiles:
            raise NotFound(
                "ProfileNotFound",
                f"profile: {name!r} is not in {file}.",
                hint=f"Known profiles: {', '.join(sorted(profiles)) or 'none'}.",
            )
        values = _merge(tables.get("default", {}), profiles.get(name, {}))
        values = _resolve(values, file.parent.resolve())
    values["profile"] = name
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            "ConfigInvalid", f"config: field {where} of profile {name!r} is not valid: {first['msg']}.", hint=f"Edit {file}."
        ) from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


_PATH_SUFFIXES = ("_file", "_dir", "_files", "kubeconfig")


def _resolve(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make relative paths relative to the config file, and expand ``~``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key == "secret_files" and isinstance(value, dict):
            result[key] = {name: base / Path(item).expanduser() for name, item in value.items()}
        elif isinstance(value, dict):
            result[key] = _resolve(value, base)
        elif key.endswith(_PATH_SUFFIXES) and isinstance(value, str):
            result[key] = base / Path(value).expanduser()
        elif key.endswith(_PATH_SUFFIXES) and isinstance(value, list):
            result[key] = [base / Path(item).expanduser() for item in value]
        else:
            result[key] = value
    return result
