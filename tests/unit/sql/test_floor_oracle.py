"""Generated queries, and what their results show of single persons.

Each query is executed as its author wrote it on the data, and on the data without one person, for each person. A number of a result, a
sum or difference of the numbers of a row, and the difference of two rows that may show the same data, must depend on no person, or on at
least as many as the floor requires: otherwise the rewritten query must not show it. No person is more than 80 percent of a sum.
``CLEANROOM_ORACLE_EXAMPLES`` sets how many queries are generated.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import duckdb
import pytest
import sqlglot
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cleanroom.sql import Catalog, check_sql, split_statements
from tests.unit.sql.world import create

FLOOR = 3
PERSONS = 14
EXAMPLES = int(os.environ.get("CLEANROOM_ORACLE_EXAMPLES", "30"))
CATALOG = Catalog.model_validate(
    {
        "views": [
            {
                "name": "orders",
                "columns": {
                    "user_key": "string", "region": "string", "status": "string", "amount": "number", "twin": "number", "score": "number",
                    "email": "string", "tags": "string",
                },
                "floors": {"minGroupSize": FLOOR, "identity": "user_key", "dimensions": ["region", "status", "tags"]},
            },
            {
                "name": "clicks",
                "columns": {"user_key": "string", "campaign": "string", "spend": "number"},
                "floors": {"minGroupSize": 2, "identity": "user_key", "dimensions": ["campaign"]},
            },
            {"name": "own", "columns": {"user_key": "string", "seg": "string", "w": "number"}, "uniqueColumns": ["user_key"]},
        ]
    }
)  # fmt: skip
Data = dict[str, list[tuple[Any, ...]]]


WORLDS = 6
"""Half of them have persons who are alike but for two."""


def data(number: int) -> Data:
    """Data in which few persons differ from the others: by their status, an amount, a missing value, or their number of rows."""
    rnd = random.Random(number)
    orders, clicks = [], []
    for person in range(PERSONS):
        alike = number >= WORLDS // 2 and person > 1
        for row in range(2 if alike else rnd.choice((1, 1, 1, 2))):
            amount = rnd.choice((0.0, None, *(float(rnd.randint(5, 90)) for _ in range(4))))
            twin = amount if rnd.random() < 0.9 else 1.0
            status = ("paid", "open")[row] if alike else rnd.choice(("paid", "paid", "open", "void"))
            tags = {"void": "a,b,c", "open": "b"}.get(status, "a,b")
            region = "n" if alike else rnd.choice("ns")
            orders.append((f"u{person}", region, status, amount, twin, rnd.choice((1.0, 1.0, 0.25)), f"e{person}", tags))
        for campaign in ("a", "b") if alike else rnd.sample(("a", "b", "c"), rnd.choice((0, 1, 2, 2))):
            clicks += [(f"u{person}", campaign, float(rnd.randint(1, 9)))] * (1 if alike else rnd.choice((1, 1, 1, 2)))
    own = [(f"u{person}", rnd.choice("xy"), 1.0) for person in range(PERSONS - 2)]
    return {"orders": orders, "clicks": clicks, "own": own}


# -- queries ----------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A FROM clause, and what the SELECT over it may name."""

    text: str
    keys: Sequence[str]  # dimensions, and columns of the author
    conditions: Sequence[str]
    numbers: Sequence[str]
    person: str
    values: Sequence[str] = ()  # columns of which different values may be counted
    shared: bool = False  # the same data of a person may be in several groups
    counts_rows: bool = True  # a person without rows of the floor has no row either


_STATES = ("status = 'paid'", "status = 'open'", "status IN ('paid', 'open')", "status <> 'void'", "region = 'n'")


def _of(alias: str, conditions: Sequence[str]) -> list[str]:
    return [f"{alias}.{condition}" for condition in conditions]


