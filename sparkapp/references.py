"""What the SQL of a job refers to: which columns of a dataset, and how often its rows are read."""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from cleanroom.spark.job import JobConfig, JobDataset


def needed_columns(job: JobConfig, dataset: JobDataset) -> list[str]:
    """Return the columns that the SQL may and can refer to, in file order, and at least one.

    The SQL may refer to the allowed columns and, in the gate's counts, to the identity column of the owner's
    privacy floor. A superset of the columns is sufficient. Therefore every identifier in the SQL counts as a column
    name, and a star (other than in ``count(*)``) or SQL that cannot be parsed counts as all columns.
    """
    visible = {name.lower() for name in (*dataset.allowed_fields, dataset.floors.identity_column) if name}
    allowed = [name for name in dataset.schema_fields if name.lower() in visible]
    trees = _statements(job)
    if trees is None:
        return allowed
    named: set[str] = set()
    for tree in trees:
        if any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star)):
            return allowed
        named |= {identifier.name.lower() for identifier in tree.find_all(exp.Identifier)}
    return [name for name in allowed if name.lower() in named] or allowed[:1]


def is_read_once(job: JobConfig, dataset: JobDataset) -> bool:
    """Return whether the job reads the rows of a dataset at most once.

    It does if the SQL names the dataset's view once, not inside something that other parts of the SQL may name
    several times (a common table expression, a view), and if no precondition counts a view of a segment.
    """
    trees, view = _statements(job), dataset.view_name.lower()
    inputs = {item.view_name.lower() for item in job.datasets}
    conditions = [condition.view_name.lower() for segment in job.segments for condition in segment.pre_conditions]
    if trees is None or not set(conditions) <= inputs:
        return False
    places = [(table, tree) for tree in trees for table in tree.find_all(exp.Table) if table.name.lower() == view]
    return len(places) <= 1 and all(_is_unnamed(table, tree) for table, tree in places)


def _is_unnamed(table: exp.Table, tree: exp.Expr) -> bool:
    return table.find_ancestor(exp.CTE) is None and not isinstance(tree, exp.Create)


def _statements(job: JobConfig) -> list[exp.Expr] | None:
    """Return the statements of all segments, or None if one of them cannot be parsed."""
    try:
        return [tree for segment in job.segments for tree in sqlglot.parse(segment.sql, dialect="spark") if tree is not None]
    except sqlglot.errors.SqlglotError:
        return None
