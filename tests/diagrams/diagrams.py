"""All sequence diagrams, in the order of ``docs/diagrams.md``."""

from __future__ import annotations

from tests.diagrams import (
    test_prepare_phase,
    test_publish_dataset_azure,
    test_publish_dataset_off_azure,
    test_publish_query,
    test_run_phase,
)

DIAGRAMS = (
    test_publish_dataset_azure.DIAGRAM,
    test_publish_dataset_off_azure.DIAGRAM,
    test_publish_query.DIAGRAM,
    test_prepare_phase.DIAGRAM,
    test_run_phase.DIAGRAM,
)
