"""Columns and saved views of the Web UI's workflow list, for this project's search attributes.

The Web UI (2.54) keeps both in the browser's ``localStorage`` and has no server setting for them. The gateway's login page writes them at
a browser's first login, and does not change what a user has already chosen. Filters cannot use relative times, so a view such as
"stuck for 15 minutes" is not possible; ``docs/web-ui.md`` has such queries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

COLUMNS: Final = ("Status", "Workflow ID", "CrStage", "CrPendingFor", "CrOutcome", "CrStageSince", "Start")
"""Columns of the workflow list."""
VIEWS: Final = (
    ("Waiting for a decision", 'ExecutionStatus="Running" AND CrPendingFor IS NOT NULL'),
    ("Under way", 'ExecutionStatus="Running" AND CrKind IN ("run","prepare","dataset")'),
    ("Failed", 'ExecutionStatus IN ("Failed","TimedOut","Terminated") AND CrKind IN ("run","prepare","dataset","query")'),
    ("Queries", 'CrKind="query"'),
    ("Runs", 'CrKind="run"'),
)
"""Name and filter of each saved view."""


def preferences(namespaces: Sequence[str]) -> dict[str, Any]:
    """Return the values to set in ``localStorage``, by key."""
    views = [{"id": f"cr-{index}", "name": name, "query": query, "type": "user"} for index, (name, query) in enumerate(VIEWS)]
    return {
        "namespace-workflow-table-columns": {namespace: [{"label": label} for label in COLUMNS] for namespace in namespaces},
        "saved-workflow-queries": dict.fromkeys(namespaces, views),
    }


def as_script(namespaces: Sequence[str]) -> str:
    """Return :func:`preferences` as a JavaScript object that is safe inside a script element."""
    return json.dumps(preferences(namespaces)).replace("<", "\\u003c")
