"""Analysed plans of Spark, recorded for tests that run without it.

Record them again after the gate writes another text, or with another version of Spark: ``python -m tests.unit.sparkapp.recorded_plans``.
``test_plan_on_spark.py`` compares them with the plans of Spark.

In a merge of two branches that have both recorded plans, ``--merge :2: :3:`` (or the names of the branches) takes each text's plan from
either of them, without Spark.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cleanroom.sql import Catalog, check_sql, split_statements
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
    """By the name of a catalogue: the catalogue and rewritten queries of one segment over it, which the check accepts."""
    guarded = [*QUERIES.values(), *(sql for sql, _ in ALLOWED_OVER_FLOORS.values())]
    leaks = [sql for items in LEAKS.values() for key, sql in items if key == "g"]
    sources = {"guarded": guarded, "companies": HONEST, "leaks": leaks}
    single = {name: (catalog, [rewritten(sql, catalog) for sql in sources[name]]) for name, catalog in catalogs().items()}
    return {name: (catalog, [found[0] for found in parts if len(found) == 1]) for name, (catalog, parts) in single.items()}


def texts() -> dict[str, tuple[Catalog, list[str]]]:
    """All texts whose plans are recorded, by the name of their catalogue."""
    found = accepted()
    found["guarded"][1].extend([*(text for text, _ in mistakes()), *TEXTS])
    return found


@cache
def recorded() -> dict[str, Any]:
    """The recorded plans: ``accepted`` by the name of a catalogue, pairs of texts and plans; ``refused`` with codes."""
    found: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return found


def catalogs() -> dict[str, Catalog]:
    """The catalogues of the plans that are accepted."""
    return {"guarded": GUARDED, "companies": COMPANIES, "leaks": CATALOGS["g"]}


def normalised(items: Any, numbers: dict[int, int] | None = None) -> Any:
    """The JSON of a plan without what differs between two readings of one text."""
    numbers = {} if numbers is None else numbers
    if isinstance(items, list):
        return [normalised(item, numbers) for item in items]
    if not isinstance(items, dict):
        return items
    if str(items.get("class")).endswith(".View"):
        items = {**items, "desc": {"identifier": items["desc"]["identifier"]}}
    out = {name: normalised(value, numbers) for name, value in sorted(items.items()) if name not in VOLATILE}
    if str(items.get("product-class")).endswith("ExprId"):
        out["id"] = numbers.setdefault(int(items["id"]), len(numbers))
    table = "cteId" if "cteId" in items else "id" if str(items.get("class")).endswith(".CTERelationDef") else ""
    if table:  # Spark numbers all tables of a JVM
        out[table] = numbers.setdefault(-1 - int(items[table]), len(numbers))
    return out


def read(frame: Any) -> Any:
    """The analysed plan of a frame of Spark, to be recorded."""
    from sparkapp.plan_check import plan_text

    return normalised(json.loads(plan_text(frame)))


def record(spark: Any) -> None:
    """Record all plans."""
    from tests.unit.sql.test_on_spark import load

    spark.createDataFrame([], "user_key string, region string, amount double").createOrReplaceTempView("hidden")
    plans: dict[str, dict[str, Any]] = {}
    for name, (catalog, found) in texts().items():
        load(spark, catalog, {})
        plans[name] = {}
        for text in dict.fromkeys(found):
            plans[name][text] = read(spark.sql(text))
    write(plans)


def write(plans: dict[str, dict[str, Any]]) -> None:
    """Write the file, given the plan of each text of each catalogue."""
    found = {name: [[text, plans[name][text]] for text in dict.fromkeys(texts)] for name, (_, texts) in accepted().items()}
    refused = [[text, code, plans["guarded"][text]] for text, code in [*mistakes(), *TEXTS.items()]]
    content = json.dumps({"accepted": found, "refused": refused}, separators=(",", ":"), sort_keys=True)
    FILE.write_bytes(gzip.compress(content.encode(), mtime=0))


def merge(recordings: Iterable[bytes]) -> None:
    """Write the file from the plans of several recordings. The last one that has a text decides.

    Raises:
        SystemExit: No recording has a text.
    """
    plans: dict[str, dict[str, Any]] = {name: {} for name in catalogs()}
    for recording in recordings:
        found = json.loads(gzip.decompress(recording))
        for name, pairs in found["accepted"].items():
            plans[name].update(pairs)
        plans["guarded"].update((text, plan) for text, _, plan in found["refused"])
    missing = [text for name, (_, wanted) in texts().items() for text in wanted if text not in plans[name]]
    if missing:
        raise SystemExit(f"no recording has the plans of {len(missing)} texts, so record with Spark; the first one is:\n{missing[0]}")
    write(plans)


def main() -> None:
    """Start Spark and record all plans, or merge recordings."""
    parser = argparse.ArgumentParser(description="Record the analysed plans of Spark.")
    parser.add_argument("--merge", nargs="+", metavar="REVISION", help="take the plans from these revisions of the file, without Spark")
    if revisions := parser.parse_args().merge:
        files = [f"{name.removesuffix(':')}:./{FILE.name}" for name in revisions]
        merge(subprocess.run(["git", "show", file], check=True, capture_output=True, cwd=FILE.parent).stdout for file in files)
        return
    from sparkapp.session import open_session
    from tests.unit.sql.test_on_spark import QUICK

    spark = open_session("record")
    for name, value in QUICK.items():
        spark.conf.set(name, value)
    record(spark)
    spark.stop()


if __name__ == "__main__":
    main()
