"""Column lineage as data, and as the card that an approver reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import ROWS, CheckedQuery, ColumnKey
from cleanroom.sql.text.tokens import strip_invisible
from cleanroom.sql.verdict import AppliedFloor, Lineage, OutputLineage, RewrittenSegment, SourceUse, Warning


def lineage_of(catalog: Catalog, uses: Mapping[ColumnKey, set[str]], result: CheckedQuery, floors: Mapping[ColumnKey, int]) -> Lineage:
    """The lineage of a checked query, in the order of the catalogue; ``uses`` and ``floors`` are those of the query's findings."""
    touched = {view for view, _ in uses}
    names: dict[ColumnKey, tuple[str, str]] = {}
    for view in catalog.views:
        key = view.name.lower()
        if key in touched:
            names.update({(key, column.name.lower()): (view.name, column.name) for column in view.columns})
            names[key, ROWS] = (view.name, ROWS)
    places = {key: index for index, key in enumerate(names)}

    def sources(used: Mapping[ColumnKey, set[str]]) -> tuple[SourceUse, ...]:
        keys = sorted(used, key=places.__getitem__)
        return tuple(SourceUse(view=names[key][0], column=names[key][1], uses=tuple(sorted(used[key]))) for key in keys)

    outputs = []
    for field in result.fields:
        how: dict[ColumnKey, set[str]] = {}
        for name, column, use in field.origins:
            how.setdefault((name, column), set()).add(use)
        outputs.append(OutputLineage(name=field.name, type=field.type, sources=sources(how)))
    applied = [
        AppliedFloor(view=view.name, owner=view.owner, identity_column=names[name, identity][1], min_group_size=floor)
        for view in catalog.views
        for (name, identity), floor in sorted(floors.items())
        if name == view.name.lower()
    ]
    return Lineage(inputs=sources(uses), outputs=tuple(outputs), floors=tuple(applied))


def card_of(lineage: Lineage, segments: Sequence[RewrittenSegment], warnings: Sequence[Warning] = ()) -> str:
    """The text by which approvers decide on a query. Equal queries have equal cards, byte for byte.

    Invisible characters (control, bidirectional and others) are removed, so that a card looks like what it says.
    """
    lines = ["reads"]
    for view in dict.fromkeys(use.view for use in lineage.inputs):
        columns = [f"{_name(use.column)} ({', '.join(use.uses)})" for use in lineage.inputs if use.view == view]
        lines.append(f"  {_name(view)}: {', '.join(columns)}")
    if not lineage.inputs:
        lines.append("  nothing")
    lines.append("result")
    for output in lineage.outputs:
        sources = [f"{_name(source.view)}.{_name(source.column)} ({', '.join(source.uses)})" for source in output.sources]
        lines.append(f"  {_name(output.name)} {output.type} <- {', '.join(sources) or 'no input column'}")
    lines.append("floors")
    for floor in lineage.floors:
        owner = f" ({_name(floor.owner)})" if floor.owner else ""
        lines.append(
            f"  {_name(floor.view)}{owner}: every row is of at least {floor.min_group_size} distinct {_name(floor.identity_column)}"
        )
    if not lineage.floors:
        lines.append("  none")
    if warnings:
        lines.append("look at")
        lines.extend(f"  {strip_invisible(warning.message)}" for warning in warnings)
    for segment in segments:
        if segment.pre_conditions or segment.post_filters:
            lines.append(f"conditions of segment {segment.execution_sequence}")
            lines.extend(f"  {_name(pre.view_name)} has at least {pre.min_row_count} rows" for pre in segment.pre_conditions)
            lines.extend(f"  only rows with {_name(post.column_name)} >= {post.value}" for post in segment.post_filters)
    lines.append("runs")
    for segment in segments:
        plain = all(line.isprintable() and line.isascii() for line in segment.sql.split("\n"))
        lines.extend("  " + (line if plain else strip_invisible(line)) for line in f"{segment.sql};".split("\n"))
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    return strip_invisible(text)[:128]
