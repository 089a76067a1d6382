"""Everyday clean-room queries pass with floors and lists of dimensions."""

from __future__ import annotations

import duckdb

from cleanroom.sql import Catalog, check_sql, split_statements
from tests.unit.sql.honest import TPCH
from tests.unit.sql.honest_floors import COMPANIES, HONEST
from tests.unit.sql.world import OPEN, create, run_verdict


def test_at_least_164_of_182_everyday_queries_pass_and_execute() -> None:
    passed = 0
    with duckdb.connect() as connection:
        create(connection, COMPANIES, {})
        for sql in HONEST:
            verdict = check_sql(split_statements(sql), COMPANIES)
            if verdict.allowed:
                passed += 1
                assert run_verdict(connection, verdict) == []
    assert len(HONEST) >= 182
    assert passed >= 164


def test_at_least_19_tpch_queries_pass_with_a_floor_on_customer() -> None:
    data = OPEN.model_dump(mode="json", by_alias=True)
    for view in data["views"]:
        if view["name"] == "customer":
            view["floors"] = [{"minGroupSize": 5, "identity": "c_custkey"}]
    catalog = Catalog.model_validate(data)
    assert sum(check_sql(split_statements(sql), catalog).allowed for sql in TPCH.values()) >= 19
