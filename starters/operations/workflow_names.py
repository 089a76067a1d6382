"""Names of the workflows and of their signals, updates and queries.

Commands do not import the workflow classes, because those import every activity and every cloud SDK, which takes a second per
command. A test compares these names with the classes.
"""

from __future__ import annotations

from typing import Final

PUBLISH_AZURE_DATASET: Final = "PublishAzureDataset"
PUBLISH_S3_DATASET: Final = "PublishS3Dataset"

PUBLISH_QUERY: Final = "PublishQuery"
STATE: Final = "state"
"""Query of ``PublishQuery``: state, approvers, approval card and refused messages."""
APPROVE: Final = "approve"
"""Signal of ``PublishQuery``, and an update of the same name that returns the result."""
REJECT: Final = "reject"
"""Signal of ``PublishQuery``, and an update of the same name that returns the result."""
UPDATE: Final = "update"
"""Update of ``PublishQuery`` that replaces the draft."""
PROPOSE: Final = "propose"
"""Update of ``PublishQuery`` that proposes the draft."""
WITHDRAW: Final = "withdraw"
"""Update of ``PublishQuery`` that withdraws the proposal or closes the draft."""

RUN_QUERY: Final = "RunQuery"
STATUS: Final = "status"
"""Query of ``RunQuery``: state, stage and steps."""
OUTCOME: Final = "outcome"
"""Query of ``RunQuery``: the result so far."""
CONCLUDE_RUN: Final = "ConcludeRun"
CLEANUP: Final = "Cleanup"

TIMELINE: Final = "timeline"
"""Query for the steps of a workflow. ``RunQuery`` has them in ``status``."""
