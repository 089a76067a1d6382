"""The local cloud from the command line: ``python -m localcloud up --detach``, its profiles, ``ps``, ``down``."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from azure.keyvault.keys import KeyClient

from cleanroom.clients.azure import RELEASE_USER, STORAGE_READER, ManagedIdentities, RoleAssignments, credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.owned import read_secret_reference
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.errors import PreconditionFailed
from cleanroom.governance import GovernanceUserClient
from cleanroom.settings import Settings, load_settings
from starters.operations.doctor.checks import run_checks
from starters.operations.doctor.plan import planned_checks
from starters.operations.session import Session
from tests.local_cloud import Cloud, World, unique

pytestmark = pytest.mark.scenario
PROFILES = ("contosso", "litware", "fabrikam", "frontend", "clean-room", "spark-service")


def localcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "localcloud", *arguments], capture_output=True, text=True, timeout=240)


@pytest.fixture
def state(cloud: Cloud) -> Path:
    return cloud.state


def services(folder: Path) -> list[dict]:
    """List the services. Tests kill workers, so those are not among them."""
    listed = json.loads(localcloud("ps", "--state", str(folder), "--output", "json").stdout)
    return [service for service in listed if not service["name"].startswith("worker.")]


def settings(state: Path, profile: str) -> Settings:
    return load_settings(profile, path=state / "cleanroom.toml")


def test_all_services_are_ready(state: Path):
    listed = services(state)
    assert {service["state"] for service in listed} == {"ready"}
    names = {service["name"] for service in listed}
    assert {"temporal", "azurite", "seaweedfs", "entra", "snp", "maa", "keyvault", "cgs", "kubernetes", "blobaccess", "codec"} <= names
    assert all(psutil.pid_exists(service["pid"]) and Path(service["log"]).exists() for service in listed)


def test_stand_ins_report_not_confidential(state: Path):
    for service in services(state):
        if service["name"] in ("entra", "snp", "maa", "keyvault", "cgs", "kubernetes"):
            assert "NOT CONFIDENTIAL" in Path(service["log"]).read_text()


def test_secret_files_are_private(state: Path):
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for file in [*state.glob("secrets/*"), *state.glob("config/*.json"), state / "cleanroom.toml", state / "guests.json"]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_no_secret_is_in_an_argument_list(state: Path):
    secrets = [file.read_text().strip() for file in state.glob("secrets/*") if file.name != "codec-keyring.json"]
    for service in services(state):
        arguments = " ".join(psutil.Process(service["pid"]).cmdline())
        assert not any(secret in arguments for secret in secrets)


@pytest.mark.parametrize("profile", PROFILES)
async def test_every_profile_is_a_registered_user_of_governance(state: Path, profile: str):
    own = settings(state, profile)
    token = credential(own.credential, ca_file=own.ca_file).get_token(own.governance.scope).token

    async def provide() -> str:
        return token

    async with GovernanceUserClient(own.governance.url, token=provide, mode=own.governance.mode, ca_file=own.ca_file) as client:
        identities = {identity.id for identity in await client.list_identities()}
    assert set(own.parties.values()) < identities


@pytest.mark.parametrize("profile", ["contosso", "litware", "clean-room", "spark-service", "operator"])
async def test_the_doctor_finds_everything_well(state: Path, world: World, profile: str):
    session = Session.load(profile, str(state / "cleanroom.toml"))
    found = await run_checks(planned_checks(session), seconds=60)
    # Other tests kill workers and terminate runs.
    mine = [item for item in found if not item.check.startswith(("worker of ", "left of "))]
    assert not [item for item in mine if item.state == "failed"]
    # A Spark service is not an administrator of its cluster.
    rights = {"version of the Spark operator", "rights of the Spark operator and of drivers", "quota of the namespace"}
    assert {item.check for item in found if item.state == "skipped"} <= rights | {"identities of datasets"}


def test_contosso_manages_keys_and_other_tenants_cannot(state: Path):
    own = settings(state, "contosso")

    def vault(profile: str) -> KeyClient:
        who = credential(settings(state, profile).credential, ca_file=own.ca_file)
        options = {"verify_challenge_resource": own.azure.verify_challenge_resource, "connection_verify": str(own.ca_file)}
        return KeyClient(own.azure.key_vault_url, who, **options)

    assert vault("contosso").create_rsa_key(f"k-{uuid.uuid4().hex}", size=2048).id.startswith(own.azure.key_vault_url)
    with pytest.raises(PreconditionFailed, match="AuthenticationFailed"):  # the credential's tenant is not that of the vault's challenge
        vault("litware").create_rsa_key("stolen", size=2048)


def test_contosso_grants_access_to_an_identity(state: Path):
    own = settings(state, "contosso")
    user = credential(own.credential, ca_file=own.ca_file)
    identity = ManagedIdentities(user, own.azure, ca_file=own.ca_file).create_or_update(unique("dataset"))
    roles = RoleAssignments(user, own.azure, ca_file=own.ca_file)
    assert roles.allow(own.azure.storage_account_id, STORAGE_READER, identity.principal_id)
    assert roles.allow(own.azure.key_vault_id, RELEASE_USER, identity.principal_id)


def test_contosso_uploads_and_other_tenants_cannot_read(state: Path):
    own = settings(state, "contosso")
    account = check_storage_url(own.azure.storage_account_url, "azure-blob", declared=own.storage_hosts)

    def store(profile: str) -> BlobStore:
        who = credential(settings(state, profile).credential, ca_file=own.ca_file)
        return BlobStore(account, container, who, ca_file=own.ca_file)

    container = unique("rows")
    mine = store("contosso")
    mine.create_container()
    mine.put("a", b"rows")
    assert mine.read("a") == b"rows"
    with pytest.raises(PreconditionFailed) as caught:
        store("litware").read("a")
    assert caught.value.code == "InvalidAuthenticationInfo"


def test_litware_connection_secret_gives_access_to_its_bucket(state: Path):
    own = settings(state, "litware")
    store = S3Store(
        own.s3.bucket,
        region=own.s3.region,
        endpoint=check_storage_url(own.s3.endpoint_url or "", "s3", declared=own.storage_hosts),
        credentials=S3Credentials.parse(read_secret_reference("secret:s3", own)),
        ca_file=own.ca_file,
    )
    store.check()
    folder = unique("rows")
    store.put(f"{folder}/part-0.parquet", b"x")
    assert [item.key for item in store.list(f"{folder}/")] == [f"{folder}/part-0.parquet"]


def test_second_start_is_a_conflict_or_shows_the_running_services(state: Path):
    again = localcloud("up", "--state", str(state), "--detach", "--output", "json")
    assert again.returncode == 0
    assert {service["pid"] for service in json.loads(again.stdout)} >= {service["pid"] for service in services(state)}
    foreground = localcloud("up", "--state", str(state), "--output", "json")
    assert foreground.returncode == 5
    assert json.loads(foreground.stderr.strip().splitlines()[-1])["code"] == "AlreadyRunning"


def test_commands_without_a_start_report_not_started(tmp_path: Path):
    assert localcloud("down", "--state", str(tmp_path / "none")).returncode == 3
    assert services(tmp_path / "none") == []
    assert not os.path.exists(tmp_path / "none")
