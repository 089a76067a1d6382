"""What each participant of "Publish Dataset" checks before it grants, stores, proposes or votes, and what it then does."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from activities import key_vault, s3
from activities.collaborator import CollaboratorGovernance
from activities.governance_policy import read_policy
from cleanroom.claims import HOST_DATA, IS_DEBUGGABLE
from cleanroom.clients.azure import RELEASE_USER, STORAGE_CONTRIBUTOR, STORAGE_READER
from cleanroom.datasets.encryption import decode_dataset_key
from cleanroom.errors import Conflict
from cleanroom.governance import Approver
from cleanroom.governance.models import OidcIssuerInfo
from cleanroom.identifiers import (
    TOKEN_EXCHANGE_AUDIENCE,
    document_digest,
    federated_subject,
    federation_name,
    identity_name,
    key_encryption_key_name,
    user_secret_name,
)
from cleanroom.keys import wrap_data_key
from cleanroom.messages.publish import (
    AcceptDocumentRequest,
    AccessRequest,
    AuthorisedDataset,
    CleanRoomIdentity,
    CleanRoomPolicy,
    Descriptor,
    DescriptorRequest,
    EncryptionKey,
    FederationRequest,
    KeyRequest,
    ManagedIdentity,
    ProposedDocument,
    ProposeDocumentRequest,
    SecretRequest,
    StoredSecret,
)
from cleanroom.publishing.descriptor import generate_descriptor
from tests.refusals import refused
from tests.shared_keys import rsa_key
from tests.unit.activities.governance import COLLABORATION, HOST, ISSUER, Caller, Governance
from tests.unit.activities.owners import STORES, Owner

FOREIGN = tuple(StoredSecret(kind=kind, secret_id=f"u-mallory_{kind}") for kind in ("connection", "key"))
CONNECTION = '{"awsAccessKeyId":"a","awsSecretAccessKey":"b"}'
IDENTITY = identity_name(COLLABORATION, "orders")


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(Governance(), tmp_path)


def with_settings(owner: Owner, **azure: str) -> None:
    """Change settings of a worker's Azure section."""
    owner.settings.azure.__dict__.update(azure)


def unsigned(dataset: AuthorisedDataset) -> AuthorisedDataset:
    """The dataset with another specification than its owner signed."""
    return dataset.model_copy(update={"spec": dataset.spec.model_copy(update={"encryption": "SSE"})})


async def identity(owner: Owner, kind: str = "azure-blob") -> ManagedIdentity:
    return await owner.azure_ad.create_managed_identity(owner.dataset(kind))


async def publish(owner: Owner) -> None:
    await owner.documents.publish_own("orders", "{}", {}, owner.user)


def clean_room(**changes: str) -> CleanRoomIdentity:
    values = {"issuer_url": ISSUER, "subject": federated_subject(COLLABORATION, "u-contosso"), "audience": TOKEN_EXCHANGE_AUDIENCE}
    return CleanRoomIdentity(**(values | changes))


# ---------------------------------------------------------------------- the policy of the contract


async def test_a_policy_is_its_claims_and_their_digest(owner: Owner) -> None:
    client: Any = owner.client
    policy = await read_policy(client, COLLABORATION)
    assert (policy.host_data, policy.claims) == ((HOST,), {HOST_DATA: (HOST,), IS_DEBUGGABLE: (False,)})
    owner.governance.policy = {IS_DEBUGGABLE: [False], HOST_DATA: [HOST]}
    assert (await read_policy(client, COLLABORATION)).digest == policy.digest
    owner.governance.policy = {IS_DEBUGGABLE: [False], HOST_DATA: [HOST, "d1" * 32]}
    assert (await read_policy(client, COLLABORATION)).digest != policy.digest


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, "CleanRoomPolicyMissing"),
        ({IS_DEBUGGABLE: [False]}, "CleanRoomPolicyMissing"),
        ({HOST_DATA: [], IS_DEBUGGABLE: [False]}, "CleanRoomPolicyMissing"),
        ({HOST_DATA: [HOST]}, "CleanRoomPolicyTooWeak"),
        ({HOST_DATA: [HOST], IS_DEBUGGABLE: [True]}, "CleanRoomPolicyTooWeak"),
        ({HOST_DATA: [HOST], IS_DEBUGGABLE: [False, True]}, "CleanRoomPolicyTooWeak"),
    ],
)
async def test_a_policy_that_any_guest_or_a_debugged_one_meets_is_refused(owner: Owner, claims: dict[str, Any], code: str) -> None:
    owner.governance.policy = claims
    assert await refused(read_policy(owner.client, COLLABORATION)) == code  # type: ignore[arg-type]


