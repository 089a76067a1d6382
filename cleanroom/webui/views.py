"""What a browser is given at its first login: columns and saved views of the Web UI's list, in this project's search attributes.

The Web UI keeps both in the browser's ``localStorage``; there is no setting of its server for them (Web UI 2.54). What a person has
chosen already is left alone. Filters know no relative times, so "stuck for 15 minutes" is a view of what runs, beside a column that says
since when; ``docs/web-ui.md`` has the queries with times.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

COLUMNS: Final = ("Status", "Workflow ID", "CrStage", "CrPendingFor", "CrOutcome", "CrStageSince", "Start")
VIEWS: Final = (
    ("Waiting for a decision", 'ExecutionStatus="Running" AND CrPendingFor IS NOT NULL'),
    ("Under way", 'ExecutionStatus="Running" AND CrKind IN ("run","prepare","dataset")'),
    ("Failed", 'ExecutionStatus IN ("Failed","TimedOut","Terminated") AND CrKind IN ("run","prepare","dataset","query")'),
    ("Queries", 'CrKind="query"'),
    ("Runs", 'CrKind="run"'),
)
"""Name and filter."""


def preferences(namespaces: Sequence[str]) -> dict[str, Any]:
    """Key of ``localStorage`` to its value, for a browser that has none there."""
    views = [{"id": f"cr-{index}", "name": name, "query": query, "type": "user"} for index, (name, query) in enumerate(VIEWS)]
    return {
        "namespace-workflow-table-columns": {namespace: [{"label": label} for label in COLUMNS] for namespace in namespaces},
        "saved-workflow-queries": dict.fromkeys(namespaces, views),
    }


def as_script(namespaces: Sequence[str]) -> str:
    """:func:`preferences` as a JavaScript object that may stand inside a script element."""
    return json.dumps(preferences(namespaces)).replace("<", "\\u003c")
