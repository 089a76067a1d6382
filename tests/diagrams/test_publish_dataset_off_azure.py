"""Diagram "Publish Dataset - Off Azure Collaborator". The drawing's owner is Contosso; the demo's owner of S3 datasets is Litware."""
# ruff: noqa: E501 - one line per arrow

from __future__ import annotations

from tests.diagrams.deviations import LOCATE_STORE, ONE_WORKFLOW, OWN_WORKER
from tests.diagrams.history import recorded_events
from tests.diagrams.lines import Arrow, Diagram, Note, Step

OWNER = "collaborator.litware"
FRONTEND = "frontend"

# fmt: off
DIAGRAM = Diagram(
    "Publish Dataset - Off Azure Collaborator",
    [
        Step(event="start PublishS3Dataset", deviation=ONE_WORKFLOW),
        Arrow("User", "S3", "Get Connection Secret", activity="get_connection_secret", queue=OWNER),
        Arrow("User", "FE", "Publish Dataset {storage_details, connection_secret, encryption_key, schema}", part_of="PublishS3Dataset", deviation=ONE_WORKFLOW),
        Arrow("FE", "CGS", "Get Clean Room Security Policy", activity="get_clean_room_policy", queue=FRONTEND),
        Arrow("FE", "CGS", "Set Secret {connection_secret, cleanroom_policy}", activity="set_secret", queue=OWNER, deviation=OWN_WORKER),
        Arrow("FE", "CGS", "Set Secret {encryption_key, cleanroom_policy}", activity="set_secret", queue=OWNER, deviation=OWN_WORKER),
        Step(activity="locate_s3_store", queue=OWNER, deviation=LOCATE_STORE),
        Note("FE", "Generate Dataset Descriptor", activity="generate_dataset_descriptor", queue=FRONTEND),
        Arrow("FE", "CGS", "Propose Document {Contosso_Dataset} {approvers: Contosso}", activity="propose_document", queue=OWNER, deviation=OWN_WORKER),
        Arrow("FE", "CGS", "Accept Document {Contosso_Dataset} {Contosso Identity}", activity="accept_document", queue=OWNER, deviation=OWN_WORKER),
    ],
)
# fmt: on


async def test_publish_dataset_off_azure_collaborator() -> None:
    DIAGRAM.check_drawing()
    DIAGRAM.check_history(await recorded_events("publish-s3-dataset"))
