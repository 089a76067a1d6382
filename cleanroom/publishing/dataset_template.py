"""Writes the YAML file of a dataset from what was inferred of its rows, with suggested rules and the reason of each one as a comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import yaml

from cleanroom.datasets.inferred import InferredColumn, InferredFile
from cleanroom.identifiers import MAX_NAME
from cleanroom.joining import slug

StoreKind = Literal["azure-blob", "aws-s3"]
_PERSON: Final = re.compile(
    r"(^|_)(user|person|customer|client|patient|member|passenger|subscriber|account|household|employee|student|card|loyalty|shopper|device|tail)"
    r"s?_?(id|key|no|num|number|hash|token|ref|code)?$"
)
_IDENTIFIER: Final = re.compile(r"(^|_)(id|key|hash|uuid|guid|email_?hash|hashed_email)$")
_DIRECT: Final = re.compile(
    r"(^|_)((first|last|full|sur|middle)_?name|name|e_?mail|phone|mobile|address|street|birth_?(day|date)?|dob|ssn|passport|iban|ip)(_?address)?$"
)
_MAX_DIMENSION: Final = 50
"""A column with more different values is suggested as a dimension only if each value has enough persons on average."""
_FLOOR: Final = 20
_SMALL_FLOOR: Final = 10
_FEW_PERSONS: Final = 400


@dataclass(frozen=True)
class Suggestion:
    """Suggested rules for the columns of a dataset.

    Attributes:
        identity: The column that identifies a person, or None.
        why: The reason for the choice.
        floor: The minimum group size; 0 without an identity.
        dimensions: Columns by which queries may group and filter.
        measures: Columns that queries may sum.
        hidden: Columns that queries may not read, with the reason.
        unique: Whether each person has one row, in the whole file.
    """

    identity: str | None
    why: str
    floor: int
    dimensions: tuple[str, ...]
    measures: tuple[str, ...]
    hidden: dict[str, str]
    unique: bool


def suggest(found: InferredFile) -> Suggestion:
    """Suggest the rules of a dataset from names, types and numbers of different values."""
    identity, why = _identity(found)
    persons = identity.distinct if identity is not None else 0
    floor = 0 if identity is None else _FLOOR if persons >= _FEW_PERSONS else _SMALL_FLOOR
    most = max(_MAX_DIMENSION, persons // _FLOOR)
    dimensions, measures, hidden = [], [], {}
    for column in found.columns:
        if identity is not None and column.name == identity.name:
            continue
        if _DIRECT.search(_snake(column.name)):
            hidden[column.name] = "its name suggests that it identifies a person directly"
        elif column.type == "number" or (column.type in ("integer", "long") and column.distinct > _MAX_DIMENSION):
            measures.append(column.name)
        elif column.distinct <= most or column.type in ("date", "boolean"):
            dimensions.append(column.name)
        else:
            hidden[column.name] = f"it has {column.distinct} different values, so that a value may stand for one person"
    unique = identity is not None and found.whole and persons == found.rows
    return Suggestion(identity.name if identity else None, why, floor, tuple(dimensions), tuple(measures), hidden, unique)


def _identity(found: InferredFile) -> tuple[InferredColumn | None, str]:
    """Return the column that most likely identifies a person, and the reason."""

    def score(column: InferredColumn) -> tuple[int, int]:
        name = _snake(column.name)
        return (2 if _PERSON.search(name) else 1 if _IDENTIFIER.search(name) else 0), column.distinct

    usable = [column for column in found.columns if column.type in ("string", "integer", "long") and column.distinct > 1]
    named = [column for column in usable if score(column)[0]]
    if named:
        best = max(named, key=score)
        return best, f"its name suggests an identifier, and {best.distinct} different values are in {found.rows} sampled rows"
    return None, "no column has the name of an identifier"


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def dataset_name(stem: str) -> str:
    """Return the name of a dataset from the name of a file."""
    return slug(stem, MAX_NAME) or "dataset"


def render_template(found: InferredFile, name: str, store: StoreKind, source: str) -> str:
    """Return the text of the YAML file.

    Args:
        found: What was inferred.
        name: Name of the dataset.
        store: The kind of the owner's store.
        source: Name of the file, for the first comment.
    """
    rules = suggest(found)
    return "\n".join(
        [*_head(found, name, source), *_schema(found), *_access(found, rules), *_privacy(found, rules), *_store(name, store), ""]
    )


def _head(found: InferredFile, name: str, source: str) -> Iterator[str]:
    sample = f"all {found.rows} rows" if found.whole else f"the first {found.rows} rows only"
    yield f"# Dataset {name}, inferred from {sample} of {_comment(source)}. Read every rule before you publish:"
    yield "# a published dataset never changes. `cleanroom dataset check` checks this file."
    yield f"name: {_scalar(name)}"
    yield f"format: {found.format}"
    if found.format == "csv":
        yield f"csvHeader: {'true' if found.header else 'false'}"
        if found.dialect is not None:
            yield "csvDialect:"
            yield f"  delimiter: {_scalar(found.dialect.delimiter)}"
    if found.day:
        yield "# The file is in a folder yyyy-MM-dd, so a run can select days."
        yield "partitionedBy: day"


def _schema(found: InferredFile) -> Iterator[str]:
    yield "# Types: string, integer (32 bits), long (64 bits), number (double), boolean, date, timestamp. Every column may be empty."
    yield "schema:"
    for column in found.columns:
        notes = [f"{column.nulls} of {found.rows} sampled rows are empty"] if column.nulls else []
        notes += [column.note] if column.note else []
        yield f"  {_scalar(column.name)}: {column.type}" + (f"  # {'; '.join(notes)}" if notes else "")


def _access(found: InferredFile, rules: Suggestion) -> Iterator[str]:
    yield "# Columns that queries may read. Left out:" if rules.hidden else "# Columns that queries may read."
    for column, why in rules.hidden.items():
        yield f"#   {_comment(column)}: {why}"
    allowed = [column.name for column in found.columns if column.name not in rules.hidden]
    yield f"allowedColumns: {_flow(allowed or [column.name for column in found.columns])}"
    if rules.unique:
        yield f"# Each {_comment(rules.identity or '')} has one row in the file. The pods verify it before a query relies on it."
        yield f"uniqueColumns: {_flow([rules.identity or ''])}"


def _privacy(found: InferredFile, rules: Suggestion) -> Iterator[str]:
    if rules.identity is None:
        yield f"# No privacy floor: {rules.why}. Without one, a query may return single rows. To set one, name the column that"
        yield "# identifies a person and remove the comment signs:"
        yield "# privacy:"
        yield f"#   minGroupSize: {_FLOOR}"
        yield "#   identity: COLUMN"
        return
    yield "privacy:"
    yield "  # Every row of a result is computed from at least so many persons. A common size is 20; larger groups protect better."
    if rules.floor == _SMALL_FLOOR:
        yield "  # The sample has few persons, so the suggestion is smaller."
    yield f"  minGroupSize: {rules.floor}"
    yield f"  # The column that identifies a person: {rules.why}."
    yield f"  identity: {_scalar(rules.identity)}"
    yield "  # Queries may group and filter by these: columns with few different values for the number of persons, dates, truth values."
    yield f"  dimensions: {_flow(rules.dimensions)}"
    yield "  # Queries may sum and average these: other numbers. Every column may be counted."
    yield f"  measures: {_flow(rules.measures)}"


def _store(name: str, store: StoreKind) -> Iterator[str]:
    place = name if len(name) >= 3 else f"dataset-{name}"
    yield "# Where the encrypted rows are stored. The account or endpoint is in the profile."
    yield "store:"
    yield f"  kind: {store}"
    if store == "azure-blob":
        yield f"  container: {_scalar(place)}"
        return
    yield "  # The bucket must exist, or be one that your key may create: usually `s3.bucket` of your profile."
    yield f"  bucket: {_scalar(place)}"
    yield f"  subdirectory: {_scalar(name)}"
    yield "  # Store it with `cleanroom secret set s3 --secret-stdin`."
    yield "  connectionSecret: secret:s3"


def _scalar(text: str) -> str:
    """Return a text as YAML, in quotes if YAML would read it as something else."""
    return _flow([text])[1:-1]


def _flow(texts: Sequence[str]) -> str:
    return yaml.safe_dump(list(texts), default_flow_style=True, width=10**9, allow_unicode=False).strip()


def _comment(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text)[:200]
