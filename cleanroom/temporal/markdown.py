"""Makes untrusted text safe to show in the Web UI's Markdown, in summaries and in terminals.

A query's name or an upstream error may contain control characters (terminal escapes), bidirectional overrides (text that displays
differently from its content) and Markdown (links, images, headings). :func:`plain` returns one safe line, and :func:`escape` also makes
it literal in Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

SUMMARY_LIMIT = 200
"""Longest summary. Temporal cuts at 400 bytes, and lists show less."""
DETAILS_LIMIT = 16_000
"""Largest current details in bytes. Temporal rejects more than 20 kB."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")
# Without quotes: they have a meaning only inside links and tags, which cannot occur, and the Web UI would show their backslashes.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&:@$=])")
_SPACE = re.compile(r"\s+")


def plain(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Return one line of at most ``limit`` characters.

    Control, format, bidirectional and private-use characters, ANSI sequences and stacked combining marks are removed.
    """
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
    # Once more, because a removed character may have separated two spaces.
    line = _SPACE.sub(" ", "".join(kept)).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def escape(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Return :func:`plain` text with all characters escaped that have a meaning in Markdown or HTML."""
    return _literal(plain(text, limit))


def _literal(line: str) -> str:
    return _MARKDOWN.sub(r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def code(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Return :func:`plain` text as inline code."""
    return "`" + (plain(text, limit).replace("`", "'") or " ") + "`"


def prose(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Return :func:`escape` text in which parts between backticks, such as commands in hints, are :func:`code`."""
    parts = plain(text, limit).split("`")
    if len(parts) % 2 == 0:
        # An unpaired backtick is literal.
        parts[-2:] = ["`".join(parts[-2:])]
    return "".join(code(part, limit) if index % 2 else _literal(part) for index, part in enumerate(parts))


def code_block(text: str, language: str = "", limit: int = 4000) -> str:
    """Return several lines as a fenced block that the text cannot close. ``language`` must be trusted."""
    lines = [plain(line, 400) if line.strip() else "" for line in text[:limit].expandtabs(4).split("\n")]
    indents = [line[: len(line) - len(line.lstrip(" "))] for line in text[:limit].expandtabs(4).split("\n")]
    body = "\n".join(indent[:40] + line for indent, line in zip(indents, lines, strict=True)).replace("```", "'''")
    return f"```{language}\n{body}\n```"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, limit: int = 50) -> str:
    """Return a Markdown table with escaped cells. At most ``limit`` rows are shown, and the rest is counted."""
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
    """Join blocks for ``workflow.set_current_details``, and cut them at :data:`DETAILS_LIMIT` bytes of UTF-8."""
    text = "\n\n".join(block for block in blocks if block)
    encoded = text.encode()
    return text if len(encoded) <= DETAILS_LIMIT else encoded[:DETAILS_LIMIT].decode(errors="ignore") + "\n\n… truncated"