async def policy_of(owner: Owner, **changes: Any) -> CleanRoomPolicy:
    client: Any = owner.client
    return (await read_policy(client, COLLABORATION)).model_copy(update=changes)


# ---------------------------------------------------------------------- every activity: signed, own, not published yet


def calls(
    owner: Owner, dataset: AuthorisedDataset, own: ManagedIdentity, policy: CleanRoomPolicy
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every activity that changes something in an owner's name before the dataset is published."""
    access = AccessRequest(dataset=dataset, identity=own)
    federation = FederationRequest(dataset=dataset, identity=own, clean_room=clean_room())
    return {
        "create_managed_identity": lambda: owner.azure_ad.create_managed_identity(dataset),
        "allow_access_blob": lambda: owner.blob.allow_access_blob(access),
        "allow_access_key_vault": lambda: owner.key_vault.allow_access_key_vault(access),
        "set_federation": lambda: owner.azure_ad.set_federation(federation),
        "set_key_with_skr": lambda: owner.key_vault.set_key_with_skr(KeyRequest(dataset=dataset, policy=policy)),
        "set_secret": lambda: owner.worker.set_secret(SecretRequest(dataset=dataset, kind="key", policy=policy)),
    }


CHANGES = ("create_managed_identity", "allow_access_blob", "allow_access_key_vault", "set_federation", "set_key_with_skr", "set_secret")


def nothing_changed(owner: Owner) -> bool:
    return not (owner.azure.roles or owner.azure.federations or owner.azure.tags or owner.governance.secrets)


@pytest.mark.parametrize("name", CHANGES)
async def test_an_activity_does_nothing_that_its_owner_did_not_sign(owner: Owner, name: str) -> None:
    own, policy = await identity(owner), await policy_of(owner)
    owner.azure.tags.clear()
    assert await refused(calls(owner, unsigned(owner.dataset("azure-blob")), own, policy)[name]()) == "OrderMismatch"
    owner.now += dt.timedelta(hours=2)
    assert await refused(calls(owner, owner.dataset("azure-blob"), own, policy)[name]()) == "StatementExpired"
    assert nothing_changed(owner)


@pytest.mark.parametrize("name", CHANGES)
async def test_an_activity_gives_back_nothing_of_a_published_dataset(owner: Owner, name: str) -> None:
    own, policy = await identity(owner), await policy_of(owner)
    owner.azure.tags.clear()
    await publish(owner)
    assert await refused(calls(owner, owner.dataset("azure-blob"), own, policy)[name]()) == "AuthorisationUsed"
    assert nothing_changed(owner)


@pytest.mark.parametrize("name", ["set_key_with_skr", "set_secret"])
@pytest.mark.parametrize("changes", [{"host_data": ("ee" * 32,)}, {"digest": "e" * 64}])
async def test_a_key_is_for_the_policy_that_governance_holds(owner: Owner, name: str, changes: dict[str, Any]) -> None:
    own, policy = await identity(owner), await policy_of(owner, **changes)
    owner.azure.tags.clear()
    assert await refused(calls(owner, owner.dataset("azure-blob"), own, policy)[name]()) == "CleanRoomPolicyMismatch"
    assert nothing_changed(owner)


@pytest.mark.parametrize("name", ["allow_access_blob", "allow_access_key_vault"])
async def test_a_role_goes_to_the_datasets_own_identity_only(owner: Owner, name: str) -> None:
    own, policy = await identity(owner), await policy_of(owner)
    other = own.model_copy(update={"principal_id": "principal-of-mallory"})
    assert await refused(calls(owner, owner.dataset("azure-blob"), other, policy)[name]()) == "IdentityMismatch"
    owner.azure.identities.clear()
    assert await refused(calls(owner, owner.dataset("azure-blob"), own, policy)[name]()) == "ResourceNotFound"
    assert owner.azure.roles == []


# ---------------------------------------------------------------------- Azure


async def test_an_identity_is_made_for_one_dataset_of_one_collaboration(owner: Owner) -> None:
    made = await identity(owner)
    assert (made.name, made.resource_id, made.client_id) == (IDENTITY, f"/mi/{IDENTITY}", f"client-{IDENTITY}")
    assert (made.principal_id, made.tenant_id) == (f"principal-{IDENTITY}", "tenant")
    assert owner.azure.tags == {IDENTITY: {"cleanroom": COLLABORATION, "dataset": "orders"}}
    assert await identity(owner) == made


@pytest.mark.parametrize(("access", "role"), [("read", STORAGE_READER), ("write", STORAGE_CONTRIBUTOR)])
async def test_a_dataset_gets_the_least_role_on_its_own_container(owner: Owner, access: str, role: str) -> None:
    dataset = owner.dataset("azure-blob", access=access)
    own = await owner.azure_ad.create_managed_identity(dataset)
    granted = await owner.blob.allow_access_blob(AccessRequest(dataset=dataset, identity=own))
    scope = "/subscriptions/s/account/blobServices/default/containers/orders"
    assert (granted.roles, granted.scope) == ((role,), scope)
    assert owner.azure.roles == [(scope, role, own.principal_id)]


async def test_the_right_to_release_is_on_one_key(owner: Owner) -> None:
    own = await identity(owner)
    granted = await owner.key_vault.allow_access_key_vault(AccessRequest(dataset=owner.dataset("azure-blob"), identity=own))
    scope = f"/subscriptions/s/vault/keys/{key_encryption_key_name(COLLABORATION, 'orders')}"
    assert (granted.roles, granted.scope) == ((RELEASE_USER,), scope)
    assert owner.azure.roles == [(scope, RELEASE_USER, own.principal_id)]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("storage_account_id", "allow_access_blob"),
        ("key_vault_id", "allow_access_key_vault"),
        ("maa_url", "set_key_with_skr"),
        ("key_vault_url", "set_key_with_skr"),
    ],
)
async def test_a_missing_setting_is_named(owner: Owner, setting: str, name: str) -> None:
    own, policy = await identity(owner), await policy_of(owner)
    with_settings(owner, **{setting: ""})
    assert await refused(calls(owner, owner.dataset("azure-blob"), own, policy)[name]()) == "SettingMissing"
    assert owner.azure.roles == []


