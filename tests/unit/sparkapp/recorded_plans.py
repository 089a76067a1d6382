"""Analysed plans of Spark, recorded for tests that run without it.

Record them again after the gate writes another text, or with another version of Spark: ``python -m tests.unit.sparkapp.recorded_plans``.
``test_plan_on_spark.py`` compares them with the plans of Spark.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from cleanroom.sql import Catalog, check_sql, split_statements
from sparkapp.plan.tree import Node, tree
from tests.unit.sql.honest_floors import COMPANIES, HONEST
from tests.unit.sql.leaks import LEAKS
from tests.unit.sql.plan_attacks import MISTAKES, QUERIES, TEXTS
from tests.unit.sql.test_floors import ALLOWED_OVER_FLOORS
from tests.unit.sql.test_leaks import CATALOGS
from tests.unit.sql.world import GUARDED

FILE = Path(__file__).with_name("plans.json.gz")
VOLATILE = ("jvmId", "metadata", "qualifier", "origin", "resultId", "nonInheritableMetadataKeys", "explicitMetadata")


def rewritten(sql: str, catalog: Catalog) -> list[str]:
    """The segments of an accepted query as the gate renders them; empty if it is refused."""
    return [segment.sql for segment in check_sql(split_statements(sql), catalog).rewritten]


def mistakes() -> list[tuple[str, str]]:
    """Rewritten queries with a mistake, and the codes of their refusals."""
    found = []
    for query, code, replaced in MISTAKES:
        (text,) = rewritten(QUERIES[query], GUARDED)
        for old, new in replaced:
            assert old in text, (old, text)
            text = text.replace(old, new)
        found.append((text, code))
    return found


def accepted() -> dict[str, tuple[Catalog, list[str]]]:
    """By the name of a catalogue: the catalogue and rewritten queries over it that the check accepts."""
    guarded = [*QUERIES.values(), *(sql for sql, _ in ALLOWED_OVER_FLOORS.values())]
    leaks = [sql for items in LEAKS.values() for key, sql in items if key == "g"]
    sources = {"guarded": (GUARDED, guarded), "companies": (COMPANIES, HONEST), "leaks": (CATALOGS["g"], leaks)}
    return {name: (catalog, [text for sql in sqls for text in rewritten(sql, catalog)[-1:]]) for name, (catalog, sqls) in sources.items()}


def texts() -> dict[str, tuple[Catalog, list[str]]]:
    """All texts whose plans are recorded, by the name of their catalogue."""
    found = accepted()
    found["guarded"][1].extend([*(text for text, _ in mistakes()), *TEXTS])
    return found


@cache
def _recorded() -> dict[str, dict[str, Any]]:
    recorded: dict[str, dict[str, Any]] = json.loads(gzip.decompress(FILE.read_bytes()))
    return recorded


def recorded(catalog: str, text: str) -> Any:
    """The JSON of the recorded plan of a text."""
    assert text in _recorded()[catalog], f"record the plans again: {text}"
    return _recorded()[catalog][text]


def plan(catalog: str, text: str) -> Node:
    """The recorded plan of a text."""
    return tree(recorded(catalog, text))


def normalised(items: Any, numbers: dict[int, int] | None = None) -> Any:
    """The JSON of a plan without what differs between two readings of one text."""
    numbers = {} if numbers is None else numbers
    if isinstance(items, list):
        return [normalised(item, numbers) for item in items]
    if not isinstance(items, dict):
        return items
    if str(items.get("class")).endswith(".View"):
        items = {**items, "desc": {"identifier": items["desc"]["identifier"]}}
    out = {name: normalised(value, numbers) for name, value in items.items() if name not in VOLATILE}
    if str(items.get("product-class")).endswith("ExprId"):
        out["id"] = numbers.setdefault(int(items["id"]), len(numbers))
    return out


def read(frame: Any) -> Any:
    """The analysed plan of a frame of Spark, to be recorded."""
    return normalised(json.loads(frame._jdf.queryExecution().analyzed().toJSON()))


def main() -> None:
    """Record all plans."""
    from sparkapp.session import open_session
    from tests.unit.sql.test_on_spark import QUICK, load

    spark = open_session("record")
    for name, value in QUICK.items():
        spark.conf.set(name, value)
    spark.createDataFrame([], "user_key string, region string, amount double").createOrReplaceTempView("hidden")
    plans = {}
    for name, (catalog, found) in texts().items():
        load(spark, catalog, {})
        plans[name] = {text: read(spark.sql(text)) for text in dict.fromkeys(found)}
    FILE.write_bytes(gzip.compress(json.dumps(plans, separators=(",", ":"), sort_keys=True).encode(), mtime=0))
    spark.stop()


if __name__ == "__main__":
    main()
