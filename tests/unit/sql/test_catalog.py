"""The catalogue: its schema, the accepted shapes, and the mistakes that are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cleanroom.documents.dataset import PrivacyFloors
from cleanroom.errors import InvalidInput
from cleanroom.sql import Catalog, check_sql, view_of

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "catalog.schema.json"
CANONICAL = {
    "views": [
        {
            "name": "v",
            "owner": "contosso",
            "columns": [{"name": "person", "type": "string"}, {"name": "x", "type": "number"}],
            "allowedColumns": ["person", "x"],
            "floors": [{"minGroupSize": 7, "identityColumn": "person", "allowedOutputColumns": ["x"]}],
        }
    ]
}


def test_schema_in_docs_equals_the_schema_of_the_model() -> None:
    stored = json.loads(SCHEMA.read_text())
    stored.pop("$schema")
    assert stored == Catalog.model_json_schema()


@pytest.mark.parametrize(
    "shape",
    [
        {"views": {"v": {"columns": {"person": "string", "x": "number"}, "floors": [{"minGroupSize": 7, "identityColumn": "person"}]}}},
        {"views": {"v": {"columns": {"person": "string", "x": "number"}, "floors": {"minGroupSize": 7, "identityColumn": "person"}}}},
        {"views": {"v": {"columns": {"person": "string", "x": "number"}, "floor": {"min_group_size": 7, "identity_column": "person"}}}},
        {"views": {"v": {"columns": {"person": "string", "x": "number"}, "minGroupSize": 7, "identityColumn": "person"}}},
        {"views": {"v": {"person": "string", "x": "number"}}, "floors": {"v": {"minGroupSize": 7, "identityColumn": "person"}}},
        {
            "views": [
                {
                    "name": "v",
                    "fields": [{"fieldName": "person", "fieldType": "string"}, {"fieldName": "x", "fieldType": "number"}],
                    "allowedFields": ["person", "x"],
                    "privacyFloors": {"minGroupSize": 7, "identityColumn": "person"},
                }
            ]
        },
        CANONICAL,
    ],
)
def test_floor_is_read_from_every_accepted_shape(shape: dict[str, Any]) -> None:
    catalog = Catalog.parse(json.dumps(shape))
    verdict = check_sql("SELECT SUM(x) AS s FROM v", catalog)
    assert "`v`.`person` AS `__cr_p`" in verdict.sql
    assert "HAVING COUNT(`__cr_r`.`__cr_p`) >= 7" in verdict.sql
    assert Catalog.parse(catalog.model_dump_json(by_alias=True)) == catalog


@pytest.mark.parametrize("member", ["flors", "FLOOR", "mesures", "dimension", "dimensoins", "scema"])
def test_a_misspelt_rule_of_a_view_is_not_ignored(member: str) -> None:
    shape = {"views": {"v": {"columns": {"x": "number"}, member: ["x"]}}}
    with pytest.raises(InvalidInput, match=f"view v: unknown member '{member}'; did you mean"):
        Catalog.parse(json.dumps(shape))


def test_a_remark_about_a_view_is_ignored() -> None:
    shape = {"views": {"v": {"columns": {"x": "number"}, "source": "s3", "remark": "x", "rows": 3}}}
    assert Catalog.parse(json.dumps(shape)).views[0].name == "v"


@pytest.mark.parametrize("member", ["identity", "identityColumn"])
def test_an_unknown_identity_is_named_as_the_catalogue_does(member: str) -> None:
    shape = {"views": {"v": {"columns": {"x": "number"}, "floors": {"minGroupSize": 7, member: "who"}}}}
    with pytest.raises(InvalidInput, match=f"view v: {member} 'who' is not among its columns"):
        Catalog.parse(json.dumps(shape))


@pytest.mark.parametrize(
    "floor",
    [
        {"minGroupsize": 7, "identityColumn": "person"},
        {"minGroupSize": 7},
        {"minGroupSize": 7, "identityColumn": "unknown"},
        {"minGroupSize": -1, "identityColumn": "person"},
        {"minGroupSize": "many", "identityColumn": "person"},
        {"minGroupSize": True, "identityColumn": "person"},
        {"minGroupSize": 7, "identityColumn": "person", "allowedOutputColums": ["x"]},
    ],
)
def test_misspelt_or_invalid_floor_is_an_error(floor: dict[str, Any]) -> None:
    shape = {"views": {"v": {"columns": {"person": "string", "x": "number"}, "floors": floor}}}
    with pytest.raises(InvalidInput) as caught:
        Catalog.parse(json.dumps(shape))
    assert caught.value.code == "InvalidCatalog"


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"views": []},
        {"views": {"v": {"columns": {}}}},
        {"views": {"v": {"columns": {"x": "blob"}}}},
        {"views": {"v": {"columns": {"x": "string", "X": "string"}}}},
        {"views": {"v": {"columns": {"a`b": "string"}}}},
        {"views": {"v": {"columns": {"__cr_id_0": "string"}}}},
        {"views": {"v": {"columns": {"x": "string"}, "allowedColumns": ["y"]}}},
        {"views": {"v.w": {"columns": {"x": "string"}}}},
        {"views": {"v": {"columns": {"x": "string"}}, "V": {"columns": {"x": "string"}}}},
        {"views": [{"name": "v", "columns": [{"name": "x", "type": "string"}], "allowedColums": ["x"]}]},
        {"views": [{"name": "v", "columns": [{"name": "x", "type": "string"}], "allowedcolumns": []}]},
        {"views": [{"name": "v", "columns": [{"name": "x", "type": "string"}], "allowedFields": ["x"], "allowedColumns": []}]},
        {"views": [{"name": "v", "columns": [{"name": "x", "type": "string", "hidden": True}]}]},
        {"views": [{"name": "v", "columns": [{"name": "x", "type": "string"}]}], "minGroupSize": 7},
        {"views": {"v": {"columns": {"x": "string"}}}, "floors": {"w": {"minGroupSize": 7, "identityColumn": "x"}}},
        {"views": {"v": {"columns": {"x": "string"}}}, "floors": [{"minGroupSize": 7, "identityColumn": "x"}]},
    ],
)
def test_invalid_catalogue_is_an_error(shape: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Catalog.parse(json.dumps(shape))


def test_duplicate_rule_is_an_error() -> None:
    text = '{"views": [{"name": "v", "columns": [{"name": "x", "type": "string"}], "allowedColumns": [], "allowedColumns": ["x"]}]}'
    with pytest.raises(InvalidInput, match="allowedColumns") as caught:
        Catalog.parse(text)
    assert (caught.value.code, bool(caught.value.hint)) == ("InvalidCatalog", True)


def test_unknown_member_that_does_not_look_like_a_rule_is_ignored() -> None:
    text = '{"$schema": "s", "views": [{"title": "t", "name": "v", "columns": [{"type": "string", "description": "d", "name": "x"}]}]}'
    assert [view.name for view in Catalog.parse(text).views] == ["v"]


def test_view_is_created_from_parts_of_a_dataset_document() -> None:
    view = view_of("v", {"person": "string", "x": "number"}, ["x"], PrivacyFloors(min_group_size=4, identity_column="person"), "contosso")
    assert [column.name for column in view.visible()] == ["x"]
    assert (view.min_group_size, view.identity_columns) == (4, ("person",))
    assert view_of("v", {"x": "number"}).floors == ()


def test_unique_columns_are_columns_of_the_view() -> None:
    view = {"name": "v", "columns": {"A": "string", "b": "string"}, "uniqueColumns": ["A"]}
    assert Catalog.model_validate({"views": [view]}).views[0].unique_on == frozenset({"a"})
    with pytest.raises(ValidationError, match="unique column 'c'"):
        Catalog.model_validate({"views": [{**view, "uniqueColumns": ["c"]}]})