_PERSON_ROWS = (
    "(SELECT user_key, MIN(status) AS status, MAX(region) AS region, SUM(amount) AS amount, SUM(twin) AS twin, AVG(score) AS score, "
    "MAX(CASE WHEN status = 'paid' THEN 1 ELSE 0 END) AS paid, COUNT(*) AS n FROM orders GROUP BY user_key) t"
)
SOURCES = [
    Source("orders", ("region", "status", "status = 'paid'"), _STATES, ("amount", "twin", "score"), "user_key", ("email",)),
    Source(
        "orders o JOIN own w ON o.user_key = w.user_key",
        ("o.region", "o.status", "w.seg"),
        [*_of("o", _STATES), "w.seg = 'x'"],
        ("o.amount", "o.twin", "o.score"),
        "o.user_key",
        ("o.email",),
    ),
    Source(
        "orders o LEFT JOIN own w ON o.user_key = w.user_key",
        ("o.region", "w.seg", "CASE WHEN w.user_key IS NULL THEN 'other' ELSE 'listed' END"),
        [*_of("o", _STATES), "w.user_key IS NULL"],
        ("o.amount", "o.twin"),
        "o.user_key",
    ),
    Source(
        "orders o JOIN clicks c ON o.user_key = c.user_key",
        ("c.campaign", "o.status", "c.campaign = 'a'"),
        _of("o", _STATES),
        ("o.amount", "o.twin", "c.spend"),
        "o.user_key",
        ("o.email",),
        shared=True,
    ),
    Source(
        "orders o JOIN clicks c ON o.user_key = c.user_key AND o.status <> c.campaign LEFT JOIN own w ON o.user_key = w.user_key",
        ("c.campaign", "w.seg", "o.region"),
        [*_of("o", _STATES), "w.user_key IS NULL"],
        ("o.amount", "c.spend"),
        "o.user_key",
        shared=True,
    ),
    Source(
        "(SELECT user_key, status, SUM(amount) AS amount, SUM(twin) AS twin FROM orders GROUP BY user_key, status) a JOIN "
        "(SELECT user_key, status AS st FROM orders GROUP BY user_key, status) b ON a.user_key = b.user_key AND a.status <= b.st",
        ("b.st", "a.status"),
        _of("a", _STATES[:4]),
        ("a.amount", "a.twin"),
        "a.user_key",
        shared=True,
    ),
    Source("orders LATERAL VIEW EXPLODE(SPLIT(tags, ',')) e AS tag", ("tag", "status"), _STATES, ("amount",), "user_key", shared=True),
    Source(
        "orders o LEFT JOIN clicks c ON o.user_key = c.user_key AND c.campaign = 'a'",
        ("o.status", "CASE WHEN c.user_key IS NULL THEN 'control' ELSE 'exposed' END"),
        _of("o", _STATES),
        ("o.amount", "o.twin", "c.spend"),
        "o.user_key",
        shared=True,
    ),
    Source(
        _PERSON_ROWS, ("region", "status", "paid", "LEAST(n, 2)"), (*_STATES, "paid = 1", "n > 1"), ("amount", "twin", "score"), "user_key"
    ),
    Source(
        f"{_PERSON_ROWS} JOIN clicks c ON t.user_key = c.user_key",
        ("c.campaign", "t.region", "t.paid"),
        (*_of("t", _STATES), "t.paid = 1"),
        ("t.amount", "t.twin"),
        "t.user_key",
        shared=True,
    ),
    Source(
        "(SELECT user_key, region, status, amount, twin FROM orders UNION ALL SELECT user_key, 'n' AS region, campaign AS status, "
        "spend AS amount, spend AS twin FROM clicks) u",
        ("region", "status"),
        _STATES,
        ("amount", "twin"),
        "user_key",
        shared=True,
    ),
    Source(
        "(SELECT *, ROW_NUMBER() OVER (PARTITION BY user_key ORDER BY status) AS r FROM orders) t",
        ("region", "status", "r"),
        (*_STATES, "r = 1"),
        ("amount", "twin", "score"),
        "user_key",
        shared=True,
    ),
    Source(
        "(SELECT *, NTILE(2) OVER (PARTITION BY user_key ORDER BY status, region) AS half, LEAD(status) OVER (PARTITION BY user_key "
        "ORDER BY status, region) AS following FROM orders) t",
        ("half", "following", "region"),
        (*_STATES, "half = 1"),
        ("amount", "twin", "score"),
        "user_key",
        ("email",),
        shared=True,
    ),
    Source(
        "own w LEFT JOIN orders o ON w.user_key = o.user_key",
        ("w.seg", "o.region"),
        _of("o", _STATES),
        ("o.amount", "o.twin"),
        "o.user_key",
        counts_rows=False,
    ),
    Source(
        "orders WHERE user_key IN (SELECT user_key FROM clicks)", ("region", "status"), _STATES, ("amount", "twin"), "user_key", shared=True
    ),
]


@st.composite
def aggregates(draw: st.DrawFn, source: Source) -> str:
    """An aggregate whose result a sum over the persons is."""
    number, condition = draw(st.sampled_from(source.numbers)), draw(st.sampled_from(source.conditions))
    forms = [
        *(("COUNT(*)", f"COUNT_IF({condition})") if source.counts_rows else ()),
        f"COUNT({number})",
        f"COUNT(DISTINCT {source.person})",
        f"COUNT(DISTINCT CASE WHEN {condition} THEN {source.person} END)",
        f"SUM({number})",
        f"SUM({number}) FILTER (WHERE {condition})",
        f"SUM(CASE WHEN {condition} THEN {number} ELSE 0 END)",
        f"SUM(IF({condition}, {number}, 10))",
        f"SUM(CASE WHEN {condition} THEN {number} ELSE -{number} END)",
        f"SUM({number} + {draw(st.sampled_from(source.numbers))})",
        f"SUM({number} * {draw(st.sampled_from(source.numbers))})",
        f"SUM(LEAST({number}, {draw(st.sampled_from((1, 3, 50)))}))",
        f"SUM(ROUND({number}))",
        f"COUNT({number}) FILTER (WHERE {condition})",
        *(f"COUNT(DISTINCT {value})" for value in source.values),
        *(f"COUNT(DISTINCT CASE WHEN {condition} THEN {value} END)" for value in source.values),
    ]
    form: str = draw(st.sampled_from(forms))
    return form


