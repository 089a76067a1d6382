"""What the SQL of a job refers to: which columns of a dataset, how often its rows are read, and the view that it creates.

The SQL is the query gate's rendering. It is read as tokens: every name counts, wherever it stands.
"""

from __future__ import annotations

from cleanroom.spark.job import JobConfig, JobDataset
from cleanroom.sql import Refusal, Tokens


def created_view(sql: str) -> str | None:
    """Return the name of the temporary view that a segment creates, or None."""
    text = Tokens(sql, rewritten=True)
    if not text.accept("CREATE"):
        return None
    text.accept("OR", "REPLACE")
    return text.name() if text.accept("TEMPORARY", "VIEW") else None


def needed_columns(job: JobConfig, dataset: JobDataset) -> list[str]:
    """Return the columns that the SQL may and can refer to, in file order, and at least one.

    The SQL may refer to the allowed columns and, in the gate's counts, to the identity column of the owner's
    privacy floor. A superset of the columns is sufficient. Therefore every word in the SQL counts as a column
    name, and a star (other than in ``count(*)``) or SQL that cannot be read counts as all columns.
    """
    visible = {name.lower() for name in (*dataset.allowed_fields, dataset.floors.identity_column) if name}
    allowed = [name for name in dataset.schema_fields if name.lower() in visible]
    texts = _texts(job)
    if texts is None or any(before in ("SELECT", "DISTINCT", ",", ".") for text in texts for before, star in _pairs(text) if star == "*"):
        return allowed
    named = {value.lower() for text in texts for value in text.values}
    return [name for name in allowed if name.lower() in named] or allowed[:1]


def is_read_once(job: JobConfig, dataset: JobDataset) -> bool:
    """Return whether the job reads the rows of a dataset at most once.

    It does if the SQL names the dataset's view once, not inside something that other parts of the SQL may name
    several times (a common table expression, a view), and if no precondition counts a view of a segment.
    """
    texts, view = _texts(job), dataset.view_name.lower()
    inputs = {item.view_name.lower() for item in job.datasets}
    conditions = [condition.view_name.lower() for segment in job.segments for condition in segment.pre_conditions]
    if texts is None or not set(conditions) <= inputs:
        return False
    places = [(text, at) for text in texts for at, (before, _) in enumerate(_pairs(text), 1) if before in ("FROM", "JOIN", ",")]
    reads = [(text, at) for text, at in places if text.values[at].lower() == view and text.kinds[at + 1] != "."]
    return len(reads) <= 1 and all(_is_unnamed(text, at) for text, at in reads)


def _is_unnamed(text: Tokens, at: int) -> bool:
    named = (range(opening, closing) for opening, closing in text.closing.items() if text.kinds[opening - 1] == "AS")
    return text.kinds[0] != "CREATE" and not any(at in part for part in named)


def _pairs(text: Tokens) -> list[tuple[str, str]]:
    """Return the kinds of each two tokens in a row."""
    return list(zip(text.kinds, text.kinds[1:], strict=False))


def _texts(job: JobConfig) -> list[Tokens] | None:
    """Return the tokens of all segments, or None if one of them cannot be read."""
    try:
        return [Tokens(segment.sql, rewritten=True) for segment in job.segments]
    except Refusal:
        return None
