"""JSON Schemas of the files and documents that people and other tools read and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from pydantic import BaseModel

from cleanroom.documents.dataset import DatasetDocument
from cleanroom.documents.query import QueryDocument
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.sql import Catalog
from cleanroom.trust import Bootstrap, TrustDocument
from scripts.reference.markdown import header, page, prose, table

MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "dataset-spec": (DatasetSpec, "the YAML file of `cleanroom dataset publish`"),
    "query-spec": (QuerySpec, "the YAML file of `cleanroom query create`"),
    "dataset-document": (DatasetDocument, "a dataset document in governance"),
    "query-document": (QueryDocument, "a query document in governance"),
    "trust-document": (TrustDocument, "a trust document in governance, and the file of `cleanroom collaboration create --trust`"),
    "bootstrap": (Bootstrap, "the file of `cleanroom worker --bootstrap`"),
    "catalog": (Catalog, "the catalogue of `cleanroom query lint`"),
}


def files() -> dict[str, Callable[[], str]]:
    """The schema files by path, each with the function that renders it."""
    return {f"docs/schemas/{name}.schema.json": partial(_schema, model) for name, (model, _) in MODELS.items()}


def render() -> str:
    """The page ``docs/reference/schemas.md``."""
    lines = header(
        "JSON Schemas",
        "the models of cleanroom/documents, trust and sql",
        "JSON Schema 2020-12. Editors that support schemas check and complete the YAML files with them. "
        "Some rules, such as digests that must match, are checked by the commands only.",
    )
    rows = ((f"[{name}](../schemas/{name}.schema.json)", use, prose(model.__doc__)) for name, (model, use) in MODELS.items())
    return page([*lines, *table(("Schema", "Describes", "Content"), rows)])


def _schema(model: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
