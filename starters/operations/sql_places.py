"""Finds places of SQL text in the files of a query, so that an error names the line that its author sees in the editor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cleanroom.documents.specs import QuerySpec
from cleanroom.documents.yaml_files import read_text


@dataclass(frozen=True)
class SqlPlace:
    """Where the text of one segment is.

    Attributes:
        file: The file that contains it.
        lines: Lines of the file before the first line of the text.
        columns: Columns before each line of the text; before the first line only, if the text is ``inline``.
        member: The member of a YAML file whose text has other lines than the file, such as a folded text; empty otherwise.
        inline: Whether the text is a part of one line.
    """

    file: str
    lines: int = 0
    columns: int = 0
    member: str = ""
    inline: bool = False

    def find(self, line: int, column: int) -> dict[str, Any]:
        """Return file, line and column of a position in the text, all counted from 1."""
        shift = self.columns if line == 1 or not self.inline else 0
        place = {"file": self.file, "line": line + self.lines, "column": column + shift}
        return place | {"member": self.member} if self.member else place


def sql_places(path: Path, spec: QuerySpec) -> list[SqlPlace]:
    """Return the places of the segments of a query, in the order of :meth:`QuerySpec.to_segments`.

    Args:
        path: The YAML file, which was loaded as ``spec``.
        spec: The query.
    """
    text = read_text(path)
    root = yaml.compose(text, yaml.SafeLoader)
    members = _members(root)
    for name in ("sqlFile", "sql_file"):
        if name in members:
            return [SqlPlace(str(path.parent / str(members[name].value)))]
    if "sql" in members:
        return [_place(text, path, members["sql"], "sql")]
    listed = members.get("segments")
    nodes = [_members(item).get("data") for item in listed.value] if isinstance(listed, yaml.SequenceNode) else []
    if len(nodes) != len(spec.segments) or not nodes:
        # A merge key (<<) has brought the text.
        return [SqlPlace(str(path), member="sql")] * max(1, len(spec.segments))
    return [_place(text, path, node, f"segments.{number}.data") for number, node in enumerate(nodes)]


def _members(node: Any) -> dict[str, Any]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _place(text: str, path: Path, node: Any, member: str) -> SqlPlace:
    lines = text.splitlines()
    start, end = getattr(node, "start_mark", None), getattr(node, "end_mark", None)
    if start is None or end is None:
        return SqlPlace(str(path), member=member)
    if node.style == "|":
        content = next((line for line in lines[start.line + 1 : end.line + 1] if line.strip()), "")
        return SqlPlace(str(path), start.line + 1, len(content) - len(content.lstrip(" ")))
    inner = text[start.index + 1 : end.index - 1] if node.style else text[start.index : end.index]
    if inner == node.value:
        return SqlPlace(str(path), start.line, start.column + bool(node.style), inline=True)
    return SqlPlace(str(path), member=member)
