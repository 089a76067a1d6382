"""What the clean room passes to Key Vault, Azure Attestation and Entra ID follows from the trust document and the dataset's document."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import activities.clean_room_secrets as module
from activities.clean_room_secrets import CleanRoomSecrets
from cleanroom.clients.azure import Federation
from cleanroom.documents.dataset import EncryptionSecrets
from cleanroom.errors import CleanRoomError, Refused
from cleanroom.identifiers import TOKEN_EXCHANGE_AUDIENCE, federated_subject
from cleanroom.keys import KeyVaultSettings
from cleanroom.messages.publish import DescriptorRequest
from cleanroom.messages.run import StageRequest
from cleanroom.secret import Secret
from tests.audit_records import COLLABORATION
from tests.audit_world import AuditWorld
from tests.run_world import RunWorld
from tests.servers import fixed_id

DATASET, VERSION = "contosso-flights", "0123abcd"
HOSTS = ("vault.example:8443", "maa.example")
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----"


class PrivateCloud(AuditWorld):
    """A collaboration whose key vault and attestation authority are outside of the public clouds."""

    key_id = f"https://vault.example:8443/keys/kek/{VERSION}"

    def _descriptor_request(self, dataset: str, owner: str) -> DescriptorRequest:
        request = super()._descriptor_request(dataset, owner)
        if request.encryption_key is None:
            return request
        changes = {"key_id": self.key_id, "key_vault_url": "https://vault.example:8443", "authority": "https://maa.example"}
        return request.model_copy(update={"encryption_key": request.encryption_key.model_copy(update=changes)})


@pytest.fixture(scope="module")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return PrivateCloud(tmp_path_factory.mktemp("release-settings"))


class Cloud:
    """Records what the clean room asks of Entra ID, Azure Attestation and Key Vault."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Refused | None = None) -> None:
        self.error = error
        self.tokens: list[tuple[Any, ...]] = []
        self.credentials: list[tuple[Any, ...]] = []
        self.maa: list[tuple[Any, ...]] = []
        self.released: list[dict[str, Any]] = []
        for name, work in (("federated_credential", self._credential), ("MaaClient", self._maa), ("release_key", self._release)):
            monkeypatch.setattr(module, name, work)

    async def token(self, subject: str, tenant: str, *, issuer: str) -> Secret:
        self.tokens.append((subject, tenant, issuer))
        return Secret(b"assertion")

    def _credential(self, tenant: str, client: str, assertion: Any, *, authority: str, ca_file: Path | None, registered: Federation) -> str:
        self.credentials.append((tenant, client, assertion(), authority, ca_file and ca_file.read_text(), registered))
        return "credential"

    def _maa(self, url: str, roots: Path | None) -> str:
        self.maa.append((url, roots and roots.read_text()))
        return "maa"

    async def _release(self, **request: Any) -> Any:
        self.released.append(request)
        if self.error is not None:
            raise self.error
        return type("Released", (), {"unwrap_data_key": staticmethod(lambda wrapped: Secret(b"k" * 32))})


async def release(collaboration: AuditWorld, cloud: Cloud, *, development: dict[str, Any] | None = None, **members: Any) -> RunWorld:
    """Let the clean room release the dataset's key under a trust document with these members."""
    world = copy.copy(collaboration)
    world.member_documents = dict(world.member_documents)
    document = world.trust_document
    assert document.development is not None
    members = {"storage_hosts": HOSTS, "development": document.development.model_copy(update=development or {}), **members}
    world.accept_trust(document.model_copy(update=members))
    runs = RunWorld(world)
    client: Any = runs.process.room.client
    client.token = cloud.token
    ticket = runs.ticket("r-1")
    request = StageRequest(ticket=ticket, proof=runs.proof(ticket), dataset=DATASET)
    await runs.call(CleanRoomSecrets(runs.process.room).get_key_with_skr, request)
    return runs


