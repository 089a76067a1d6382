"""Values and scopes for the tests of the privacy rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cleanroom.sql import Catalog, Refusal
from cleanroom.sql.model import ProtectedInput, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.scope import Scope

CATALOG = Catalog.model_validate(
    {
        "views": {
            "orders": {
                "columns": {"person": "string", "region": "string", "amount": "number", "age": "integer", "day": "date"},
                "floor": {"minGroupSize": 5, "identityColumn": "person", "allowedOutputColumns": ["region", "day"]},
            },
            "clicks": {
                "columns": {"person": "string", "device": "string", "spend": "number"},
                "floor": {"minGroupSize": 3, "identityColumn": "person"},
            },
            "regions": {"region": "string", "country": "string"},
        }
    }
)
ORDERS = ProtectedInput("orders", "person", "o.person")
CLICKS = ProtectedInput("clicks", "person", "c.person")


def column(name: str, view: str = "orders", type: str = "number") -> Value:
    """The column ``name`` of a relation whose alias is the view's first letter."""
    alias = view[0]
    key = (view, name)
    field = Value("", type, degree=1, origins=frozenset([(*key, "value")]), exposed=frozenset([key]), plain=True)
    return field.as_column(f"{alias}.{name}", name, frozenset([alias]))


def condition(*columns: Value, sql: str = "condition") -> Value:
    origins = frozenset(origin for value in columns for origin in value.origins)
    markers = frozenset(marker for value in columns for marker in value.outer_join_markers)
    exposed = frozenset(pair for value in columns for pair in value.exposed)
    return Value(sql, "boolean", degree=None, origins=origins, exposed=exposed, outer_join_markers=markers)


def scope(*protected: ProtectedInput, grouped_by: tuple[Value, ...] | None = None) -> Scope:
    out = Scope()
    out.protected = list(protected)
    if grouped_by is not None:
        out.group_keys = {key.sql: key.sql for key in grouped_by}
        out.plain_group_keys = [key.sql for key in grouped_by if key.plain]
        out.per_person = rows.is_per_person(out.protected, grouped_by, out.equal)
    return out


def refused(rule: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Code of the refusal that ``rule`` raises."""
    with pytest.raises(Refusal) as caught:
        rule(*args, **kwargs)
    assert caught.value.position is None
    return caught.value.code
