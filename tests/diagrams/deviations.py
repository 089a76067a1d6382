"""Where the code deviates from a drawing, and why. ``python -m tests.diagrams.deviations`` writes the table into the architecture page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN = "<!-- deviations: written by `python -m tests.diagrams.deviations` -->"
END = "<!-- end of deviations -->"


@dataclass(frozen=True)
class Deviation:
    """One row of the table."""

    drawing: str
    """What the drawing shows, or that it does not show the step."""
    code: str
    reason: str


ONE_WORKFLOW = Deviation(
    'The owner sends requests to the frontend: "Get Clean Room Details", "Publish Dataset".',
    "The owner starts one workflow, which performs all of them.",
    "The workflow is durable: a crash between two requests loses nothing.",
)
OWN_WORKER = Deviation(
    "The frontend creates, updates, proposes and accepts documents and sets secrets in governance.",
    "The collaborator's own worker performs these calls, after it has verified the collaborator's signed authorisation.",
    "The frontend holds no credentials of a collaborator, so it cannot forge a vote, a document or a secret.",
)
LOCATE_STORE = Deviation(
    "Not drawn.",
    "`locate_blob_store` and `locate_s3_store` read the store's URL from the settings of the owner's worker.",
    "The frontend does not know the owner's storage.",
)
REGENERATE = Deviation(
    'The note "Generate Query Document" is drawn only for "Create Query".',
    "`generate_query_document` also runs for an update.",
    "The new text needs a new document: pinned datasets, approvers and card.",
)
VERIFY_DECISION = Deviation(
    "Not drawn.",
    "`verify_decision` verifies that a vote is signed by an approver, for this proposal, version and text.",
    "Anyone who reaches Temporal can send a signal.",
)
POLL = Deviation(
    "Not drawn.",
    "`await_query_change` polls governance while a query is a draft or proposed.",
    "Collaborators can edit, propose and vote in governance directly.",
)
