"""Diagram "Publish Dataset - Azure Collaborator"."""
# ruff: noqa: E501 - one line per arrow

from __future__ import annotations

from tests.diagrams.deviations import LOCATE_STORE, ONE_WORKFLOW, OWN_WORKER
from tests.diagrams.history import recorded_events
from tests.diagrams.lines import Arrow, Diagram, Note, Step

OWNER = "collaborator.contosso"
FRONTEND = "frontend"

# fmt: off
DIAGRAM = Diagram(
    "Publish Dataset - Azure Collaborator",
    [
        Step(event="start PublishAzureDataset", deviation=ONE_WORKFLOW),
        Arrow("User", "AD", "Create Managed Identity", activity="create_managed_identity", queue=OWNER),
        Arrow("User", "Blob", "Allow Access {managed_identity}", activity="allow_access_blob", queue=OWNER),
        Arrow("User", "AKV", "Allow Access {managed_identity}", activity="allow_access_key_vault", queue=OWNER),
        Arrow("User", "FE", "Get Clean Room Details", part_of="PublishAzureDataset", deviation=ONE_WORKFLOW),
        Arrow("FE", "CGS", "Get Clean Room Identity", activity="get_clean_room_identity", queue=FRONTEND),
        Arrow("FE", "CGS", "Get Clean Room Security Policy", activity="get_clean_room_policy", queue=FRONTEND),
        Arrow("User", "AD", "Set Federation {managed_identity, cleanroom_identity}", activity="set_federation", queue=OWNER),
        Arrow("User", "AKV", "Set Key with SKR {encryption_key, cleanroom_policy}", activity="set_key_with_skr", queue=OWNER),
        Arrow("User", "FE", "Publish Dataset {storage_details, managed_identity, encryption_key_id, schema}", part_of="PublishAzureDataset", deviation=ONE_WORKFLOW),
        Step(activity="locate_blob_store", queue=OWNER, deviation=LOCATE_STORE),
        Note("FE", "Generate Dataset Descriptor", activity="generate_dataset_descriptor", queue=FRONTEND),
        Arrow("FE", "CGS", "Propose Document {Contosso_Dataset} {approvers: Contosso}", activity="propose_document", queue=OWNER, deviation=OWN_WORKER),
        Arrow("FE", "CGS", "Accept Document {Contosso_Dataset} {Contosso Identity}", activity="accept_document", queue=OWNER, deviation=OWN_WORKER),
    ],
)
# fmt: on


async def test_publish_dataset_azure_collaborator() -> None:
    DIAGRAM.check_drawing()
    DIAGRAM.check_history(await recorded_events("publish-azure-dataset"))