@st.composite
def queries(draw: st.DrawFn) -> tuple[str, Source, int]:
    """A query, its source, and the number of its group keys."""
    source = draw(st.sampled_from(SOURCES))
    keys = draw(st.lists(st.sampled_from(source.keys), max_size=2, unique=True))
    shown = draw(st.lists(aggregates(source), min_size=1, max_size=4, unique=True))
    items = [f"{key} AS k{index}" for index, key in enumerate(keys)] + [f"{text} AS a{index}" for index, text in enumerate(shown)]
    word = "AND" if source.text.startswith("orders WHERE") else "WHERE"
    where = f" {word} {draw(st.sampled_from(source.conditions))}" if draw(st.integers(0, 3)) == 0 else ""
    group = f" GROUP BY {', '.join(map(str, range(1, len(keys) + 1)))}" if keys else ""
    return f"SELECT {', '.join(items)} FROM {source.text}{where}{group}", source, len(keys)


# -- the oracle -------------------------------------------------------------------------------------------------------

Numbers = dict[tuple[Any, ...], list[float]]


def numbers(rows: Sequence[tuple[Any, ...]], keys: int) -> Numbers:
    """The numbers of each row of a result, by its group keys."""
    return {row[:keys]: [float(value or 0) for value in row[keys:]] for row in rows}


def few_depend(contributions: Sequence[float]) -> bool:
    """Whether a number depends on some persons, but not on enough: these are the differences that they make."""
    return 0 < sum(abs(value) > 1e-9 for value in contributions) < FLOOR


def combinations(persons_counted: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """Factors of sums and differences of the numbers of a row: of two counts of persons, or of any number of other values.

    How many rows a person has is not protected, so that counts of persons are not combined with the others.
    """
    for factors in itertools.product((-1, 0, 1), repeat=len(persons_counted)):
        kinds = [counted for counted, factor in zip(persons_counted, factors, strict=True) if factor]
        if len({*kinds}) == 1 and (len(kinds) < 3 or not kinds[0]):
            yield factors


def problems(shown: Numbers, whole: Numbers, without: Sequence[Numbers], persons_counted: Sequence[bool], shared: bool) -> Iterator[str]:
    """What a result shows of single persons."""
    width = len(next(iter(whole.values()), []))
    nothing = [0.0] * width
    made = {key: [[a - b for a, b in zip(whole[key], one.get(key, nothing), strict=True)] for one in without] for key in shown}
    for key, persons in made.items():
        for factors in combinations(persons_counted):
            if few_depend([sum(f * value for f, value in zip(factors, person, strict=True)) for person in persons]):
                yield f"{factors} of the row {key}"
    for one, two in itertools.combinations(made, 2) if shared else ():
        for index in range(width):
            if few_depend([a[index] - b[index] for a, b in zip(made[one], made[two], strict=True)]):
                yield f"the difference of column {index} in the rows {one} and {two}"


def without_person(rows: Mapping[str, Sequence[tuple[Any, ...]]], person: str) -> Data:
    """The data of the floors without those of one person. The author's data stay."""
    return {view: [row for row in found if view == "own" or row[0] != person] for view, found in rows.items()}


@cache
def worlds(number: int) -> list[duckdb.DuckDBPyConnection]:
    """Databases: with all data, and without each person."""
    rows = data(number)
    versions = [rows, *(without_person(rows, f"u{person}") for person in range(PERSONS))]
    connections = [duckdb.connect(config={"threads": 1}) for _ in versions]
    for connection, version in zip(connections, versions, strict=True):
        create(connection, CATALOG, version)
    return connections


def executed(sql: str, connections: Sequence[duckdb.DuckDBPyConnection], keys: int) -> list[Numbers]:
    """The results of a query in several databases."""
    (text,) = sqlglot.transpile(sql, read="spark", write="duckdb")
    return [numbers(connection.execute(text).fetchall(), keys) for connection in connections]


ACCEPTED: list[str] = []


@seed(20261130)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(query=queries(), world=st.integers(0, WORLDS - 1))
def test_results_of_generated_queries_show_nothing_of_few_persons(query: tuple[str, Source, int], world: int) -> None:
    sql, source, keys = query
    verdict = check_sql(split_statements(sql), CATALOG)
    if not verdict.allowed:
        assert all(reason.code not in ("UnstableRendering", "Unparsable", "UnknownColumn") for reason in verdict.reasons), verdict.reasons
        return
    connections = worlds(world)
    (shown,) = executed(verdict.sql, connections[:1], keys)
    if not shown:
        return
    ACCEPTED.append(sql)
    whole, *without = executed(sql, connections, keys)
    for key, values in shown.items():
        assert values == pytest.approx(whole[key]), (sql, key)
    persons_counted = ["COUNT(DISTINCT" in part for part in sql.partition(" FROM ")[0].split(" AS a")[:-1]]
    assert not list(problems(shown, whole, without, persons_counted, source.shared)), sql


def test_generated_queries_show_results() -> None:
    assert len(ACCEPTED) >= EXAMPLES // 10
