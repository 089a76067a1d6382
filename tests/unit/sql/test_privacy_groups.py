"""Groups of a release: the aggregates that are merged from the rows per person, and the queries that read their rows again."""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import duckdb
import pytest

from cleanroom.sql import Catalog, check_sql
from tests.unit.sql.leaks_of_joins import JOINS
from tests.unit.sql.test_floors import populate
from tests.unit.sql.world import GUARDED, create, run, run_verdict, same_rows

Row = tuple[Any, ...]


def with_floor(size: int) -> Catalog:
    """:data:`GUARDED` with floors of one size."""
    views = [
        {**view.model_dump(by_alias=True), "floors": [{**floor.model_dump(), "min_group_size": size} for floor in view.floors]}
        for view in GUARDED.views
    ]
    return Catalog.model_validate({"views": views})


LOW = with_floor(4)
"""Floors that every group of the data reaches."""

MERGED = {
    "counts": "SELECT region, COUNT(*) AS n, COUNT(1) AS one, COUNT(amount) AS a, COUNT_IF(status = 'paid') AS p FROM orders GROUP BY region",
    "persons": "SELECT region, COUNT(DISTINCT user_key) AS n FROM orders GROUP BY region",
    "persons of a join": "SELECT o.region, COUNT(DISTINCT c.user_key) AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY 1",
    "persons found": "SELECT o.region, COUNT(DISTINCT c.user_key) AS n FROM orders o LEFT JOIN clicks c ON o.user_key = c.user_key GROUP BY 1",
    "sums and means": "SELECT region, SUM(amount) AS s, AVG(amount) AS m, SUM(order_id) AS i, AVG(age) AS a FROM orders GROUP BY region",
    "product": "SELECT region, SUM(amount * discount) AS s, 2 * SUM(amount) - SUM(discount) / 3 AS d FROM orders GROUP BY region",
    "compared key": "SELECT YEAR(day) + 1 > 2013 AS late, COUNT(*) AS n FROM orders GROUP BY YEAR(day) + 1 HAVING YEAR(day) + 1 < 2100",
    "subquery": "SELECT region, COUNT(*) + (SELECT COUNT(*) FROM regions) AS n FROM orders GROUP BY region",
    "keys in keys": "SELECT CONCAT(upper(region), status) AS c, upper(region) AS u, status, COUNT(*) AS n FROM orders GROUP BY CONCAT(upper(region), status), upper(region), status",
    "persons of a case": "SELECT region, COUNT(DISTINCT CASE WHEN status = 'void' THEN user_key END) AS n, COUNT(DISTINCT user_key) AS m FROM orders GROUP BY region",
    "condition": "SELECT region, SUM(CASE WHEN status = 'paid' THEN amount ELSE 0 END) AS s FROM orders GROUP BY region",
    "filter": "SELECT region, AVG(amount) FILTER (WHERE status = 'void') AS v, AVG(amount) AS m, COUNT(*) FILTER (WHERE status = 'paid') AS p FROM orders GROUP BY region",
    "expressions": "SELECT upper(region) AS r, SUM(amount) / COUNT(*) + 1 AS q, -COUNT(*) AS n FROM orders GROUP BY upper(region)",
    "having and order": "SELECT region, COUNT(*) AS n FROM orders GROUP BY region HAVING SUM(amount) > 9 OR COUNT(*) = 2 ORDER BY SUM(amount)",
    "window": "SELECT region, RANK() OVER (ORDER BY COUNT(*), region) AS r, SUM(COUNT(*)) OVER () AS t, COUNT(*) OVER () AS g FROM orders GROUP BY region",
    "qualify": "SELECT region, COUNT(*) AS n, ROW_NUMBER() OVER (ORDER BY COUNT(*), region) AS r FROM orders GROUP BY region QUALIFY r < 3",
    "text like a key": "SELECT region, CONCAT(region, '`orders`.`region` COUNT(*)') AS t, COUNT(*) AS n FROM orders GROUP BY region",
    "deviation": "SELECT region, STDDEV(amount) AS d, COUNT(*) AS n FROM orders GROUP BY region",
    "deviation of all": "SELECT STDDEV(amount) AS d FROM orders",
    "deviations": "SELECT region, STDDEV_POP(amount) AS p, VARIANCE(discount) AS v FROM orders GROUP BY region",
    "deviation of whole numbers": "SELECT region, VAR_POP(age) AS v, COUNT(*) AS n FROM orders GROUP BY region",
    "filtered deviation": "SELECT region, STDDEV(amount) FILTER (WHERE status = 'void') AS d FROM orders GROUP BY region",
    "no keys": "SELECT COUNT(*) AS n, AVG(amount) AS m FROM orders",
    "keys only": "SELECT region, upper(status) AS s FROM orders GROUP BY region, upper(status)",
    "distinct groups": "SELECT DISTINCT COUNT(DISTINCT user_key) > 3 AS big FROM orders GROUP BY region, status",
    "arithmetic key": "SELECT YEAR(day) * 100 + MONTH(day) AS m, (YEAR(day) * 100 + MONTH(day)) * 2 AS d, COUNT(*) AS n FROM orders GROUP BY YEAR(day) * 100 + MONTH(day)",
    "arithmetic key in a list": "SELECT COALESCE(YEAR(day) + 1, 0) AS c, 2014 IN (YEAR(day) + 1, 2) AS d, COUNT(*) AS n FROM orders GROUP BY YEAR(day) + 1 ORDER BY YEAR(day) + 1 DESC",
    "case as a key": "SELECT CASE WHEN status = 'paid' THEN 1 ELSE 0 END AS k, COUNT(*) AS n FROM orders GROUP BY 1",
}
REFUSED = {
    "COUNT(DISTINCT order_id)": "DistinctOverFloor",
    "COUNT(DISTINCT user_key, region)": "DistinctOverFloor",
    "APPROX_COUNT_DISTINCT(user_key)": "DistinctOverFloor",
    "SUM(2 * amount)": "ConditionalAggregate",
    "TRY_SUM(amount)": "ValueOfOnePerson",
    "MAX(day)": "ValueOfOnePerson",
    "MIN(DISTINCT region)": "ValueOfOnePerson",
    "SUM(amount - discount)": "ConditionalAggregate",
    "SUM(-amount)": "ConditionalAggregate",
    "STDDEV(amount + 1)": "ConditionalAggregate",
    "SUM(amount * (1 - discount))": "ConditionalAggregate",
}
"""Aggregates of persons that the rows per person do not contain."""


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        create(connection, LOW, populate(3, 900))
        yield connection