async def test_hosts_roots_and_authority_are_those_of_the_trust_document(
    collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(monkeypatch)
    members = {
        "tls_roots": PEM.format("own"),
        "key_release_roots": PEM.format("release"),
        "entra_authority": "https://login.example",
    }
    await release(collaboration, cloud, **members)
    owner, tenant, client = collaboration.users["contosso"], fixed_id("tenant"), fixed_id("client")
    subject = federated_subject(COLLABORATION, owner)
    registered = Federation(issuer="https://issuer.example", subject=subject, audience=TOKEN_EXCHANGE_AUDIENCE)
    assert cloud.tokens == [(subject, tenant, "https://issuer.example")]
    assert cloud.credentials == [(tenant, client, "assertion", "https://login.example", PEM.format("own"), registered)]
    assert cloud.maa == [("https://maa.example", PEM.format("own"))]
    (request,) = cloud.released
    vault: KeyVaultSettings = request.pop("vault")
    assert vault.vault_url == "https://vault.example:8443"
    assert vault.ca_file is not None
    assert vault.ca_file.read_text() == PEM.format("own")
    assert vault.release_ca_file is not None
    assert vault.release_ca_file.read_text() == PEM.format("release")
    assert vault.verify_challenge_resource
    # A newer version of the key, which its vault's administrator may add, is not released instead.
    assert {name: request[name] for name in ("credential", "name", "version", "maa")} == {
        "credential": "credential",
        "name": "kek",
        "version": VERSION,
        "maa": "maa",
    }


async def test_without_own_roots_those_of_the_image_apply(collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud(monkeypatch)
    await release(collaboration, cloud)
    vault: KeyVaultSettings = cloud.released[0]["vault"]
    assert (vault.ca_file, vault.release_ca_file) == (None, None)
    assert [cloud.credentials[0][3:5], cloud.maa[0][1]] == [("https://login.microsoftonline.com", None), None]


@pytest.mark.parametrize("verified", [True, False])
async def test_challenge_of_key_vault_is_verified_unless_development_says_otherwise(
    collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    cloud = Cloud(monkeypatch)
    await release(collaboration, cloud, development={"verify_challenge_resource": verified})
    assert cloud.released[0]["vault"].verify_challenge_resource is verified


@pytest.mark.parametrize(
    ("hosts", "field"),
    [
        (HOSTS[:1], "kek.provider.configuration.authority"),
        (("vault.example", "maa.example:8443"), "kek.provider.configuration.authority"),
        (("vault.example:443", "maa.example"), "kek.provider.url"),
        ((), "kek.provider.url"),
    ],
)
async def test_host_that_the_trust_document_does_not_name_gets_no_token(
    collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], field: str
) -> None:
    cloud = Cloud(monkeypatch)
    with pytest.raises(CleanRoomError) as caught:
        await release(collaboration, cloud, storage_hosts=hosts)
    assert caught.value.code == "StorageHostNotAllowed"
    assert caught.value.message.startswith(f"{field}: ")
    assert (cloud.tokens, cloud.credentials, cloud.maa, cloud.released) == ([], [], [], [])


def test_key_without_a_version_in_its_document_is_released_in_its_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateCloud, "key_id", "https://vault.example:8443/keys/kek")
    cloud = Cloud(monkeypatch)
    asyncio.run(release(PrivateCloud(tmp_path), cloud))
    assert cloud.released[0]["version"] is None


@pytest.mark.parametrize(("code", "retryable"), [("ForbiddenByRbac", True), ("ReleasePolicyNotMet", False)])
async def test_only_a_role_that_may_still_propagate_is_tried_again(
    collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch, code: str, retryable: bool
) -> None:
    cloud = Cloud(monkeypatch, Refused(code, "on purpose"))
    with pytest.raises(CleanRoomError) as caught:
        await release(collaboration, cloud)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def without_authority(secrets: EncryptionSecrets) -> EncryptionSecrets:
    assert secrets.kek is not None
    resource = secrets.kek.secret.backing_resource
    bare = resource.model_copy(update={"provider": resource.provider.model_copy(update={"configuration": ""})})
    reference = secrets.kek.secret.model_copy(update={"backing_resource": bare})
    return secrets.model_copy(update={"kek": secrets.kek.model_copy(update={"secret": reference})})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda secrets: None, "KekNotSet"),
        (lambda secrets: secrets.model_copy(update={"kek": None}), "KekNotSet"),
        (lambda secrets: secrets.model_copy(update={"dek": secrets.dek.model_copy(update={"wrapped_key": None})}), "KekNotSet"),
        (without_authority, "KekProviderConfigurationAuthorityMissing"),
    ],
    ids=["no keys", "no key encryption key", "no wrapped key", "no authority"],
)
async def test_a_document_without_a_part_of_its_key_gets_no_token(
    collaboration: AuditWorld, monkeypatch: pytest.MonkeyPatch, change: Any, code: str
) -> None:
    cloud, runs = Cloud(monkeypatch), RunWorld(collaboration)
    ticket, room = runs.ticket("r-1"), runs.process.room
    genuine = room.verifier.verify_release

    async def verify_release(*arguments: Any, **options: Any) -> Any:
        # A release of Key Vault cannot be undone.
        assert options == {"fresh": True}
        verified = await genuine(*arguments, **options)
        item = verified.run.dataset(DATASET)
        point = item.dataset.dataset_access_point
        protection = point.protection.model_copy(update={"encryption_secrets": change(point.protection.encryption_secrets)})
        point = point.model_copy(update={"protection": protection})
        changed = replace(item, dataset=item.dataset.model_copy(update={"dataset_access_point": point}))
        run = SimpleNamespace(dataset=lambda name: changed, document=verified.run.document)
        return SimpleNamespace(run=run, trust=verified.trust, job=verified.job)

    monkeypatch.setattr(room.verifier, "verify_release", verify_release)
    client: Any = room.client
    client.token = cloud.token
    request = StageRequest(ticket=ticket, proof=runs.proof(ticket), dataset=DATASET)
    with pytest.raises(CleanRoomError) as caught:
        await runs.call(CleanRoomSecrets(room).get_key_with_skr, request)
    assert caught.value.code == code
    assert (cloud.tokens, cloud.credentials, cloud.maa, cloud.released) == ([], [], [], [])
