"""Text of strangers made safe to show (threat T20): in the Web UI's Markdown, in summaries, in terminals.

A query's name or an upstream error may hold control characters (terminal escapes), bidirectional overrides (text that reads otherwise
than it is) and Markdown (links, images that fetch, headings). :func:`plain` makes one safe line, :func:`escape` makes it literal in
Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

SUMMARY_LIMIT = 200
"""Temporal cuts a summary at 400 bytes, and a list shows less."""
DETAILS_LIMIT = 16_000
"""Temporal refuses current details above 20 kB."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")
# Not quotes: they mean something inside of links and tags alone, which cannot be formed, and the Web UI shows their backslashes.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&:@$=])")
_SPACE = re.compile(r"\s+")


def plain(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """One line without control, format and bidirectional characters, ANSI sequences, private-use characters or stacked marks, at most
    ``limit`` characters."""
    text = _ANSI.sub("", text[: limit * 8])
    kept: list[str] = []
    marks = 0
    for character in _SPACE.sub(" ", text):
        category = unicodedata.category(character)
        # Cc control, Cf format (bidi, zero width, tags), Co private, Cs surrogate, Cn unassigned, Zl/Zp separators
        if category in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"):
            continue
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks <= 2:
            kept.append(character)
    # Again: what was taken out may have stood between two spaces.
    line = _SPACE.sub(" ", "".join(kept)).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def escape(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """:func:`plain`, with every character that Markdown or HTML gives a meaning escaped."""
    return _literal(plain(text, limit))


def _literal(line: str) -> str:
    return _MARKDOWN.sub(r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def code(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """:func:`plain` as inline code: nothing in it is interpreted."""
    return "`" + (plain(text, limit).replace("`", "'") or " ") + "`"


def prose(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """:func:`escape`, with what stands between backticks (`` `cleanroom ps` `` in a hint of ours) as :func:`code`."""
    parts = plain(text, limit).split("`")
    if len(parts) % 2 == 0:
        # One without its other half is a backtick.
        parts[-2:] = ["`".join(parts[-2:])]
    return "".join(code(part, limit) if index % 2 else _literal(part) for index, part in enumerate(parts))


def code_block(text: str, language: str = "", limit: int = 4000) -> str:
    """Several lines as a fenced block that they cannot end; ``language`` is ours, never a stranger's."""
    lines = [plain(line, 400) if line.strip() else "" for line in text[:limit].expandtabs(4).split("\n")]
    indents = [line[: len(line) - len(line.lstrip(" "))] for line in text[:limit].expandtabs(4).split("\n")]
    body = "\n".join(indent[:40] + line for indent, line in zip(indents, lines, strict=True)).replace("```", "'''")
    return f"```{language}\n{body}\n```"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, limit: int = 50) -> str:
    """A Markdown table; cells are escaped here, at most ``limit`` rows are shown and the rest is counted."""
    lines = ["| " + " | ".join(escape(cell) for cell in header) + " |", "|" + " --- |" * len(header)]
    rest = 0
    for index, row in enumerate(rows):
        if index < limit:
            lines.append("| " + " | ".join(escape(cell) for cell in row) + " |")
        else:
            rest += 1
    if rest:
        lines.append(f"\n… and {rest} more")
    return "\n".join(lines)


def details(*blocks: str) -> str:
    """Blocks joined for ``workflow.set_current_details``, cut at :data:`DETAILS_LIMIT` bytes of UTF-8."""
    text = "\n\n".join(block for block in blocks if block)
    encoded = text.encode()
    return text if len(encoded) <= DETAILS_LIMIT else encoded[:DETAILS_LIMIT].decode(errors="ignore") + "\n\n… truncated"