@pytest.mark.parametrize("name", MERGED)
def test_rewritten_query_returns_the_rows_of_the_original(name: str, connection: duckdb.DuckDBPyConnection) -> None:
    sql = MERGED[name]
    verdict = check_sql(sql, LOW)
    assert verdict.allowed, verdict.reasons
    assert verdict.sql.count("FROM `orders`") == 1
    assert same_rows(run_verdict(connection, verdict), run(connection, sql), ordered="ORDER BY SUM" in sql), verdict.sql


@pytest.mark.parametrize("use", REFUSED)
def test_aggregate_that_is_not_computed_from_persons_is_refused(use: str) -> None:
    (reason,) = check_sql(f"SELECT region, {use} AS x FROM orders GROUP BY region", GUARDED).reasons
    assert reason.code == REFUSED[use]


def test_persons_of_two_kinds_are_not_counted_together() -> None:
    views = {"v": {"columns": {"a": "string", "b": "string"}, "floors": [{"minGroupSize": 2, "identityColumn": name} for name in "ab"]}}
    catalog = Catalog.model_validate({"views": views})
    assert check_sql("SELECT COUNT(DISTINCT b) AS n FROM v", catalog).allowed
    (reason,) = check_sql("SELECT COUNT(DISTINCT a) AS n, COUNT(DISTINCT b) AS m FROM v", catalog).reasons
    assert reason.code == "DistinctOverFloor"


