"""Forged inputs of the workers that publish datasets."""

from __future__ import annotations

import base64
import uuid

import pytest

from activities.blob import container_scope
from activities.key_vault import key_scope
from cleanroom.documents.specs import BlobStoreSpec
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import FRONTEND_QUEUE, document_digest, federated_subject
from cleanroom.messages.publish import (
    AcceptDocumentRequest,
    AccessRequest,
    CleanRoomDetailsRequest,
    KeyRequest,
    ProposedDocument,
    ProposeDocumentRequest,
    PublishDatasetInput,
    SecretRequest,
)
from starters.operations.session import run_async
from tests.local_cloud import flights_spec, planes_spec
from tests.scenario.forged.attacker import CONTOSSO, LITWARE, Attacker, call_activity, list_arm, refusal_of_workflow, releasable_state
from tests.scenario.forged.builders import Forgery, federation_request, managed_identity, set_member, weaker_policy
from tests.scenario.forged.conftest import Refuse
from workflows.publish_s3_dataset import PublishS3Dataset

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


def access_request(attacker: Attacker) -> AccessRequest:
    """The genuine request for the roles of Contosso's dataset."""
    return AccessRequest(dataset=attacker.contosso_dataset, identity=managed_identity(attacker))


FORGERIES = [
    Forgery(
        name="an authorisation by another user",
        queue=LITWARE,
        activity="set_secret",
        code="SignerMismatch",
        argument=lambda attacker: SecretRequest(
            dataset=attacker.authorised_dataset(attacker.cloud.fabrikam, attacker.world.planes), kind="key", policy=attacker.policy
        ),
    ),
    Forgery(
        name="an authorisation by another user in the owner's name",
        queue=LITWARE,
        activity="set_secret",
        code="ApproverKeyUnknown",
        argument=lambda attacker: SecretRequest(
            dataset=attacker.dataset_in_the_name_of(attacker.cloud.litware, attacker.world.planes), kind="key", policy=attacker.policy
        ),
    ),
    Forgery(
        name="a specification without floors under a signature with floors",
        queue=LITWARE,
        activity="set_secret",
        code="OrderMismatch",
        argument=lambda attacker: SecretRequest(
            dataset=attacker.authorised_dataset(
                attacker.cloud.litware,
                planes_spec(name=attacker.world.planes.name, store=attacker.world.planes.store, privacy={}),
                attacker.world.planes,
            ),
            kind="key",
            policy=attacker.policy,
        ),
    ),
    Forgery(
        name="an authorisation for another collaboration",
        queue=LITWARE,
        activity="set_secret",
        code="CollaborationMismatch",
        argument=lambda attacker: SecretRequest(
            dataset=attacker.litware_dataset.model_copy(update={"collaboration": "other"}), kind="key", policy=attacker.policy
        ),
    ),
    Forgery(
        name="a clean room policy with one more guest",
        queue=LITWARE,
        activity="set_secret",
        code="CleanRoomPolicyMismatch",
        argument=lambda attacker: SecretRequest(dataset=attacker.litware_dataset, kind="connection", policy=weaker_policy(attacker.policy)),
    ),
    Forgery(
        name="a release policy with one more guest",
        queue=CONTOSSO,
        activity="set_key_with_skr",
        code="CleanRoomPolicyMismatch",
        argument=lambda attacker: KeyRequest(dataset=attacker.contosso_dataset, policy=weaker_policy(attacker.policy)),
    ),
    Forgery(
        name="a role on the storage account for another principal",
        queue=CONTOSSO,
        activity="allow_access_blob",
        code="IdentityMismatch",
        argument=lambda attacker: AccessRequest(
            dataset=attacker.contosso_dataset, identity=managed_identity(attacker).model_copy(update={"principal_id": str(uuid.uuid4())})
        ),
    ),
    Forgery(
        name="a role on the key vault for another principal",
        queue=CONTOSSO,
        activity="allow_access_key_vault",
        code="IdentityMismatch",
        argument=lambda attacker: AccessRequest(
            dataset=attacker.contosso_dataset, identity=managed_identity(attacker).model_copy(update={"principal_id": str(uuid.uuid4())})
        ),
    ),
    Forgery(
        name="the attacker's own token issuer",
        queue=CONTOSSO,
        activity="set_federation",
        code="FederationMismatch",
        argument=lambda attacker: federation_request(attacker, issuer_url="https://issuer.attacker.example"),
    ),
    Forgery(
        name="another federated subject",
        queue=CONTOSSO,
        activity="set_federation",
        code="FederationMismatch",
        argument=lambda attacker: federation_request(
            attacker, subject=federated_subject(attacker.cloud.collaboration, attacker.cloud.fabrikam.user_id)
        ),
    ),
    Forgery(
        name="descriptor with another storage address",
        queue=LITWARE,
        activity="propose_document",
        code="DescriptorMismatch",
        argument=lambda attacker: ProposeDocumentRequest(
            dataset=attacker.litware_dataset,
            descriptor=attacker.changed_descriptor(
                attacker.world.planes.name,
                set_member("datasetAccessPoint", "store", "provider", "url", to="https://storage.attacker.example"),
            ),
        ),
    ),
    Forgery(
        name="descriptor without floors",
        queue=LITWARE,
        activity="propose_document",
        code="DescriptorMismatch",
        argument=lambda attacker: ProposeDocumentRequest(
            dataset=attacker.litware_dataset,
            descriptor=attacker.changed_descriptor(
                attacker.world.planes.name, lambda value: value["datasetAccessPolicy"].pop("privacyFloors")
            ),
        ),
    ),
    Forgery(
        name="descriptor that allows every column",
        queue=CONTOSSO,
        activity="propose_document",
        code="DescriptorMismatch",
        argument=lambda attacker: ProposeDocumentRequest(
            dataset=attacker.contosso_dataset,
            descriptor=attacker.changed_descriptor(
                attacker.world.flights.name,
                lambda value: value["datasetAccessPolicy"]["privacyFloors"].update(allowedOutputColumns=["tailnum"]),
            ),
        ),
    ),
    Forgery(
        name="descriptor with a key that the attacker knows",
        queue=CONTOSSO,
        activity="propose_document",
        code="DescriptorMismatch",
        argument=lambda attacker: ProposeDocumentRequest(
            dataset=attacker.contosso_dataset,
            descriptor=attacker.changed_descriptor(
                attacker.world.flights.name,
                set_member(
                    "datasetAccessPoint",
                    "protection",
                    "encryptionSecrets",
                    "dek",
                    "wrappedKey",
                    to=base64.b64encode(b"\1" * 256).decode(),
                ),
            ),
        ),
    ),
    Forgery(
        name="descriptor with another attestation authority",
        queue=CONTOSSO,
        activity="propose_document",
        code="DescriptorMismatch",
        argument=lambda attacker: ProposeDocumentRequest(
            dataset=attacker.contosso_dataset,
            descriptor=attacker.changed_descriptor(
                attacker.world.flights.name,
                set_member(
                    "datasetAccessPoint",
                    "protection",
                    "encryptionSecrets",
                    "kek",
                    "secret",
                    "backingResource",
                    "provider",
                    "configuration",
                    to=base64.b64encode(b'{"authority":"https://maa.attacker.example"}').decode(),
                ),
            ),
        ),
    ),
    Forgery(
        name="descriptor of another dataset",
        queue=LITWARE,
        activity="propose_document",
        code="OrderMismatch",
        argument=lambda attacker: ProposeDocumentRequest(dataset=attacker.litware_dataset, descriptor=attacker.pending_descriptor),
    ),
    Forgery(
        name="acceptance of a query's proposal as a dataset's",
        queue=LITWARE,
        activity="accept_document",
        code="ProposalDiffers",
        argument=lambda attacker: AcceptDocumentRequest(
            dataset=attacker.authorised_dataset(attacker.cloud.litware, attacker.pending_spec),
            proposed=attacker.pending_proposal.model_copy(update={"proposal_id": attacker.proposed_query.proposal_id}),
        ),
    ),
    Forgery(
        name="acceptance of a text that was not proposed",
        queue=LITWARE,
        activity="accept_document",
        code="DocumentDiffers",
        argument=lambda attacker: AcceptDocumentRequest(
            dataset=attacker.authorised_dataset(attacker.cloud.litware, attacker.pending_spec),
            proposed=attacker.pending_proposal.model_copy(update={"digest": "0" * 64}),
        ),
    ),
    Forgery(
        name="acceptance of a document of another user",
        queue=LITWARE,
        activity="accept_document",
        code="DocumentDiffers",
        argument=lambda attacker: AcceptDocumentRequest(
            dataset=attacker.litware_dataset,
            proposed=ProposedDocument(
                document_id=attacker.proposed_query.query,
                proposal_id=attacker.proposed_query.proposal_id,
                version=attacker.proposed_query.version,
                digest=attacker.proposed_query.digest,
            ),
        ),
    ),
    Forgery(
        name="details of another collaboration",
        queue=FRONTEND_QUEUE,
        activity="get_clean_room_policy",
        code="CollaborationMismatch",
        argument=lambda attacker: CleanRoomDetailsRequest(collaboration="other", owner_id=attacker.cloud.litware.user_id),
    ),
    *(
        Forgery(f"a used authorisation to publish: {activity}", queue, activity, "AuthorisationUsed", argument)
        for activity, queue, argument in [
            ("create_managed_identity", CONTOSSO, lambda attacker: attacker.contosso_dataset),
            ("allow_access_blob", CONTOSSO, lambda attacker: access_request(attacker)),
            ("allow_access_key_vault", CONTOSSO, lambda attacker: access_request(attacker)),
            ("set_federation", CONTOSSO, lambda attacker: federation_request(attacker)),
            ("set_key_with_skr", CONTOSSO, lambda attacker: KeyRequest(dataset=attacker.contosso_dataset, policy=attacker.policy)),
            (
                "set_secret",
                LITWARE,
                lambda attacker: SecretRequest(dataset=attacker.litware_dataset, kind="key", policy=attacker.policy),
            ),
        ]
    ),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_forged_input_is_refused_and_changes_nothing(attacker: Attacker, refused: Refuse, forgery: Forgery) -> None:
    refused(forgery)


def test_another_users_proposal_under_a_dataset_name_is_not_accepted(attacker: Attacker) -> None:
    """Fabrikam proposes a document under the name of a dataset that Contosso will publish, with Contosso as approver."""
    cloud = attacker.cloud
    spec = flights_spec()
    text = str(attacker.documents[attacker.world.flights.name].data).replace(attacker.world.flights.name, spec.name)

    async def sneak() -> ProposedDocument:
        async with cloud.fabrikam.governance() as client:
            documents = cloud.fabrikam.documents(client)
            version = await documents.put_draft(spec.name, text, {"type": "dataset"}, [cloud.contosso.user_id])
            proposal = await documents.propose(spec.name, version, uuid.uuid4().hex)
            return ProposedDocument(document_id=spec.name, proposal_id=proposal, version=version, digest=document_digest(text))

    proposed = run_async(sneak())
    authorised = attacker.authorised_dataset(cloud.contosso, spec)
    run_async(call_activity(cloud, CONTOSSO, "create_managed_identity", authorised))
    before = releasable_state(attacker)
    with pytest.raises(CleanRoomError) as caught:
        run_async(call_activity(cloud, CONTOSSO, "accept_document", AcceptDocumentRequest(dataset=authorised, proposed=proposed)))
    assert caught.value.code == "DescriptorMismatch"
    assert releasable_state(attacker) == before


@pytest.mark.parametrize(("signed_by", "code"), [("fabrikam", "SignerMismatch"), ("litware", "OrderMismatch")])
def test_publishing_without_the_owners_authorisation_is_refused(attacker: Attacker, signed_by: str, code: str) -> None:
    """An authorisation by another user, and the owner's authorisation for the same name with privacy floors."""
    cloud, true = attacker.cloud, attacker.world.planes
    spec = true if signed_by == "fabrikam" else planes_spec(name=true.name, store=true.store, privacy={})
    authorised = attacker.authorised_dataset(cloud.session(signed_by), spec, true)
    before = releasable_state(attacker)
    given = PublishDatasetInput(
        collaboration=cloud.collaboration,
        party="litware",
        owner_id=cloud.litware.user_id,
        spec=spec,
        authorisation=authorised.authorisation,
    )
    assert refusal_of_workflow(cloud, PublishS3Dataset.run, given, FRONTEND_QUEUE, datasets=[spec.name]) == code
    assert releasable_state(attacker) == before


def test_identity_of_a_dataset_has_roles_on_its_own_container_and_key_only(attacker: Attacker) -> None:
    cloud, flights = attacker.cloud, attacker.world.flights
    own = cloud.contosso.settings.azure
    identity = managed_identity(attacker)
    assert isinstance(flights.store, BlobStoreSpec)
    wanted = {
        container_scope(own.storage_account_id, flights.store.container),
        key_scope(own.key_vault_id, cloud.collaboration, flights.name),
    }
    held = [
        item["properties"]["scope"]
        for resource in (own.storage_account_id, own.key_vault_id)
        for item in list_arm(cloud, f"{resource}/providers/Microsoft.Authorization/roleAssignments", "2022-04-01")
        if item["properties"]["principalId"] == identity.principal_id
    ]
    assert set(held) == wanted
