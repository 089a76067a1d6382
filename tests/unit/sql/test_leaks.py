"""Queries of the corpus of leaks are refused, or their result on data that would show the leak shows nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import duckdb
import pytest

from cleanroom.sql import Catalog, check_sql, split_statements
from tests.unit.sql.leaks import LEAKS
from tests.unit.sql.leaks_of_joins import JOINS, rows_of_joins
from tests.unit.sql.world import create, run_verdict

FLOOR = 5
_ORDERS = {
    "order_id": "integer", "user_key": "string", "region": "string", "status": "string", "amount": "number", "discount": "number",
    "age": "integer", "day": "date", "sparse": "number", "whale": "number", "optional": "integer",
}  # fmt: skip
CATALOGS = {
    "g": Catalog.model_validate(
        {
            "views": [
                {
                    "name": "orders",
                    "columns": _ORDERS,
                    "floors": {"minGroupSize": FLOOR, "identity": "user_key", "dimensions": ["region", "status", "day"]},
                },
                {
                    "name": "clicks",
                    "columns": {"user_key": "string", "campaign": "string", "device": "string"},
                    "floors": {"minGroupSize": 3, "identityColumn": "user_key"},
                },
                {"name": "weights", "columns": {"user_key": "string", "w": "number", "seg": "string"}},
                {"name": "labels", "columns": {"user_key": "string", "label": "string"}},
                {"name": "regions", "columns": {"region": "string", "country": "string"}},
            ]
        }
    ),
    "twins": Catalog.model_validate(
        {
            "views": [
                {
                    "name": "orders",
                    "columns": _ORDERS | {"one": "integer", "twin": "number", "pair": "number"},
                    "floors": {"minGroupSize": FLOOR, "identity": "user_key", "dimensions": ["region", "status", "day"]},
                },
                {
                    "name": "clicks",
                    "columns": {"user_key": "string", "campaign": "string", "device": "string"},
                    "floors": {"minGroupSize": 3, "identityColumn": "user_key"},
                },
                {"name": "weights", "columns": {"user_key": "string", "w": "number", "seg": "string", "amount": "number"}},
                {"name": "guesses", "columns": {"user_key": "string", "amount": "number", "mark": "string"}},
                {"name": "regions", "columns": {"region": "string", "country": "string"}},
            ]
        }
    ),
    "num": Catalog.model_validate(
        {
            "views": [
                {
                    "name": "orders",
                    "columns": {"order_id": "integer", "user_id": "integer", "region": "string", "amount": "number", "age": "integer"},
                    "floors": {"minGroupSize": FLOOR, "identityColumn": "user_id", "allowedOutputColumns": ["region"]},
                },
                {"name": "mine", "columns": {"k": "string", "seg": "string"}},
            ]
        }
    ),
    "out": Catalog.model_validate(
        {
            "views": [
                {
                    "name": "v",
                    "columns": {"id": "integer", "a": "string", "b": "number"},
                    "floors": {"allowedOutputColumns": ["id", "a"]},
                },
                {"name": "m", "columns": {"b": "number", "t": "string"}},
            ]
        }
    ),
}
CATALOGS["ids"] = Catalog.model_validate(
    {
        "views": [
            {
                "name": "v",
                "columns": {"uid": "string", "a": "string"},
                "floors": {"minGroupSize": 0, "identity": "uid", "dimensions": ["a"]},
            },
            {"name": "m", "columns": {"uid": "string", "t": "string"}},
        ]
    }
)
_LISTED = {"minGroupSize": 3, "identity": "user_key", "dimensions": ["campaign", "device"]}
CATALOGS |= {
    "second": CATALOGS["twins"],
    "open": CATALOGS["twins"],
    "mixed": Catalog.model_validate(
        {
            "views": [
                {**view, "floors": _LISTED} if view["name"] == "clicks" else view
                for view in CATALOGS["g"].model_dump(mode="json", by_alias=True)["views"]
            ]
        }
    ),
}
_PARTS = Catalog.model_validate(
    {
        "views": [
            {
                "name": "orders",
                "columns": {
                    "order_id": "integer", "user_key": "string", "region": "string", "status": "string", "amount": "number",
                    "twin": "number",
                    "discount": "number", "age": "integer", "score": "number", "whale": "number", "points": "long", "part": "integer",
                    "email": "string",
                },
                "floors": {"minGroupSize": FLOOR, "identity": "user_key", "dimensions": ["region", "status"]},
            },
            {
                "name": "clicks",
                "columns": {"user_key": "string", "device": "string", "spend": "number", "big": "long"},
                "floors": _LISTED | {"dimensions": ["device"]},
            },
            {"name": "weights", "columns": {"user_key": "string", "w": "number", "alias": "string"}},
            {"name": "own", "columns": {"region": "string", "x": "number", "p": "long"}},
        ]
    }
)  # fmt: skip
CATALOGS |= dict.fromkeys(("void", "ratings", "mail", "bare", "gaps", "steps", "pairs"), _PARTS) | {
    "joins": JOINS,
    "often": CATALOGS["mixed"],
    "days": CATALOGS["mixed"],
}
"""The person u17 has the only second order, or is the only one without a paid order, without a second order, or without values."""
TARGET = 7317.25
"""Amount of the person u17. All other amounts are whole numbers below 1000."""


_SETS = {"A": (1, 2), "B": (3, 4), "C": (1, 3), "D": (2, 4)}
_LABELS = [(f"u{n}", label) for label, parts in _SETS.items() for n in range(40) if n % 4 + 1 in parts and n != 17] + [("u17", "D")]
"""Labels of which A and B together have one person less than C and D."""


def rows(catalog: str) -> dict[str, list[tuple[Any, ...]]]:
    """Data in which every leak shows: the data of all persons but u17 is harmless or known."""
    rnd = random.Random(1)
    people = range(40)
    if catalog == "joins":
        return rows_of_joins(TARGET)
    if CATALOGS[catalog] is _PARTS:
        return _rows_with_gaps(catalog) if catalog in ("gaps", "steps", "pairs") else _rows_of_parts(catalog)
    if catalog == "num":
        orders: list[tuple[Any, ...]] = [(n, n, "north", TARGET if n == 17 else 0.0, 30) for n in people]
        return {"orders": orders, "mine": [("0" * zeros + "17", "a") for zeros in range(8)]}
    if catalog == "ids":
        return {"v": [(f"u{n}", "a") for n in people], "m": [("u17", "hit")]}
    if catalog == "out":
        return {"v": [(n, "a", 4.0 if n == 17 else 1.0) for n in people], "m": [(4.0, "hit")]}
    orders = []
    for number in people:
        target = number == 17
        amount = TARGET if target else float(rnd.randint(1, 999))
        orders.append(
            (
                number, f"u{number}", "north", "paid", amount, TARGET if target else 0.0, rnd.randint(18, 90), "2024-01-01",
                TARGET if target else (None if number % 2 else 0.0), TARGET * 1e6 if target else 1.0, None if target else number,
            )
        )  # fmt: skip
    others = [number for number in people if number != 17]
    if catalog == "days":
        orders = [(*row[:3], "open" if row[0] < 8 else "paid", 1e13 + row[0], *row[5:]) for row in orders]
        later = [(row[0] + 100, *row[1:7], "2024-01-02", *row[8:]) for row in orders]
        later[17] = (117, "u17", "north", "open", 1e13 + 17 + TARGET, *later[17][5:])
        return {"orders": [*orders, *later]}
    if catalog in ("twins", "second", "open"):
        orders = [_with_twins(row) for row in orders]
        orders += [(99, "u17", "north", "paid", 1.0, *orders[17][5:])] if catalog == "second" else []
        orders += [(n + 100, f"u{n}", "north", "open", *orders[n][4:]) for n in range(8)] if catalog == "open" else []
    rare = [(f"u{n}", "rare", "web") for n in (17, *range(50, 60))]
    if catalog == "often":
        clicks = [(f"u{n}", campaign, "web") for n in people for campaign in ("all", "others")]
        return {"orders": orders, "clicks": [*clicks, ("u17", "all", "web")], "labels": [(f"u{n}", "all") for n in people] * 2}
    if catalog == "mixed":
        orders += [(n + 100, f"u{n}", "north", "open", *orders[n][4:]) for n in others]
    return {
        "guesses": [(row[1], row[4], "hit") for row in orders[10:25]],
        "orders": orders,
        "clicks": [(f"u{n}", "all", "web") for n in people] + [(f"u{n}", "others", "web") for n in others] + rare * (catalog == "mixed"),
        "weights": [(f"u{n}", 2.0 if n == 17 else 1.0, "s1", orders[n][4]) for n in people],
        "labels": [(f"u{n}", "all") for n in people] + [(f"u{n}", "others") for n in others] + _LABELS,
        "regions": [("north", "X"), ("north", "Y"), ("south", "X")],
    }


def _rows_of_parts(catalog: str) -> dict[str, list[tuple[Any, ...]]]:
    """The status of orders divides the persons; only u17 has an amount among the void ones, and is the only one without a paid order."""
    rnd = random.Random(3)
    orders: list[tuple[Any, ...]] = []
    for number in range(40):
        target = number == 17
        known = "paid" if number < 14 else "open"
        states = ["void" if target or number > 26 else known]
        if catalog == "mail":
            states = ["lost" if target else "paid", "open" if target or number < 30 else "void"]
        for status in states:
            amount = TARGET if target else 0.0 if status == "void" else float(rnd.randint(1, 999))
            if catalog == "ratings":
                amount = float(rnd.randint(2, 4))
            person = None if catalog == "bare" and target else f"u{number}"
            part = number if status != "void" or target else None
            orders.append(
                (
                    len(orders), person, "north", status, amount, 0.0 if target else amount, 0.0, 12 if target else rnd.randint(31, 90),
                    0.2 if target else 0.9, TARGET * 1000 if target else 1.0, 7317 if target else 5, part, f"e{number}",
                )
            )  # fmt: skip
    return {
        "orders": orders,
        "clicks": [(f"u{n}", "void", TARGET * 100 if n < 10 else 1.0, 2**62) for n in range(40)],
        "weights": [(f"u{n}", 3.0**n if catalog == "ratings" else 1.0, f"a{n}") for n in range(40)],
        "own": [("north", TARGET * 1000, 2**63 - 6000)],
    }


def _rows_with_gaps(catalog: str) -> dict[str, list[tuple[Any, ...]]]:
    """Only u17 has no score, neither discount nor twin, the smallest age and a large difference; or one order instead of two."""
    rnd = random.Random(5)
    orders: list[tuple[Any, ...]] = []
    for number in range(40):
        target = number == 17
        few = catalog == "steps" and 16 < number < 22
        for row in range(2 if catalog == "steps" and not target else 1):
            amount = TARGET if target and few else 1e-9 if few else float(rnd.randint(1, 999))
            amount = 0.0 if target and catalog == "pairs" else amount
            whale = amount + (TARGET if target else (number % 3 - 1) * 1e-9)
            hidden = (number < 10, number > 29) if catalog != "pairs" else (False, False)
            twin, discount = (None if target or missing else amount for missing in hidden)
            status = "void" if target else "paid" if number < 20 else "open"
            orders.append(
                (
                    len(orders), f"u{number}", "north", ("paid", "open")[row] if catalog == "steps" else status, amount, twin,
                    discount, -(2**31) if target else 40, None if target else 1.0, whale, 2**63 - 1 if target else 5,
                    None if target or few else number, f"e{number}",
                )
            )  # fmt: skip
    return {"orders": orders}


def _with_twins(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with columns that are as in all others except for u17, who has an open order."""
    target = row[1] == "u17"
    return (*row[:3], "open" if target else "paid", *row[4:], 0 if target else 1, 0.0 if target else row[4], 5000.0 * (row[0] in (17, 18)))