def test_persons_of_an_optional_relation_are_not_those_of_the_required_one() -> None:
    sql = "SELECT COUNT(DISTINCT {}.user_key) AS n FROM weights w LEFT JOIN orders o ON w.user_key = o.user_key"
    assert check_sql(sql.format("o"), GUARDED).allowed
    assert {reason.code for reason in check_sql(sql.format("w"), GUARDED).reasons} == {"DistinctOverFloor"}


def test_sum_without_contributors_is_null_and_not_a_failure(connection: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT COUNT(*) AS n, AVG(amount) FILTER (WHERE status = 'none') AS m FROM orders"
    assert run_verdict(connection, check_sql(sql, LOW)) == run(connection, sql)


def test_rows_per_person_are_computed_once_although_the_overlap_reads_them() -> None:
    sql = "SELECT c.campaign, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign"
    text = check_sql(sql, GUARDED).sql
    assert "LEFT ANTI JOIN" in text
    assert text.count("FROM `orders`") == 1


def with_unique(name: str, *columns: str) -> Catalog:
    """:data:`GUARDED` with columns of one view that its owner declares unique."""
    views = GUARDED.model_dump(mode="json", by_alias=True)["views"]
    return Catalog.model_validate({"views": [{**view, "uniqueColumns": columns if view["name"] == name else None} for view in views]})


COUNTRIES = "SELECT r.country, SUM(o.amount) AS s FROM orders o JOIN regions r ON o.region = r.region GROUP BY r.country"


def test_join_with_declared_unique_columns_leaves_out_no_rows_and_no_groups(connection: duckdb.DuckDBPyConnection) -> None:
    assert "QUALIFY" in check_sql(COUNTRIES, GUARDED).sql
    verdict = check_sql(COUNTRIES, with_unique("regions", "region"))
    assert "QUALIFY" not in verdict.sql
    assert "LEFT ANTI JOIN" not in verdict.sql
    assert same_rows(run_verdict(connection, verdict), run(connection, COUNTRIES), ordered=False)


def test_one_row_per_person_of_own_data_needs_no_condition() -> None:
    sql = "SELECT w.seg, SUM(o.amount) AS s FROM orders o JOIN weights w ON o.user_key = w.user_key GROUP BY w.seg"
    assert "QUALIFY" in check_sql(sql, GUARDED).sql
    assert "QUALIFY" not in check_sql(sql, with_unique("weights", "user_key")).sql


def test_join_by_some_of_the_unique_columns_is_not_unique() -> None:
    assert "QUALIFY" in check_sql(COUNTRIES, with_unique("regions", "region", "country")).sql


# -- persons in one group ---------------------------------------------------------------------------------------------

_DEVICES = "(SELECT user_key, MAX(device) AS device FROM clicks GROUP BY user_key) t"
ONE_GROUP = {
    "declared unique": "SELECT c.device, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.device",
    "expression": "SELECT upper(c.device) AS d, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY upper(c.device), c.campaign",
    "condition in WHERE": "SELECT c.device, SUM(o.amount) AS s FROM orders o, clicks c WHERE o.user_key = c.user_key GROUP BY c.device",
    "grouped by person": f"SELECT t.device, SUM(o.amount) AS s FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key GROUP BY t.device",
    "unique on a column of the person": "SELECT r.country, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key JOIN (SELECT region, MAX(country) AS country FROM regions GROUP BY region) r ON c.device = r.region GROUP BY r.country",
}
SEVERAL_GROUPS = {
    "outer join": "SELECT c.device, SUM(o.amount) AS s FROM orders o LEFT JOIN clicks c ON o.user_key = c.user_key AND o.status = 'paid' GROUP BY c.device",
    "key of the other rows": "SELECT c.device, o.region, SUM(o.amount) AS s, COUNT(c.device) AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.device, o.region",
    "key of both": "SELECT concat(c.device, o.region) AS k, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY concat(c.device, o.region)",
    "unique on a column of the rows": f"SELECT r.country, COUNT(t.device) AS n FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key JOIN (SELECT region, MAX(country) AS country FROM regions GROUP BY region) r ON o.region = r.region GROUP BY r.country",
}


@pytest.mark.parametrize("name", ONE_GROUP)
def test_groups_of_disjoint_persons_are_not_compared(name: str, connection: duckdb.DuckDBPyConnection) -> None:
    verdict = check_sql(ONE_GROUP[name], with_unique("clicks", "user_key"))
    assert verdict.allowed, verdict.reasons
    assert "LEFT ANTI JOIN" not in verdict.sql
    assert verdict.sql.count("FROM `orders`") == 1


@pytest.mark.parametrize("name", SEVERAL_GROUPS)
def test_groups_that_may_share_persons_are_compared(name: str) -> None:
    verdict = check_sql(SEVERAL_GROUPS[name], with_unique("clicks", "user_key"))
    assert verdict.allowed, verdict.reasons
    assert "LEFT ANTI JOIN" in verdict.sql


def test_groups_by_a_column_that_is_not_unique_per_person_are_compared() -> None:
    assert "LEFT ANTI JOIN" in check_sql(ONE_GROUP["declared unique"], GUARDED).sql
    assert "LEFT ANTI JOIN" in check_sql(ONE_GROUP["declared unique"], with_unique("clicks", "user_key", "device")).sql


@pytest.mark.parametrize("use", ["SUM(amount)", "AVG(amount)", "STDDEV_POP(amount)", "VAR_SAMP(amount)", "SUM(amount * discount)"])
@pytest.mark.parametrize("amount", [None, 4.5])
def test_groups_of_the_same_persons_are_shown_if_their_values_are_the_same_or_differ_for_enough(
    use: str, amount: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    verdict = check_sql(
        f"SELECT n, {use} AS s FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY user_key ORDER BY day) AS n FROM orders) t GROUP BY n",
        GUARDED,
    )
    assert verdict.allowed, verdict.reasons
    rows = [
        (0, f"u{n}", "north", "paid", amount if amount and (n, day) == (3, 2) else 2.0 + n % 5, 0.1 * (n % 7), 30, date(2026, 1, day), None)
        for n in range(30)
        for day in (1, 2)
    ]
    create(connection, GUARDED, {"orders": rows})
    assert len(run_verdict(connection, verdict)) == (2 if amount is None else 0)


# -- tables with one row per person -----------------------------------------------------------------------------------

LATE = {
    "group key": f"SELECT t.device, COUNT(*) AS n, SUM(o.amount) AS s FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key GROUP BY t.device",
    "expression of it": f"SELECT upper(t.device) AS d, AVG(o.amount) AS m FROM orders o JOIN {_DEVICES} ON t.user_key = o.user_key WHERE o.status = 'paid' GROUP BY upper(t.device)",
    "moment": f"SELECT t.device, STDDEV(o.amount) AS d FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key GROUP BY t.device",
    "another table": f"SELECT t.device, COUNT(w.seg) AS n FROM orders o JOIN {_DEVICES} ON t.user_key = o.user_key JOIN weights w ON o.user_key = w.user_key GROUP BY t.device",
}
EARLY = {
    "condition": f"SELECT t.device, COUNT(*) AS n FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key WHERE t.device <> 'tv' GROUP BY t.device",
    "condition of the join": f"SELECT t.device, COUNT(*) AS n FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key AND o.status = 'paid' GROUP BY t.device",
    "aggregate": f"SELECT t.device, COUNT(t.device) AS n FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key GROUP BY t.device",
    "key of both": f"SELECT COALESCE(t.device, o.region) AS k, COUNT(*) AS n FROM orders o JOIN {_DEVICES} ON o.user_key = t.user_key GROUP BY COALESCE(t.device, o.region)",
}  # fmt: skip


@pytest.mark.parametrize("name", [*LATE, *EARLY])
def test_table_of_persons_is_joined_with_the_rows_per_person_if_only_group_keys_read_it(
    name: str, connection: duckdb.DuckDBPyConnection
) -> None:
    sql = LATE.get(name) or EARLY[name]
    verdict = check_sql(sql, LOW)
    assert verdict.allowed, verdict.reasons
    assert ("__cr_q" in verdict.sql) == (name in LATE)
    assert same_rows(run_verdict(connection, verdict), run(connection, sql), ordered=False), verdict.sql


REPEATED = {
    "group key": "SELECT c.device, COUNT(*) AS n, COUNT(o.amount) AS k, SUM(o.amount) AS s, AVG(o.amount) AS m, COUNT(DISTINCT o.user_key) AS p FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.device",
    "two keys": "SELECT o.region, upper(c.device) AS d, SUM(o.amount) AS s, COUNT_IF(o.status = 'paid') AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY o.region, upper(c.device)",
    "filter": "SELECT c.device, SUM(o.amount) FILTER (WHERE o.status = 'paid') AS s FROM orders o JOIN clicks c ON c.user_key = o.user_key WHERE o.region <> 'north' GROUP BY c.device",
    "moments": "SELECT c.device, STDDEV(o.amount) AS d FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.device",
    "no key": "SELECT o.region, COUNT(*) AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY o.region",
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATED)
def test_table_with_several_rows_per_person_is_joined_with_the_rows_per_person(name: str) -> None:
    sql = REPEATED[name]
    for catalog in (LOW, with_unique("clicks", "user_key", "device")):
        text = check_sql(sql, catalog).sql
        assert "GROUP BY " in text[text.index("AS `__cr_q`") : text.index("FROM `__cr_rows1`" if "__cr_rows1" in text else "AS `__cr_r`")]
    data, catalog = populate(3, 900), LOW if name == "moments" else with_floor(1)
    with duckdb.connect() as connection:  # equal rows count twice
        create(connection, GUARDED, {**data, "clicks": [*data["clicks"], *data["clicks"][::2]]})
        assert same_rows(run_verdict(connection, check_sql(sql, catalog)), run(connection, sql), ordered=False)


# -- moments ----------------------------------------------------------------------------------------------------------

MOMENTS = "SELECT STDDEV(amount) AS d, VAR_POP(amount) AS v, AVG(amount) AS m FROM orders"


@pytest.mark.parametrize(
    "amount",
    [
        pytest.param(lambda row: 0.1, id="constant"),
        pytest.param(lambda row: 1.7e9 + row[4], id="far from zero"),
        pytest.param(lambda row: None if row[0] % 3 else row[4] ** 2, id="missing"),
        pytest.param(lambda row: 1e6 * row[4] if row[0] == 7 else row[4], id="one large value"),
        pytest.param(lambda row: None, id="none"),
    ],
)
def test_moments_of_persons_make_those_of_the_rows(amount: Callable[[Row], object]) -> None:
    data = populate(5, 300)
    data["orders"] = [(*row[:4], amount(row), *row[5:]) for row in data["orders"]]
    with duckdb.connect() as connection:
        create(connection, LOW, data)
        text = check_sql(MOMENTS, LOW).sql
        found = run(connection, text[: text.index("HAVING")] + ") AS `__cr_g`")
        expected = run(connection, MOMENTS)
    if amount(data["orders"][0]) == 0.1:
        assert found[0][:2] == (0.0, 0.0)
    elif None in expected[0]:
        assert found == expected
    else:
        assert found == [pytest.approx(expected[0], rel=1e-7)]  # a value far from zero has no more digits


@pytest.mark.parametrize(("different", "shown"), [(0, True), (1, False), (4, False), (5, True)])
def test_sums_are_shown_if_those_of_no_or_enough_persons_differ(different: int, shown: bool) -> None:
    """The values of every person differ, but most persons have the same sum of both."""
    orders: list[Row] = []
    for number in range(20):
        for amount, discount in ((3.0, 7.0), (7.0, 3.0 + (number < different))):
            orders.append((len(orders), f"u{number}", "north", "paid", amount, discount, 30, "2024-01-01", ""))
    with duckdb.connect() as connection:
        create(connection, GUARDED, {"orders": orders})
        for sql in ("SELECT SUM(amount) AS s, SUM(discount) AS d FROM orders", "SELECT AVG(amount) - AVG(discount) AS d FROM orders"):
            assert bool(run_verdict(connection, check_sql(sql, GUARDED))) == shown


@pytest.mark.parametrize(("different", "shown"), [(0, True), (1, False), (4, False), (5, True)])
@pytest.mark.parametrize("where", ["", " FILTER (WHERE status = 'paid')"])
def test_counts_are_shown_if_those_of_no_or_enough_persons_differ(where: str, different: int, shown: bool) -> None:
    """The rows of every person differ, but most persons have as many amounts as discounts."""
    orders: list[Row] = []
    for number in range(20):
        for status in ("paid", "open"):
            for amount, discount in ((3.0, None), (None, 7.0 if number >= different else None)):
                orders.append((len(orders), f"u{number}", "north", status, amount, discount, 30, "2024-01-01", ""))
    with duckdb.connect() as connection:
        create(connection, GUARDED, {"orders": orders})
        sql = f"SELECT COUNT(amount){where} AS a, COUNT(discount){where} AS d, COUNT(order_id) AS n FROM orders"
        assert bool(run_verdict(connection, check_sql(sql, GUARDED))) == shown


# -- rows that joins repeat -------------------------------------------------------------------------------------------

_REPEATED = "users u JOIN events e ON u.uid = e.uid"
_FIRST = "(SELECT uid, DATE_TRUNC('MONTH', MIN(day)) AS first_month FROM events GROUP BY uid) f"


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT e.kind, SUM(u.income) AS s FROM {_REPEATED} WHERE u.city = 'Oslo' AND (e.kind = 'view' OR e.kind = 'buy') GROUP BY e.kind",
        f"SELECT e.kind, u.city, SUM(u.income) AS s FROM {_REPEATED} GROUP BY e.kind, u.city",
        f"SELECT e.kind, SUM(e.cost) AS s FROM {_REPEATED} WHERE u.city = 'Oslo' OR e.kind = 'view' GROUP BY e.kind",
        f"SELECT e.kind, COUNT(DISTINCT u.uid) AS n FROM {_REPEATED} WHERE u.city = 'Oslo' OR e.kind = 'view' GROUP BY e.kind",
        f"SELECT e.kind, SUM(u.income) AS s FROM {_REPEATED} WHERE e.day BETWEEN u.born AND u.born + INTERVAL 7 DAY GROUP BY e.kind",
        f"SELECT e.kind, SUM(u.income) AS s FROM {_REPEATED} WHERE DATEDIFF(e.day, CAST(u.born AS TIMESTAMP)) < 7 GROUP BY e.kind",
        f"SELECT MONTHS_BETWEEN(e.day, f.first_month) AS m, SUM(u.income) AS s FROM {_REPEATED} JOIN {_FIRST} ON f.uid = u.uid GROUP BY 1",
        "SELECT a.kind, SUM(b.cost) AS s FROM events a JOIN events b ON a.uid = b.uid AND a.kind < b.kind GROUP BY a.kind",
        f"SELECT e.kind, SUM(u.income) AS s FROM {_REPEATED} JOIN own w ON w.uid = u.uid WHERE w.seg = 'A' GROUP BY e.kind",
        f"SELECT e.kind, SUM(u.income) AS s FROM {_REPEATED} WHERE u.uid IN (SELECT uid FROM own WHERE seg = 'A' OR w > 1) GROUP BY e.kind",
        "SELECT e.kind, SUM(t.income) AS s FROM (SELECT u.uid, MAX(u.income) AS income FROM users u JOIN events v ON u.uid = v.uid "
        "WHERE u.city = 'Oslo' OR v.kind = 'view' GROUP BY u.uid) t JOIN events e ON t.uid = e.uid GROUP BY e.kind",
        "SELECT e.kind, SUM(u.income) AS s FROM users u LEFT JOIN events e ON u.uid = e.uid AND e.kind <> 'buy' GROUP BY e.kind",
    ],
)
def test_one_column_chooses_rows_where_a_join_repeats_them(sql: str) -> None:
    verdict = check_sql(sql, JOINS)
    assert verdict.allowed, verdict.reasons
