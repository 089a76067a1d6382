"""Workflows and their messages, by name.

Commands do not import the workflows' classes: with them would come every activity and every cloud's SDK, a second in each command. A test
compares these names with the classes.
"""

from __future__ import annotations

from typing import Final

PUBLISH_AZURE_DATASET: Final = "PublishAzureDataset"
PUBLISH_S3_DATASET: Final = "PublishS3Dataset"

PUBLISH_QUERY: Final = "PublishQuery"
STATE: Final = "state"
"""Query of ``PublishQuery``."""
APPROVE: Final = "approve"
REJECT: Final = "reject"
UPDATE: Final = "update"
"""Update of ``PublishQuery``, like ``PROPOSE`` and ``WITHDRAW``."""
PROPOSE: Final = "propose"
WITHDRAW: Final = "withdraw"

RUN_QUERY: Final = "RunQuery"
STATUS: Final = "status"
"""Query of ``RunQuery``."""
OUTCOME: Final = "outcome"
"""Query of ``RunQuery``."""
CONCLUDE_RUN: Final = "ConcludeRun"

TIMELINE: Final = "timeline"
"""Query of every workflow with a checklist but ``RunQuery``, whose ``status`` has it."""