COMBINED = (
    "sums of parts", "counts of parts", "rows without an identity", "missing values", "forms of steps", "dominated differences",
    "means of equal sums", "groups made by the author", "totals next to parts", "groups chosen by several columns",
    "parts chosen by several columns", "sums of several steps", "multiples of sums", "dominated differences of unions",
)  # fmt: skip
"""Kinds of queries of which sums and differences of the numbers show something."""
ANY_RESULT = (
    "small cell by NULL", "unlisted column as a count", "identity of another type", "condition on an unlisted column", "powers by steps",
    "weights by steps", "one person in a union", "limits and rounding", "arrays made by the text",
    "sums of unions that overflow", "rounding", "marks that are counted", "failures of one value",
    "identities without a minimum", "counts as factors",
)  # fmt: skip
"""Kinds of queries of which every result shows something."""


def shows_target(result: list[tuple[Any, ...]], kind: str) -> bool:
    """Whether a number, or the difference of two numbers of a column or of a row, is the target's value or counts it alone."""
    if kind in ANY_RESULT:
        return bool(result) and any(value is not None for row in result for value in row)
    if kind in COMBINED:
        shown = [float(value) for row in result for value in row if isinstance(value, int | float)]
        combined = [sum(map(float.__mul__, factors, shown)) for factors in itertools.product((-1.0, 0.0, 1.0), repeat=len(shown))]
        return any(
            abs(value - TARGET) < 1e-6 or (kind in ("counts of parts", "missing values", "means of equal sums") and value == 1)
            for value in combined
        )
    columns = [[row[index] for row in result] for index in range(len(result[0]))] if result else []
    for numbers in (*columns, *result):
        known = [float(value) for value in numbers if isinstance(value, int | float)]
        values = [*known, *(one - two for one, two in itertools.permutations(known, 2))]
        if any(abs(value - TARGET) < 1e-6 or abs(value / (TARGET * 1e6) - 1) < 1e-3 for value in values):
            return True
    if kind in ("persons counted twice", "persons by other values"):
        numbers = [[value for value in line if isinstance(value, int)] for line in (*columns, *result)]
        return any(1 <= abs(one - two) < FLOOR for line in numbers for one, two in itertools.combinations([*line, 0], 2))
    return kind == "weights made by the text" and len(result) > 0 and any(1 in row for row in result)


