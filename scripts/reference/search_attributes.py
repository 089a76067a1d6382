"""The reference of search attributes: the constants of :mod:`cleanroom.temporal.attributes`."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey

from cleanroom.temporal import attributes
from scripts.reference.markdown import attribute_docs, code, header, page, parsed, prose, table


def render() -> str:
    """The page ``docs/reference/search-attributes.md``."""
    docs = attribute_docs(parsed(attributes))
    types = dict(item.split("=") for item in attributes.REGISTRATION)
    rows = []
    for name, key in vars(attributes).items():
        if not isinstance(key, SearchAttributeKey):
            continue
        if not docs.get(name):
            raise LookupError(f"cleanroom.temporal.attributes.{name} has no description; add a docstring below it.")
        rows.append((code(key.name), types[key.name], prose(docs[name])))
    lines = header(
        "Search attributes",
        "cleanroom/temporal/attributes.py",
        "Workflows set these attributes, and `temporal workflow list --query` and the Web UI filter by them. They are plain text in "
        "Temporal, so they hold states, names and times, and never SQL, columns or URLs.",
        "`cleanroom up` registers them. On another cluster, `python -m workers.register PROFILE` does. "
        "[Temporal Web UI](../web-ui.md) lists useful filters.",
    )
    return page([*lines, *table(("Attribute", "Type", "Meaning"), rows)])
