"""The catalogue: views of a collaboration, their columns, and their owners' rules for results.

A catalogue is small JSON (``Catalog.model_json_schema()``, also in ``docs/schemas/catalog.schema.json``)::

    {"views": [{"name": "orders", "owner": "contosso",
                "columns": [{"name": "user_key", "type": "string"}, {"name": "amount", "type": "number"}],
                "allowedColumns": ["user_key", "amount"],
                "floors": [{"minGroupSize": 50, "identityColumn": "user_key", "allowedOutputColumns": []}]}]}

The reader accepts several shapes: views and columns may be objects keyed by name, ``floors`` may be one object or be called
``floor``, and ``allowedFields`` is accepted as a synonym. It is strict wherever leniency could lose a rule: a misspelt member of a
floor, or an identity column that the view does not have, is an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError, model_validator

from cleanroom.documents.base import OurModel, WireModel
from cleanroom.documents.dataset import DEFAULT_SHARE_PERCENT, FieldType, PrivacyFloors
from cleanroom.documents.dataset_rules import COLUMN_NAME, RESERVED_PREFIX
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput

RELATION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
"""Names of views, common table expressions and table aliases."""

_SPELLINGS = {
    **dict.fromkeys(("allowedFields", "allowed_fields", "allowed_columns"), "allowedColumns"),
    **dict.fromkeys(("privacyFloors", "privacyFloor", "privacy_floor"), "privacy_floors"),
}
_NOTES = ("description", "comment", "nullable")
"""Members of a column that have no effect on access."""
_RULE = re.compile("allow|floor|group|ident|column|field|polic|privacy|output|deny|denied|forbid|hid|mask|restrict|sensitiv", re.IGNORECASE)
_FLOOR_MEMBERS = (
    "minGroupSize", "min_group_size", "identityColumn", "identity_column", "identity", "allowedOutputColumns", "allowed_output_columns",
    "dimensions", "measures", "maxSharePercent", "max_share_percent",
)  # fmt: skip
_VIEW_MEMBERS = ("schema", "fields", "allowedColumns", "uniqueColumns", "floor", "privacy_floors", *_FLOOR_MEMBERS)


class Column(OurModel):
    """A column of a view. ``type`` is one of ``string integer number boolean date long timestamp`` (number is a double)."""

    name: str = Field(min_length=1, max_length=128)
    type: FieldType


class View(WireModel):
    """A dataset under the name that the query uses.

    ``columns`` are all columns of the data, in file order. ``allowed_columns`` are those that the query may read (None: all).
    ``floors`` are the owners' rules; if there are several, the strictest of each kind applies. The values of ``unique_columns`` occur
    together in one row at most; None if that is not known.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    owner: str | None = None
    columns: tuple[Column, ...] = Field(min_length=1)
    allowed_columns: tuple[str, ...] | None = None
    floors: tuple[PrivacyFloors, ...] = ()
    unique_columns: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        data: dict[str, Any] = {_SPELLINGS.get(str(member), str(member)): part for member, part in value.items()}
        if len(data) < len(value):
            raise ValueError(f"view {data.get('name')}: two spellings of the same member are given")
        _no_lost_rule(data, {*cls.model_fields, *_VIEW_MEMBERS}, f"view {data.get('name')}")
        columns = data.get("columns", data.get("schema", data.get("fields")))
        if isinstance(columns, Mapping):
            columns = [{"name": name, "type": kind} for name, kind in columns.items()]
        if isinstance(columns, list | tuple):
            data["columns"] = [_column(item) for item in columns]
        floors = [data.pop(member, None) for member in ("floors", "floor", "privacy_floors")]
        floors.append({member: data.pop(member) for member in _FLOOR_MEMBERS if member in data})
        data["floors"] = [item for floor in floors if floor for item in (floor if isinstance(floor, list | tuple) else [floor])]
        if any(isinstance(floor, Mapping) and any(isinstance(part, bool) for part in floor.values()) for floor in data["floors"]):
            raise ValueError(f"view {data.get('name')}: minGroupSize is a whole number, not true or false")
        return data

    @model_validator(mode="after")
    def _consistent(self) -> View:
        names = [column.name for column in self.columns]
        lowered = {name.lower() for name in names}
        if len(lowered) < len(names):
            raise ValueError(f"view {self.name}: two columns differ only by case; Spark does not tell them apart")
        for name in names:
            if not COLUMN_NAME.fullmatch(name) or name.startswith(RESERVED_PREFIX):
                raise ValueError(f"view {self.name}: column {name!r} is not printable ASCII without backticks, or uses a reserved prefix")
        rules = [("allowed column", self.allowed_columns), ("unique column", self.unique_columns)]
        for floor in self.floors:
            identity = (floor.identity_column,) if floor.identity_column else None
            rules += [(floor.member("identity_column"), identity), ("measure", floor.measures)]
        for what, listed in rules:
            for name in listed or ():
                if name.lower() not in lowered:
                    raise ValueError(f"view {self.name}: {what} {name!r} is not among its columns")
        return self

    def visible(self) -> tuple[Column, ...]:
        """The columns that a query may read, in file order."""
        if self.allowed_columns is None:
            return self.columns
        allowed = {name.lower() for name in self.allowed_columns}
        return tuple(column for column in self.columns if column.name.lower() in allowed)

    @cached_property
    def unique_on(self) -> frozenset[str] | None:
        """Lower-case names of the columns whose values occur together in one row at most; None if that is not known."""
        return frozenset([name.lower() for name in self.unique_columns]) if self.unique_columns else None

    @cached_property
    def min_group_size(self) -> int:
        """The largest minimum group size of the floors; 0 without floors."""
        return max((floor.min_group_size for floor in self.floors), default=0)

    @cached_property
    def identity_columns(self) -> tuple[str, ...]:
        """Lower-case names of the columns that identify a person, without duplicates, in the order of the floors."""
        return tuple(dict.fromkeys(floor.identity_column.lower() for floor in self.floors if floor.identity_column))

    def may_output(self, column: str) -> bool:
        """Whether values of ``column`` (lower case) may be part of a result.

        It must not be an identity, and every floor with a list of output columns must list it.
        """
        return column not in self.identity_columns and all(column in listed for listed in self._listed)

    @cached_property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the columns that queries may read, group by and filter by."""
        return tuple(column.name for column in self.visible() if self.may_output(column.name.lower()))

    @cached_property
    def _listed(self) -> list[frozenset[str]]:
        return [
            frozenset(map(str.lower, floor.allowed_output_columns)) for floor in self.floors if floor.allowed_output_columns is not None
        ]

    def may_aggregate(self, column: str) -> bool:
        """Whether ``column`` (lower case) may be summed or averaged: every floor with a list of measures must list it."""
        return all(column in map(str.lower, floor.measures) for floor in self.floors if floor.measures is not None)

    @cached_property
    def max_share_percent(self) -> int:
        """Largest part of a sum, in percent, that may come from one person: the smallest of the floors."""
        return min((floor.max_share_percent or DEFAULT_SHARE_PERCENT for floor in self.floors if floor.min_group_size), default=100)

    def lists_output(self, column: str) -> bool:
        """Whether ``column`` (lower case) is listed as publishable. A floor without a list publishes nothing."""
        return self.may_output(column) and bool(self._listed)


class Catalog(WireModel):
    """All views that a query of one collaboration may name."""

    views: tuple[View, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"views": value}
        if not isinstance(value, Mapping):
            return value
        data = dict(value)
        _no_lost_rule(data, {"views", "floors"}, "the catalogue")
        views = data.get("views")
        if isinstance(views, Mapping):
            whole = {name: isinstance(body, Mapping) and body.keys() & {"columns", "fields", "schema"} for name, body in views.items()}
            views = [{"name": name, **(body if whole[name] else {"columns": body})} for name, body in views.items()]
        floors = data.get("floors")
        if floors is not None and isinstance(views, list | tuple):
            if not isinstance(floors, Mapping):
                raise ValueError("floors at the top of a catalogue must be an object keyed by view name")
            unknown = set(floors) - {view.get("name") for view in views if isinstance(view, Mapping)}
            if unknown:
                raise ValueError(f"floors name views that the catalogue does not have: {', '.join(sorted(unknown))}")
            views = [{**view, "floor": floors[view["name"]]} if view.get("name") in floors else view for view in views]
        data["views"] = views
        return data

    @model_validator(mode="after")
    def _unique(self) -> Catalog:
        lowered = [view.name.lower() for view in self.views]
        if len(set(lowered)) != len(lowered):
            raise ValueError("two views have the same name (Spark ignores case)")
        return self

    def view(self, name: str) -> View | None:
        """The view called ``name``, ignoring case."""
        return self._by_name.get(name.lower())

    def has_floor(self, name: str) -> bool:
        """Whether ``name`` is a view with a floor."""
        view = self.view(name)
        return view is not None and view.min_group_size > 0

    @cached_property
    def _by_name(self) -> dict[str, View]:
        return {view.name.lower(): view for view in self.views}

    @staticmethod
    def parse(text: str | bytes) -> Catalog:
        """Read a catalogue from JSON.

        Raises:
            InvalidInput: ``InvalidCatalog``, with the path of each invalid member.
        """
        hint = "its schema is docs/schemas/catalog.schema.json"
        try:
            json.loads(text, object_pairs_hook=unique_members)
            return Catalog.model_validate_json(text)
        except ValidationError as error:
            raise InvalidInput("InvalidCatalog", f"the catalogue is not valid: {describe_validation(error)}", hint=hint) from error
        except (ValueError, RecursionError) as error:
            raise InvalidInput("InvalidCatalog", f"the catalogue is not valid JSON: {error}", hint=hint) from error


def view_of(
    name: str,
    fields: Mapping[str, FieldType],
    allowed: Iterable[str] | None = None,
    floors: PrivacyFloors | None = None,
    owner: str | None = None,
    unique: tuple[str, ...] | None = None,
) -> View:
    """Create a view from parts of a dataset document: schema, allowed fields, privacy floors, owner and unique columns."""
    return View(
        name=name,
        owner=owner,
        columns=tuple(Column(name=field, type=kind) for field, kind in fields.items()),
        allowed_columns=None if allowed is None else tuple(allowed),
        floors=() if floors is None or floors == PrivacyFloors() else (floors,),
        unique_columns=unique,
    )


def _column(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item, "type": "string"}
    if not isinstance(item, Mapping):
        return item
    if "fieldName" in item:
        return {"name": item["fieldName"], "type": item.get("fieldType")}
    return {key: part for key, part in item.items() if key not in _NOTES}


def _no_lost_rule(data: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuse an unknown member that looks like a rule: ignoring ``allowedcolumns`` or ``flors`` would allow every column."""
    rules = sorted(name for name in known if name in _VIEW_MEMBERS or _RULE.search(name))
    for member in data:
        close = difflib.get_close_matches(member.lower(), rules, 1, 0.7)
        if member not in known and (close or _RULE.search(member)):
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(name for name in known if '_' not in name))}"
            raise ValueError(f"{where}: unknown member {member!r}; {hint}")


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object from its members, as ``object_pairs_hook``.

    Raises:
        ValueError: A member occurs twice. JSON readers disagree on which value counts.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the member {next(name for name in names if names.count(name) > 1)!r} occurs twice in one object")
    return members