@pytest.fixture(scope="module")
def database() -> Iterator[Callable[[str], duckdb.DuckDBPyConnection]]:
    """A function that returns the database of a catalogue with its rows. A query leaves the tables as they are."""
    with ExitStack() as stack:

        @cache
        def database(catalog: str) -> duckdb.DuckDBPyConnection:
            connection = stack.enter_context(duckdb.connect())
            create(connection, CATALOGS[catalog], rows(catalog))
            return connection

        yield database


@pytest.mark.parametrize(
    ("kind", "catalog", "sql"),
    [pytest.param(kind, *item, id=f"{kind}-{i}") for kind, items in LEAKS.items() for i, item in enumerate(items)],
)
def test_leak_is_refused_or_shows_nothing(kind: str, catalog: str, sql: str, database: Callable[[str], duckdb.DuckDBPyConnection]) -> None:
    verdict = check_sql(split_statements(sql), CATALOGS[catalog])
    if not verdict.allowed:
        assert all(reason.code not in ("UnstableRendering", "Unparsable", "UnknownColumn") for reason in verdict.reasons), verdict.reasons
        return
    result = run_verdict(database(catalog), verdict)
    assert not shows_target(result, kind), (result, verdict.sql)


def test_corpus_has_at_least_six_leaks_of_each_kind() -> None:
    assert all(len(items) >= 6 for items in LEAKS.values())
