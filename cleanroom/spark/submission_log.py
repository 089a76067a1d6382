"""Finds the cause in the message of a failed submission.

The Spark Operator passes on everything that ``spark-submit`` prints: the log of a JVM, of more than ten thousand
characters, with the API server's own message in the middle.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 600
_MAX_LINES = 4
# The Kubernetes client of Spark (fabric8) quotes the API server's message, and then the whole Status object.
_API_MESSAGE = re.compile(r"\bMessage: (?P<message>.+?)\.? Received status: Status\(", re.DOTALL)
_EXCEPTION = re.compile(r"^(?:Exception in thread \"[^\"]*\"|Caused by:) (?P<text>.+)$", re.MULTILINE)
_NOISE = re.compile(r"^\s*(?:at |\.\.\. \d+ more|\d\d/\d\d/\d\d \d\d:\d\d:\d\d (?:INFO|WARN|DEBUG) |WARNING: |Using |Picked up )")


def submission_message(text: str) -> str:
    """Return the cause that ``text`` contains, in at most four lines: the API server's message, or the last exception.

    A text that is short and has no log is returned as it is.
    """
    found = _API_MESSAGE.search(text)
    if found:
        return _shortened(f"{_prefix(text)}{found['message']}")
    if len(text) <= MAX_CHARACTERS and text.count("\n") < _MAX_LINES:
        return text.strip()
    exceptions = [match["text"].strip() for match in _EXCEPTION.finditer(text)]
    if exceptions:
        return _shortened(f"{_prefix(text)}{exceptions[-1]}")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    return _shortened("\n".join(lines[:_MAX_LINES]))


def _prefix(text: str) -> str:
    """Return what the operator itself says before it quotes the log."""
    return "spark-submit failed: " if "spark-submit" in text[:200] else ""


def _shortened(text: str) -> str:
    lines = [line.rstrip() for line in text.strip().splitlines()][:_MAX_LINES]
    text = "\n".join(lines)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