async def test_a_dataset_in_s3_has_no_role_on_a_container(owner: Owner) -> None:
    own = await identity(owner, "aws-s3")
    request = AccessRequest(dataset=owner.dataset("aws-s3"), identity=own)
    assert await refused(owner.blob.allow_access_blob(request)) == "StoreKindMismatch"


async def test_the_clean_room_signs_in_as_the_dataset_with_this_owners_subject(owner: Owner) -> None:
    own = await identity(owner)
    made = await owner.azure_ad.set_federation(
        FederationRequest(dataset=owner.dataset("azure-blob"), identity=own, clean_room=clean_room())
    )
    subject = federated_subject(COLLABORATION, "u-contosso")
    assert (made.issuer_url, made.subject, made.audience) == (ISSUER, subject, TOKEN_EXCHANGE_AUDIENCE)
    assert made.name == federation_name(subject, ISSUER)
    [(name, federation, set_to)] = owner.azure.federations
    assert (name, federation) == (IDENTITY, made.name)
    assert (set_to.issuer, set_to.subject, set_to.audience) == (ISSUER, subject, TOKEN_EXCHANGE_AUDIENCE)


@pytest.mark.parametrize(
    "changes", [{"issuer_url": "https://mallory.example"}, {"subject": federated_subject(COLLABORATION, "u-mallory")}, {"audience": "any"}]
)
async def test_a_federation_that_trusts_somebody_else_is_refused(owner: Owner, changes: dict[str, str]) -> None:
    request = FederationRequest(dataset=owner.dataset("azure-blob"), identity=await identity(owner), clean_room=clean_room(**changes))
    assert await refused(owner.azure_ad.set_federation(request)) == "FederationMismatch"
    assert owner.azure.federations == []


