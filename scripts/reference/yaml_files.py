"""The reference of the YAML files that owners and analysts write: every member of a dataset and of a query."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from pydantic import AliasChoices, BaseModel

from cleanroom.documents import dataset, query, specs
from cleanroom.documents.dataset import CsvDialect, PrivacyFloors
from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment, RunParameters
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, QuerySpec, S3StoreSpec
from scripts.reference.fields import default_value
from scripts.reference.markdown import attribute_docs, code, header, page, parsed, prose, table

_CLASSES = {node.name: node for module in (dataset, query, specs) for node in parsed(module).body if isinstance(node, ast.ClassDef)}
PARTS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("A dataset", DatasetSpec, ""),
    ("`privacy`", PrivacyFloors, "What the rules mean: [Privacy floors](../privacy.md)."),
    ("`csvDialect`", CsvDialect, ""),
    ("`store` with `kind: azure-blob`", BlobStoreSpec, ""),
    ("`store` with `kind: aws-s3`", S3StoreSpec, ""),
    ("A query", QuerySpec, "The SQL that is allowed: [Analyst](../guides/analyst.md)."),
    ("`segments`", QuerySegment, ""),
    ("`preConditions`", PreCondition, ""),
    ("`postFilters`", PostFilter, ""),
    ("`parameters`", RunParameters, ""),
)
DATASET_EXAMPLE = """\
name: contosso-visits
format: csv
csvHeader: true
csvDialect: {delimiter: ";", nullText: "NULL"}
schema:
  customer_id: string
  day: date
  city: string
  visits: integer
  spent: number
partitionedBy: day
allowedColumns: [customer_id, city, visits, spent]
uniqueColumns: [customer_id, day]
privacy:
  minGroupSize: 20
  identity: customer_id
  dimensions: [city]
  measures: [visits, spent]
  maxSharePercent: 60
encryption: CSE
manifest: required
store:
  kind: aws-s3
  bucket: contosso
  subdirectory: visits
  connectionSecret: secret:s3
"""
QUERY_EXAMPLE = """\
name: spending-by-city
inputs:
  visits: contosso-visits
output: litware-spending
segments:
  - executionSequence: 1
    data: |
      CREATE OR REPLACE TEMP VIEW large AS
      SELECT customer_id, city, spent FROM visits WHERE city <> 'unknown'
    preConditions:
      - {viewName: visits, minRowCount: 1000}
  - executionSequence: 2
    data: |
      SELECT city AS city, COUNT(DISTINCT customer_id) AS customers, SUM(spent) AS spent FROM large GROUP BY city
    postFilters:
      - {columnName: customers, value: 50}
parameters:
  dateRange: true
  earliest: 2024-01-01
  latest: 2024-12-31
"""


def render() -> str:
    """The page ``docs/reference/yaml.md``."""
    lines = header(
        "YAML files",
        "the models of cleanroom/documents",
        "Every member of the files that owners and analysts write. Unknown and duplicate members are errors. "
        "`cleanroom dataset check` and `cleanroom query check` name all problems of a file. The [schemas](schemas.md) describe the same "
        "files for editors.",
    )
    for title, model, more in PARTS:
        lines += [f"## {title}", "", *([more, ""] if more else [])]
        lines += table(("Member", "Value", "Default", "Meaning"), _rows(model))
        if model in (DatasetSpec, QuerySpec):
            lines += ["```yaml", (DATASET_EXAMPLE if model is DatasetSpec else QUERY_EXAMPLE).rstrip(), "```", ""]
    return page(lines)


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    docs, schema = attribute_docs(_CLASSES[model.__name__]), model.model_json_schema()
    for name, field in model.model_fields.items():
        meaning = docs.get(name)
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no docstring")
        names = field.validation_alias
        member = str(names.choices[0] if isinstance(names, AliasChoices) else field.alias or name)
        default = "required" if field.is_required() else default_value(field)
        yield code(member), _value(schema["properties"][member], schema), default, _sentence(meaning)


def _sentence(meaning: str) -> str:
    text = prose(meaning)
    return text if text.endswith((".", "`")) else f"{text}."


def _value(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Describe the values that a member accepts."""
    if "$ref" in part:
        return _value(schema["$defs"][part["$ref"].rsplit("/", 1)[-1]], schema)
    for several in ("anyOf", "oneOf"):
        if several in part:
            kinds = [_value(item, schema) for item in part[several] if item.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in part or "const" in part:
        return ", ".join(code(value) for value in part.get("enum", [part.get("const")]))
    match part.get("type"):
        case "object":
            return (
                f"mapping of texts to {_value(part['additionalProperties'], schema)}"
                if "additionalProperties" in part and isinstance(part["additionalProperties"], dict)
                else "mapping, see below"
            )
        case "array":
            item = _value(part["items"], schema)
            return "list of mappings, see below" if item.startswith("mapping") else f"list of {item}s"
        case "integer":
            low, high = part.get("minimum"), part.get("maximum")
            limits = f" from {low}" if low is not None else ""
            return f"whole number{limits}" + (f" to {high}" if high is not None and high < 1000 else "")
        case "boolean":
            return "`true`, `false`"
        case _:
            return "name" if part.get("maxLength") == 40 else "text"
