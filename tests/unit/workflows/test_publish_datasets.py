"""What the two workflows that publish a dataset give to each participant, in which order, and what the Web UI shows."""

from __future__ import annotations

import pytest

from cleanroom.errors import Refused
from cleanroom.messages.publish import AccessRequest, DescriptorRequest, FederationRequest, KeyRequest, SecretRequest
from tests.unit.workflows.driver import HELD, START
from tests.unit.workflows.worlds import IDENTITY, POLICY, PUBLISHED, STORES, publication, publish_dataset

CLOSING = ("Generate dataset descriptor", "Propose document", "Accept document")
STEPS = {
    "azure-blob": (
        "Create managed identity",
        "Allow the identity on Blob storage",
        "Allow the identity on Key Vault",
        "Get clean room details (identity and security policy)",
        "Set federation",
        "Set key with secure key release",
        *CLOSING,
    ),
    "aws-s3": (
        "Get connection secret (read by reference, checked against the store)",
        "Get clean room security policy",
        "Set secret: connection secret",
        "Set secret: encryption key",
        *CLOSING,
    ),
}
STAGES = {
    "azure-blob": ["dataset.identity", "dataset.key", "dataset.publish", "dataset.closed"],
    "aws-s3": ["dataset.secrets", "dataset.publish", "dataset.closed"],
}


@pytest.mark.parametrize("kind", STORES)
def test_the_web_ui_shows_each_step_stage_and_outcome(kind: str) -> None:
    with publish_dataset(kind) as published:
        assert published.result == published.query("published") == PUBLISHED
        assert [line.rpartition(" (")[0] for line in published.query("timeline")] == [f"done: {label}" for label in STEPS[kind]]
        assert [written["CrStage"][0] for written in published.written] == STAGES[kind]
        assert published.attributes["CrOutcome"] == ["succeeded"]
        assert "**DONE**" in published.details
    with publish_dataset(kind, accept_document=HELD) as publishing:
        assert publishing.query("published") is None
        assert publishing.query("timeline")[-1] == "running: Accept document"
        assert f"**Accept document** — since {START:%H:%M:%S} UTC" in publishing.details


@pytest.mark.parametrize("kind", STORES)
def test_every_step_on_the_owners_queue_carries_the_owners_authorisation(kind: str) -> None:
    input = publication(kind)
    with publish_dataset(kind) as published:
        own = [call.argument for call in published.calls if call.command.task_queue == "collaborator.contosso"]
        datasets = [getattr(argument, "dataset", argument) for argument in own]
        assert {(item.authorisation, item.collaboration) for item in datasets} == {("signed", "flights")}
        assert all(item.spec == input.spec for item in datasets)
        details = published.call("get_clean_room_policy").argument
        assert (details.collaboration, details.owner_id) == ("flights", "u-contosso")


@pytest.mark.parametrize("kind", STORES)
def test_a_document_is_proposed_as_generated_and_accepted_as_proposed(kind: str) -> None:
    with publish_dataset(kind) as published:
        assert published.names[-3:] == ["generate_dataset_descriptor", "propose_document", "accept_document"]
        assert published.call("propose_document").argument.descriptor.document_id == "orders"
        assert published.call("accept_document").argument.proposed.proposal_id == "p-1"


def test_azure_roles_go_to_the_identity_before_federation_and_key() -> None:
    input = publication("azure-blob")
    with publish_dataset("azure-blob") as published:
        names = published.names
        assert names[0] == "create_managed_identity"
        assert set(names[1:5]) == {"allow_access_blob", "allow_access_key_vault", "get_clean_room_identity", "get_clean_room_policy"}
        assert names[5:8] == ["set_federation", "set_key_with_skr", "locate_blob_store"]
        for name in ("allow_access_blob", "allow_access_key_vault"):
            access = published.call(name).argument
            assert isinstance(access, AccessRequest)
            assert access.identity == IDENTITY
        federation = published.call("set_federation").argument
        assert isinstance(federation, FederationRequest)
        assert (federation.identity, federation.clean_room.subject) == (IDENTITY, "flights-u-contosso")
        key = published.call("set_key_with_skr").argument
        assert isinstance(key, KeyRequest)
        assert key.policy == POLICY
        descriptor = published.call("generate_dataset_descriptor").argument
        assert isinstance(descriptor, DescriptorRequest)
        assert (descriptor.collaboration, descriptor.owner_id, descriptor.spec) == ("flights", "u-contosso", input.spec)
        assert (descriptor.store_url, descriptor.identity) == ("https://blobs", IDENTITY)
        assert descriptor.clean_room == federation.clean_room
        assert descriptor.encryption_key is not None
        assert descriptor.encryption_key.wrapped_key == "w"


def test_s3_secrets_are_stored_after_the_store_accepted_the_connection_secret() -> None:
    input = publication("aws-s3")
    with publish_dataset("aws-s3") as published:
        assert published.names[:5] == ["get_connection_secret", "get_clean_room_policy", "set_secret", "set_secret", "locate_s3_store"]
        stored = [call.argument for call in published.calls if call.name == "set_secret"]
        assert all(isinstance(request, SecretRequest) and request.policy == POLICY for request in stored)
        assert {request.kind for request in stored} == {"connection", "key"}
        descriptor = published.call("generate_dataset_descriptor").argument
        assert (descriptor.collaboration, descriptor.owner_id, descriptor.spec) == ("flights", "u-contosso", input.spec)
        assert (descriptor.store_url, descriptor.region) == ("https://s3", "eu-west-1")
        assert [secret.secret_id for secret in descriptor.secrets] == ["u-connection", "u-key"]


@pytest.mark.parametrize(("kind", "step"), [("azure-blob", "allow_access_key_vault"), ("aws-s3", "get_connection_secret")])
def test_a_failed_step_ends_the_workflow_and_shows_who_must_act(kind: str, step: str) -> None:
    with publish_dataset(kind, **{step: Refused("NoRight", "on purpose", party="contosso", hint="Ask")}) as failed:
        assert failed.code == "NoRight"
        assert "generate_dataset_descriptor" not in failed.names
        assert failed.attributes["CrOutcome"] == ["NoRight"]
        states = {line.split(": ")[0] for line in failed.query("timeline")}
        assert {"failed", "skipped"} <= states
        assert "waiting" not in states
        assert "**FAILED**: `NoRight` on purpose\n\nResponsible: **contosso**\n\nNext step: Ask" in failed.details


def test_a_cancelled_publication_shows_that_it_was_cancelled() -> None:
    with publish_dataset("aws-s3", get_connection_secret=HELD) as publishing:
        publishing.advance(seconds=7)
        publishing.cancel()
        assert publishing.cancelled
        assert publishing.attributes["CrOutcome"] == ["CANCELLED"]
        assert "**CANCELLED**" in publishing.details
        assert publishing.query("timeline")[0].startswith("failed: Get connection secret")
        assert publishing.query("timeline")[0].endswith("(7.0 s)")