async def test_the_store_is_the_owners_own(owner: Owner) -> None:
    assert (await owner.blob.locate_blob_store(owner.dataset("azure-blob"))).url == "https://orders.blob.example"
    located = await owner.s3.locate_s3_store(owner.dataset())
    assert (located.url, located.region) == ("https://s3.example", "eu-west-1")
    for kind, locate in (("azure-blob", owner.blob.locate_blob_store), ("aws-s3", owner.s3.locate_s3_store)):
        assert await refused(locate(unsigned(owner.dataset(kind)))) == "OrderMismatch"
    with_settings(owner, storage_account_url="")
    owner.settings.s3.__dict__.update(endpoint_url=None)
    assert await refused(owner.blob.locate_blob_store(owner.dataset("azure-blob"))) == "SettingMissing"
    assert (await owner.s3.locate_s3_store(owner.dataset())).url == ""


# ---------------------------------------------------------------------- keys and secrets


async def test_the_dataset_key_is_wrapped_for_a_key_that_only_the_clean_room_gets(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    private = rsa_key()
    asked: dict[str, Any] = {}

    class Key:
        name, key_id = "kek", "https://vault.example/keys/kek/1"

        def public_key(self) -> rsa.RSAPublicKey:
            return private.public_key()

    async def create(**options: Any) -> Key:
        asked.update(options)
        return Key()

    monkeypatch.setattr(key_vault, "set_key_with_skr", create)
    with_settings(owner, verify_challenge_resource=False, key_vault_release_ca_file=Path("/release.pem"))
    owner.settings.__dict__["ca_file"] = Path("/ca.pem")
    made = await owner.key_vault.set_key_with_skr(KeyRequest(dataset=owner.dataset("azure-blob"), policy=await policy_of(owner)))
    assert (made.key_name, made.key_id) == ("kek", "https://vault.example/keys/kek/1")
    assert (made.key_vault_url, made.authority) == ("https://vault.example", "https://maa.example")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert private.decrypt(b64decode(made.wrapped_key), oaep) == owner.keys.get("orders").reveal()
    assert owner.keys.wrappings("orders") == {made.wrapped_key}
    assert asked["name"] == key_encryption_key_name(COLLABORATION, "orders")
    assert asked["tags"] == {"collaboration": COLLABORATION, "dataset": "orders"}
    assert asked["credential"] is owner.azure
    vault = asked["vault"]
    assert (vault.vault_url, vault.ca_file, vault.release_ca_file) == ("https://vault.example", Path("/ca.pem"), Path("/release.pem"))
    assert vault.verify_challenge_resource is False
    policy = str(asked["policy"])
    assert HOST in policy
    assert "https://maa.example" in policy


@pytest.fixture
def connection(owner: Owner, tmp_path: Path) -> Path:
    path = tmp_path / "s3"
    path.write_text(CONNECTION)
    path.chmod(0o600)
    return path


def in_s3(owner: Owner, connection: Path) -> AuthorisedDataset:
    return owner.dataset(store=STORES["aws-s3"] | {"connectionSecret": f"file:{connection}"})


async def test_secrets_go_into_governance_under_the_datasets_names(owner: Owner, connection: Path) -> None:
    dataset, policy = in_s3(owner, connection), await policy_of(owner)
    for kind in ("connection", "key"):
        stored = await owner.worker.set_secret(SecretRequest(dataset=dataset, kind=kind, policy=policy))
        assert stored.kind == kind
        value = owner.governance.secrets[stored.secret_id]
        assert value.reveal_text() == CONNECTION if kind == "connection" else decode_dataset_key(value) == owner.keys.get("orders")
    assert len(owner.governance.secrets) == 2


async def test_a_malformed_connection_secret_and_a_dataset_without_one_are_refused(owner: Owner, connection: Path) -> None:
    policy = await policy_of(owner)
    connection.write_text("{}")
    request = SecretRequest(dataset=in_s3(owner, connection), kind="connection", policy=policy)
    assert await refused(owner.worker.set_secret(request)) == "ConnectionSecretMalformed"
    request = SecretRequest(dataset=owner.dataset("azure-blob"), kind="connection", policy=policy)
    assert await refused(owner.worker.set_secret(request)) == "StoreKindMismatch"
    assert owner.governance.secrets == {}


async def test_the_connection_secret_must_open_the_store(owner: Owner, connection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Store:
        def check(self) -> None:
            if owner.settings.s3.region == "nowhere":
                raise Conflict("StoreRefused", "on purpose")

    def open_s3(settings: Any, store: Any) -> Store:
        opened.append(store)
        return Store()

    monkeypatch.setattr(s3, "open_s3", open_s3)
    dataset = in_s3(owner, connection)
    found = await owner.s3.get_connection_secret(dataset)
    assert (found.reference, found.store) == (f"file:{connection}", "s3://orders/orders")
    assert opened == [dataset.spec.store]
    assert await refused(owner.s3.get_connection_secret(unsigned(dataset))) == "OrderMismatch"
    assert await refused(owner.s3.get_connection_secret(owner.dataset("azure-blob"))) == "StoreKindMismatch"
    assert len(opened) == 1
    owner.settings.s3.__dict__["region"] = "nowhere"
    assert await refused(owner.s3.get_connection_secret(dataset)) == "StoreRefused"


# ---------------------------------------------------------------------- proposing and accepting the document


def descriptor(owner: Owner, dataset: AuthorisedDataset, **changes: Any) -> Descriptor:
    """What the frontend generates."""
    values: dict[str, Any] = {
        "collaboration": COLLABORATION,
        "owner_id": owner.user,
        "spec": dataset.spec,
        "store_url": "https://s3.example",
        "region": "eu-west-1",
        "secrets": tuple(
            StoredSecret(kind=kind, secret_id=f"{owner.user}_{user_secret_name('orders', kind)}") for kind in ("connection", "key")
        ),
    }
    return generate_descriptor(DescriptorRequest(**(values | changes)))


async def propose(owner: Owner, **changes: Any) -> ProposedDocument:
    dataset = owner.dataset()
    values: dict[str, Any] = {"dataset": dataset, "descriptor": descriptor(owner, dataset)}
    return await owner.worker.propose_document(ProposeDocumentRequest(**(values | changes)))


async def accept(owner: Owner, proposed: ProposedDocument, dataset: AuthorisedDataset | None = None) -> Any:
    return await owner.worker.accept_document(AcceptDocumentRequest(dataset=dataset or owner.dataset(), proposed=proposed))


async def test_a_dataset_is_proposed_and_accepted_by_its_owner_alone_and_once(owner: Owner) -> None:
    dataset = owner.dataset()
    made = descriptor(owner, dataset)
    request = ProposeDocumentRequest(dataset=dataset, descriptor=made)
    proposed = await owner.worker.propose_document(request)
    assert (proposed.document_id, proposed.digest) == ("orders", document_digest(made.data))
    held = await owner.documents.get("orders")
    assert (held.state, held.proposal_id, held.proposer_id) == ("Proposed", proposed.proposal_id, owner.user)
    assert [item.approver_id for item in held.approvers or ()] == [owner.user]
    assert dict(held.labels or {}) == made.labels
    assert await owner.worker.propose_document(request) == proposed  # Temporal retries the activity.
    published = await accept(owner, proposed)
    held = await owner.documents.get("orders")
    assert held.state == "Accepted"
    assert (published.document_id, published.version, published.digest) == ("orders", held.version, proposed.digest)
    assert (published.proposal_id, published.owner_id) == (proposed.proposal_id, owner.user)
    writes = len(owner.client.writes)
    assert await accept(owner, proposed) == published
    assert len(owner.client.writes) == writes


@pytest.mark.parametrize("step", ["propose", "accept"])
async def test_proposing_and_accepting_need_the_owners_signature(owner: Owner, step: str) -> None:
    dataset = unsigned(owner.dataset())
    if step == "propose":
        assert await refused(propose(owner, dataset=dataset)) == "OrderMismatch"
        assert owner.client.writes == []
    else:
        proposed = await propose(owner)
        assert await refused(accept(owner, proposed, dataset)) == "OrderMismatch"
        assert (await owner.documents.get("orders")).state == "Proposed"


async def test_a_withdrawn_proposal_is_not_made_again_with_the_same_authorisation(owner: Owner) -> None:
    dataset = owner.dataset()
    request = ProposeDocumentRequest(dataset=dataset, descriptor=descriptor(owner, dataset))
    proposed = await owner.worker.propose_document(request)
    await owner.client.withdraw_proposal(proposed.proposal_id)
    assert await refused(owner.worker.propose_document(request)) == "ProposalAlreadyExists"
    assert (await propose(owner)).proposal_id != proposed.proposal_id


@pytest.mark.parametrize("changes", [{"document_id": "customers"}, {"digest": "0" * 64}])
async def test_a_descriptor_of_another_dataset_or_digest_is_refused(owner: Owner, changes: dict[str, str]) -> None:
    made = descriptor(owner, owner.dataset()).model_copy(update=changes)
    assert await refused(propose(owner, descriptor=made)) == "OrderMismatch"
    assert owner.client.writes == []


@pytest.mark.parametrize("changes", [{"store_url": "https://mallory.example"}, {"region": "us-east-1"}, {"secrets": FOREIGN}])
async def test_a_descriptor_that_is_not_what_the_owner_would_generate_is_refused(owner: Owner, changes: dict[str, Any]) -> None:
    assert await refused(propose(owner, descriptor=descriptor(owner, owner.dataset(), **changes))) == "DescriptorMismatch"
    assert owner.client.writes == []


async def test_a_draft_of_another_text_is_replaced_and_an_accepted_one_is_not(owner: Owner) -> None:
    await owner.documents.put_draft("orders", "something else", {}, [owner.user])
    proposed = await propose(owner)
    assert (await owner.documents.get("orders")).proposal_id == proposed.proposal_id
    await accept(owner, proposed)
    other = owner.dataset(access="write")
    assert await refused(propose(owner, dataset=other, descriptor=descriptor(owner, other))) == "DocumentDiffers"


async def test_a_draft_of_other_approvers_is_replaced(owner: Owner) -> None:
    made = descriptor(owner, owner.dataset())
    await owner.documents.put_draft("orders", made.data, made.labels, [owner.user, "u-mallory"])
    await propose(owner)
    assert [item.approver_id for item in (await owner.documents.get("orders")).approvers or ()] == [owner.user]


async def proposal_of(owner: Owner, by: str, data: str, document_id: str = "orders") -> ProposedDocument:
    """A proposal of another user, with this owner as its approver."""
    client = Caller(owner.governance, by)
    document = {"contractId": COLLABORATION, "version": "2.1", "data": data, "labels": {}}
    await client.create_proposal(f"p-{by}", document_id, document, (Approver(approver_id=owner.user),))
    return ProposedDocument(document_id=document_id, proposal_id=f"p-{by}", version="2.1", digest=document_digest(data))


async def test_a_proposal_of_another_user_is_not_voted_for(owner: Owner) -> None:
    proposed = await proposal_of(owner, "u-mallory", descriptor(owner, owner.dataset()).data)
    assert await refused(accept(owner, proposed)) == "DocumentNotOwn"
    assert "submit_ballot" not in owner.client.writes


async def test_a_document_that_changed_after_its_proposal_is_not_accepted(owner: Owner) -> None:
    proposed = await propose(owner)
    assert await refused(accept(owner, proposed.model_copy(update={"digest": "0" * 64}))) == "DocumentDiffers"
    other = await proposal_of(owner, owner.user, "text", "customers")
    assert await refused(accept(owner, other)) == "DocumentDiffers"
    assert "submit_ballot" not in owner.client.writes


async def test_a_proposed_text_that_the_owner_would_not_generate_is_not_accepted(owner: Owner) -> None:
    forged = descriptor(owner, owner.dataset(), store_url="https://mallory.example").data
    assert await refused(accept(owner, await proposal_of(owner, owner.user, forged))) == "DescriptorMismatch"
    assert "submit_ballot" not in owner.client.writes


async def test_the_vote_is_for_the_proposal_of_this_document_and_text(owner: Owner) -> None:
    proposed = await propose(owner)
    for other in (await proposal_of(owner, owner.user, "text", "customers"), proposed):
        wrong = proposed.model_copy(update={"proposal_id": other.proposal_id})
        if other is proposed:
            owner.governance.proposals[proposed.proposal_id].content.args["document"]["data"] += " "
            assert await refused(accept(owner, wrong)) in ("DocumentDiffers", "ProposalDiffers")
        else:
            assert await refused(accept(owner, wrong)) == "ProposalDiffers"
    assert "submit_ballot" not in owner.client.writes


async def test_a_dataset_in_azure_is_proposed_with_this_workers_own_wrapping_and_identity(owner: Owner) -> None:
    dataset, own = owner.dataset("azure-blob"), await identity(owner)
    public = rsa_key().public_key()
    name = key_encryption_key_name(COLLABORATION, "orders")

    def made(wrapped: str, **changes: Any) -> Descriptor:
        key = EncryptionKey(
            key_name=name, key_id=f"https://vault.example/keys/{name}/1", key_vault_url="https://vault.example",
            authority="https://maa.example", wrapped_key=wrapped,
        )  # fmt: skip
        return generate_descriptor(
            DescriptorRequest(
                collaboration=COLLABORATION, owner_id=owner.user, spec=dataset.spec, store_url="https://orders.blob.example",
                **{"identity": own, "clean_room": clean_room(), "encryption_key": key, **changes},
            )
        )  # fmt: skip

    wrapped = [wrap_data_key(public, owner.keys.get_or_create("orders")) for _ in range(2)]
    assert await refused(propose(owner, dataset=dataset, descriptor=made(wrapped[0]))) == "DescriptorMismatch"
    for item in wrapped:
        owner.keys.remember_wrapping("orders", item)
    for changes in ({"clean_room": clean_room(issuer_url="https://m.example")}, {"identity": own.model_copy(update={"client_id": "m"})}):
        assert await refused(propose(owner, dataset=dataset, descriptor=made(wrapped[0], **changes))) == "DescriptorMismatch"
    await owner.documents.put_draft("orders", made(wrapped[1]).data, made(wrapped[1]).labels, [owner.user])
    proposed = await propose(owner, dataset=dataset, descriptor=made(wrapped[0]))
    # The draft that differs only in its wrapping is kept, so that is what is proposed.
    assert proposed.digest == made(wrapped[1]).digest
    assert (await accept(owner, proposed, dataset)).digest == proposed.digest


async def test_a_worker_without_azure_or_an_issuer_proposes_no_dataset_in_azure(owner: Owner) -> None:
    dataset, own = owner.dataset("azure-blob", encryption="SSE"), await identity(owner)
    request = DescriptorRequest(
        collaboration=COLLABORATION, owner_id=owner.user, spec=dataset.spec, store_url="https://orders.blob.example",
        identity=own, clean_room=clean_room(),
    )  # fmt: skip
    proposal = ProposeDocumentRequest(dataset=dataset, descriptor=generate_descriptor(request))
    without = CollaboratorGovernance(owner.settings, owner.authorisations, owner.documents, owner.keys)
    assert await refused(without.propose_document(proposal)) == "DescriptorMismatch"
    owner.governance.issuer = OidcIssuerInfo(enabled=True)
    assert await refused(owner.worker.propose_document(proposal)) == "DescriptorMismatch"
    assert owner.client.writes == []


async def test_a_kept_draft_with_a_wrapping_of_somebody_else_is_not_proposed(owner: Owner) -> None:
    dataset, own = owner.dataset("azure-blob"), await identity(owner)
    public = rsa_key().public_key()
    name = key_encryption_key_name(COLLABORATION, "orders")
    made = []
    for _ in range(2):
        key = EncryptionKey(
            key_name=name, key_id=f"https://vault.example/keys/{name}", key_vault_url="https://vault.example",
            authority="https://maa.example", wrapped_key=wrap_data_key(public, owner.keys.get_or_create("orders")),
        )  # fmt: skip
        request = DescriptorRequest(
            collaboration=COLLABORATION, owner_id=owner.user, spec=dataset.spec, store_url="https://orders.blob.example",
            identity=own, clean_room=clean_room(), encryption_key=key,
        )  # fmt: skip
        made.append((generate_descriptor(request), key.wrapped_key))
    owner.keys.remember_wrapping("orders", made[0][1])
    await owner.documents.put_draft("orders", made[1][0].data, made[1][0].labels, [owner.user])
    assert await refused(propose(owner, dataset=dataset, descriptor=made[0][0])) == "DescriptorMismatch"
    assert "create_proposal" not in owner.client.writes
