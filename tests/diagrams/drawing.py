"""Reads the mermaid sequence diagrams in ``docs/diagrams.md``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagrams.md"

_DIAGRAM = re.compile(r"^## (?P<title>[^\n]+)\n\n```mermaid\nsequenceDiagram\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_ARROW = re.compile(r"(?P<source>\w+)\s*(?P<arrow>--?>>|--\))\s*[+-]?\s*(?P<target>\w+)\s*:(?P<text>.*)")
_NOTE = re.compile(r"note over (?P<over>[\w, ]+?)\s*:(?P<text>.*)", re.IGNORECASE)
_BLOCK = re.compile(r"(?P<kind>loop|alt|else|box|end)\b(?P<text>.*)")
_IGNORED = re.compile(r"(title|participant|actor)\b")


@dataclass(frozen=True)
class Drawn:
    """A line of a drawing. Replies (``--)``) are left out: they are the results of the activities."""

    kind: str
    """``arrow``, ``note``, ``loop``, ``alt``, ``else`` or ``end``."""
    text: str
    source: str = ""
    """The caller of an arrow; the participants under a note."""
    target: str = ""


def drawings() -> dict[str, list[Drawn]]:
    """Return the lines of each diagram, by its heading."""
    return {match["title"]: list(_lines(match["body"])) for match in _DIAGRAM.finditer(PAGE.read_text("utf-8"))}


def _lines(body: str) -> list[Drawn]:
    found: list[Drawn] = []
    blocks: list[str] = []
    for line in filter(None, map(str.strip, body.splitlines())):
        if arrow := _ARROW.fullmatch(line):
            if arrow["arrow"] != "--)":
                found.append(Drawn("arrow", _plain(arrow["text"]), arrow["source"], arrow["target"]))
        elif note := _NOTE.fullmatch(line):
            found.append(Drawn("note", _plain(note["text"]), note["over"]))
        elif block := _BLOCK.fullmatch(line):
            kind = blocks.pop() if block["kind"] == "end" else block["kind"]
            if block["kind"] not in ("end", "else"):
                blocks.append(kind)
            if kind != "box":
                found.append(Drawn(block["kind"], _plain(block["text"])))
        else:
            assert _IGNORED.match(line), f"docs/diagrams.md: cannot read the line {line!r}"
    assert not blocks, f"docs/diagrams.md: {blocks} without end"
    return found


def _plain(text: str) -> str:
    """The text on one line."""
    return " ".join(text.replace("<br>", " ").split())
