"""Leaks by sums of rows that a join repeats, and by several steps per person; see :mod:`tests.unit.sql.leaks`.

In the catalogue ``joins``, each user has an event of each kind. Only u17 lives in Bergen, and only u17's event of the kind buy has a cost.
The wages of all others are their incomes, but for a tiny part. ``own`` lists every user but u17.
"""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

import random
from itertools import product
from typing import Any

from cleanroom.sql import Catalog

JOINS = Catalog.model_validate(
    {
        "views": [
            {
                "name": "users",
                "columns": {"uid": "string", "city": "string", "income": "number", "opt": "number", "born": "date"},
                "floors": {"minGroupSize": 5, "identity": "uid", "dimensions": ["city", "born"]},
                "uniqueColumns": ["uid"],
            },
            {
                "name": "events",
                "columns": {"uid": "string", "kind": "string", "place": "string", "cost": "number", "day": "date"},
                "floors": {"minGroupSize": 5, "identity": "uid", "dimensions": ["kind", "place", "day"]},
            },
            {
                "name": "people",
                "columns": {"uid": "string", "town": "string", "wage": "number"},
                "floors": {"minGroupSize": 2, "identity": "uid", "dimensions": ["town"]},
            },
            {"name": "own", "columns": {"uid": "string", "seg": "string", "w": "number", "since": "date"}},
            {"name": "marks", "columns": {"uid": "string", "kind": "string", "label": "string"}},
            {"name": "maps", "columns": {"kind": "string", "city": "string", "label": "string"}},
            {"name": "mine", "columns": {"k": "string", "x": "number", "y": "number"}},
        ]
    }
)
KINDS = ("view", "click", "cart", "buy")


def rows_of_joins(target: float) -> dict[str, list[tuple[Any, ...]]]:
    """The data of the catalogue ``joins``; ``target`` is the income of u17, and the only cost of the kind buy."""
    rnd, people = random.Random(2), range(40)
    cities = ["Bergen" if n == 17 else "Oslo" if n % 2 else "Rome" for n in people]
    incomes = [target if n == 17 else float(rnd.randint(1, 999)) for n in people]
    chosen = {"view": (1,), "click": (0,), "cart": (0, 1)}
    return {
        "users": [(f"u{n}", cities[n], incomes[n], target if n == 17 else None, f"2024-01-{n % 28 + 1:02}") for n in people],
        "events": [
            (
                f"u{n}",
                kind,
                cities[n],
                (target if n == 17 else 0.0) if kind == "buy" else float(rnd.randint(100, 999)),
                f"2024-02-{index + 1:02}",
            )
            for n in people
            for index, kind in enumerate(KINDS)
        ],
        "people": [(f"u{n}", cities[n], 0.0 if n == 17 else incomes[n] + (n % 3 - 1) * 1e-9) for n in people],
        "own": [(f"u{n}", "A" if n % 2 else "B", 1.0, "2024-02-01" if n % 2 else "2024-02-02") for n in people if n != 17],
        "marks": [(f"u{n}", kind, kind) for n in people for kind in chosen if n % 2 in chosen[kind] and (n != 17 or kind == "cart")],
        "maps": [("cart", city, "all") for city in ("Oslo", "Rome", "Bergen")] + [("view", "Oslo", "a"), ("click", "Rome", "b")],
        "mine": [("x", -2 * target, 0.0)],
    }


_JOIN = "users u JOIN events e ON u.uid = e.uid"
_TWO = "e.kind IN ('cart', 'view')"
_KEYS = (
    "CASE WHEN e.kind = 'cart' THEN 'all' ELSE u.city END", "CASE e.kind WHEN 'cart' THEN 'all' ELSE e.place END", "IF(e.kind = 'cart', 'all', u.city)",
    "COALESCE(NULLIF(e.kind, 'view'), u.city)", "COALESCE(CASE WHEN e.kind = 'cart' THEN 'all' END, e.place)", "REPLACE(e.kind, 'view', u.city)",
    "NVL2(NULLIF(e.kind, 'view'), 'all', u.city)", "SPLIT_PART(CONCAT('cart,', e.place), ',', INT(e.kind = 'view') + 1)", "LEFT(u.city, IF(e.kind = 'view', 3, 0))",
)  # fmt: skip
_CHOSEN = (
    "e.kind = 'cart' OR (e.kind = 'view' AND u.city = 'Oslo') OR (e.kind = 'click' AND u.city = 'Rome')",
    "e.kind = 'cart' OR (e.kind = 'view' AND e.place = 'Oslo') OR (e.kind = 'click' AND e.place = 'Rome')",
    "e.kind <> 'buy' AND NOT (e.kind = 'view' AND u.city <> 'Oslo') AND NOT (e.kind = 'click' AND u.city <> 'Rome')",
    "CONCAT(e.kind, u.city) IN ('cartOslo', 'cartRome', 'cartBergen', 'viewOslo', 'clickRome')",
    "CASE e.kind WHEN 'cart' THEN TRUE WHEN 'view' THEN u.city = 'Oslo' WHEN 'click' THEN u.city = 'Rome' ELSE FALSE END",
    "INSTR(CASE e.kind WHEN 'cart' THEN 'Oslo Rome Bergen' WHEN 'view' THEN 'Oslo' WHEN 'click' THEN 'Rome' ELSE '' END, e.place) > 0",
    "e.place IN (CASE WHEN e.kind IN ('cart', 'view') THEN 'Oslo' END, CASE WHEN e.kind IN ('cart', 'click') THEN 'Rome' END, CASE WHEN e.kind = 'cart' THEN 'Bergen' END)",
    "u.born < CASE WHEN e.kind = 'cart' THEN DATE '2030-01-01' WHEN e.kind = 'view' THEN IF(u.city = 'Oslo', DATE '2030-01-01', DATE '2000-01-01') ELSE IF(u.city = 'Rome', DATE '2030-01-01', DATE '2000-01-01') END AND e.kind <> 'buy'",
    "CONCAT(e.day, u.city) IN ('2024-02-03Oslo', '2024-02-03Rome', '2024-02-03Bergen', '2024-02-01Oslo', '2024-02-02Rome')",
    "EXISTS (SELECT 1 FROM marks m WHERE m.uid = e.uid AND m.kind = e.kind)",
    "e.uid IN (SELECT m.uid FROM marks m WHERE m.kind = e.kind)",
    "(SELECT MAX(m.label) FROM marks m WHERE m.uid = u.uid AND m.kind = e.kind) IS NOT NULL",
    "EXISTS (SELECT 1 FROM maps m WHERE m.city = u.city AND m.kind = e.kind)",
)  # fmt: skip
_OF_EVENTS = [text.replace("e.", "") for text in _CHOSEN if "u." not in text and "SELECT" not in text]
_MEASURES = ("SUM(u.income)", "AVG(u.income) * COUNT(u.income)")
_PARTS = "{0} FILTER (WHERE kind = 'cart') AS a, {0} FILTER (WHERE kind = 'view' AND city = 'Oslo') AS b, {0} FILTER (WHERE kind = 'click' AND city = 'Rome') AS c"
_CASES = "SUM(CASE WHEN kind = 'cart' THEN x END) AS a, SUM(IF(kind = 'view' AND city = 'Oslo', x, 0)) AS b, SUM(CASE WHEN CONCAT(kind, city) = 'clickRome' THEN x ELSE 0 END) AS c"
_STEP = "(SELECT uid, SUM(cost) AS x FROM events{0} GROUP BY uid)"
_ROWS = "(SELECT u.uid, u.city, e.kind, u.income AS x FROM users u JOIN events e ON u.uid = e.uid) t"
_TOTALS = {
    "s": _STEP.format(""), "p": _STEP.format(" WHERE kind = 'view'"), "q": _STEP.format(" WHERE kind IN ('click', 'cart')"),
}  # fmt: skip
_THREE = f"{_TOTALS['s']} s JOIN {_TOTALS['p']} p ON s.uid = p.uid JOIN {_TOTALS['q']} q ON s.uid = q.uid"
_UNION = "(SELECT u.uid, u.income AS x, p.wage AS y FROM users u JOIN people p ON u.uid = p.uid UNION ALL SELECT k, x, y FROM mine) t"

LEAKS_OF_JOINS: dict[str, list[tuple[str, str]]] = {
    "totals next to parts": [
        *(("joins", f"SELECT {key} AS k, {sum} AS s FROM {_JOIN} WHERE {_TWO} GROUP BY 1") for key, sum in product(_KEYS, _MEASURES)),
        *(("joins", f"SELECT k, SUM(x) AS s FROM (SELECT u.uid, {key} AS k, u.income AS x FROM {_JOIN} WHERE {_TWO}) t GROUP BY k") for key in _KEYS),
        *(("joins", f"WITH t AS (SELECT uid, {key.replace('e.', '')} AS k FROM events WHERE kind IN ('cart', 'view')) SELECT k, SUM(u.income) AS s FROM users u JOIN t ON u.uid = t.uid GROUP BY k") for key in _KEYS if "u." not in key),
        *(("joins", f"SELECT k, SUM(x) AS s FROM (SELECT u.uid, {key} AS k, MAX(u.income) AS x FROM {_JOIN} WHERE {_TWO} GROUP BY u.uid, {key}) t GROUP BY k") for key in _KEYS),
        *(("joins", f"CREATE OR REPLACE TEMP VIEW t AS SELECT u.uid, {key} AS k, u.income AS x FROM {_JOIN} WHERE {_TWO}; SELECT k, AVG(x) * COUNT(*) AS s FROM t GROUP BY k") for key in _KEYS[:3]),
        ("joins", "SELECT e.k, SUM(u.income) AS s FROM users u JOIN (SELECT uid, kind, MAX(CASE WHEN kind = 'cart' THEN 'all' ELSE place END) AS k FROM events WHERE kind IN ('cart', 'view') GROUP BY uid, kind) e ON u.uid = e.uid GROUP BY e.k"),
        ("joins", "SELECT e.k, SUM(u.income) AS s FROM users u JOIN (SELECT uid, kind, MAX(place) FILTER (WHERE kind <> 'cart') AS k FROM events WHERE kind IN ('cart', 'view') GROUP BY uid, kind) e ON u.uid = e.uid GROUP BY e.k"),
        ("joins", "SELECT e.k, SUM(u.income) AS s FROM users u JOIN (SELECT uid, LAG(place) OVER (PARTITION BY uid ORDER BY kind) AS k FROM events WHERE kind IN ('cart', 'view')) e ON u.uid = e.uid GROUP BY e.k"),
        ("joins", "SELECT u.city AS k, SUM(p.wage) AS s, COUNT(u.opt) AS n FROM events e JOIN people p ON p.uid = e.uid LEFT JOIN users u ON u.uid = e.uid AND e.kind <> 'cart' WHERE e.kind IN ('cart', 'view') GROUP BY 1"),
        *(("joins", f"SELECT w.seg AS k, {sum} AS s FROM {_JOIN} LEFT JOIN own w ON w.uid = e.uid AND e.kind <> 'cart' WHERE {_TWO} GROUP BY 1") for sum in _MEASURES),
        ("joins", f"SELECT f.place AS k, SUM(u.income) AS s FROM {_JOIN} LEFT JOIN (SELECT uid, place, kind FROM events WHERE kind <> 'cart') f ON f.uid = e.uid AND f.kind = e.kind WHERE {_TWO} GROUP BY 1"),
        ("joins", "SELECT t.k, SUM(u.income) AS s FROM users u JOIN (SELECT uid, CASE kind WHEN 'view' THEN 'Oslo' WHEN 'click' THEN 'Rome' ELSE 'Bergen' END AS k FROM events UNION ALL SELECT uid, town AS k FROM people) t ON u.uid = t.uid GROUP BY t.k"),
    ],
    "groups chosen by several columns": [
        *(("joins", f"SELECT e.{key} AS k, {sum} AS s FROM {_JOIN} WHERE {chosen} GROUP BY 1") for chosen, key, sum in product(_CHOSEN, ("kind", "day"), _MEASURES)),
        *(("joins", f"SELECT e.kind, SUM(u.income) AS s FROM users u JOIN events e ON u.uid = e.uid AND ({chosen}) GROUP BY e.kind") for chosen in _CHOSEN if "SELECT" not in chosen),
        *(("joins", f"SELECT e.kind, SUM(u.income) AS s FROM users u LEFT JOIN events e ON u.uid = e.uid AND ({chosen}) GROUP BY e.kind") for chosen in _CHOSEN if "SELECT" not in chosen),
        *(("joins", f"SELECT e.kind, SUM(u.income) AS s FROM users u JOIN (SELECT uid, kind FROM events WHERE {chosen}) e ON u.uid = e.uid GROUP BY e.kind") for chosen in _OF_EVENTS),
        *(("joins", f"WITH t AS (SELECT u.uid, e.kind, u.income AS x FROM {_JOIN} WHERE {chosen}) SELECT kind, SUM(x) AS s FROM t GROUP BY kind") for chosen in _CHOSEN),
        *(("joins", f"SELECT e.kind, SUM(t.x) AS s FROM {_STEP.format('')} t JOIN events e ON t.uid = e.uid JOIN users u ON u.uid = t.uid WHERE {chosen} GROUP BY e.kind") for chosen in _CHOSEN[:2]),
        ("joins", "SELECT e.kind, SUM(u.income) AS s FROM users u JOIN (SELECT uid, kind FROM events GROUP BY uid, kind HAVING kind = 'cart' OR (kind = 'view' AND MAX(place) = 'Oslo') OR (kind = 'click' AND MAX(place) = 'Rome')) e ON u.uid = e.uid GROUP BY e.kind"),
        ("joins", f"SELECT e.kind, SUM(u.income) AS s FROM users u JOIN (SELECT * FROM events QUALIFY ROW_NUMBER() OVER (PARTITION BY uid, kind ORDER BY day) = 1 AND ({_OF_EVENTS[0]})) e ON u.uid = e.uid GROUP BY e.kind"),
        *(("joins", f"SELECT m.label, SUM(u.income) AS s FROM {_JOIN} JOIN marks m ON m.uid = {alias}.uid AND m.kind = e.kind GROUP BY m.label") for alias in "ue"),
        ("joins", "SELECT e.label, SUM(u.income) AS s FROM users u JOIN (SELECT v.uid, m.label FROM events v JOIN marks m ON m.uid = v.uid AND m.kind = v.kind) e ON u.uid = e.uid GROUP BY e.label"),
        ("joins", f"SELECT e.kind, SUM(u.income) AS s FROM {_JOIN} JOIN marks m USING (uid) WHERE m.kind = e.kind GROUP BY e.kind"),
        ("joins", f"SELECT m.label, SUM(u.income) AS s FROM {_JOIN} JOIN maps m ON m.city = u.city AND m.kind = e.kind GROUP BY m.label"),
        ("joins", f"SELECT m.label, SUM(u.income) AS s FROM {_JOIN} JOIN maps m ON m.city = e.place AND m.kind = e.kind GROUP BY m.label"),
        ("joins", f"SELECT e.day, SUM(u.income) AS s FROM {_JOIN} JOIN own w ON w.uid = u.uid WHERE e.day BETWEEN w.since AND DATE_ADD(w.since, 1) GROUP BY e.day"),
    ],
    "parts chosen by several columns": [
        *(("joins", f"SELECT {_PARTS.format(sum)} FROM {_ROWS}") for sum in ("SUM(x)", "COUNT(x) * AVG(x)")),
        ("joins", f"SELECT {_CASES} FROM {_ROWS}"),
        ("joins", f"SELECT {_PARTS.format('SUM(x)')} FROM (SELECT * FROM {_ROWS}) v"),
        ("joins", f"WITH v AS (SELECT uid, kind, city, MAX(x) AS x FROM {_ROWS} GROUP BY uid, kind, city) SELECT {_PARTS.format('SUM(x)')} FROM v"),
        ("joins", f"SELECT SUM(x) FILTER (WHERE k = 'all') AS a, SUM(x) FILTER (WHERE k = 'Oslo') AS b, SUM(x) FILTER (WHERE k = 'Rome') AS c FROM (SELECT u.uid, {_KEYS[0]} AS k, u.income AS x FROM {_JOIN} WHERE {_TWO}) t"),
        ("joins", f"SELECT SUM(x) FILTER (WHERE a) AS a, SUM(x) FILTER (WHERE b) AS b, SUM(x) FILTER (WHERE c) AS c FROM (SELECT u.uid, e.kind = 'cart' AS a, (e.kind = 'view' AND u.city = 'Oslo') AS b, (e.kind = 'click' AND u.city = 'Rome') AS c, u.income AS x FROM {_JOIN}) t"),
    ],
    "sums of several steps": [
        *(("joins", f"SELECT {use} FROM {_THREE}") for use in (
            "SUM(s.x) AS a, SUM(p.x) AS b, SUM(q.x) AS c", "SUM(s.x) - SUM(p.x) - SUM(q.x) AS d", "COUNT(*) * (AVG(s.x) - AVG(p.x) - AVG(q.x)) AS d", "SUM(s.x) - SUM(p.x) AS a, SUM(q.x) AS c",
        )),
        ("joins", f"SELECT SUM(a) - SUM(b) - SUM(c) AS d FROM (SELECT s.uid, s.x AS a, p.x AS b, q.x AS c FROM {_THREE}) j"),
        ("joins", f"WITH s AS {_TOTALS['s']}, p AS {_TOTALS['p']}, q AS {_TOTALS['q']} SELECT SUM(s.x) AS a, SUM(p.x) AS b, SUM(q.x) AS c FROM s JOIN p USING (uid) JOIN q ON q.uid = s.uid"),
        ("joins", f"SELECT SUM(s.x) AS a FROM {_THREE} HAVING SUM(s.x) - SUM(p.x) - SUM(q.x) > 7000"),
        ("joins", "SELECT SUM(s.x) AS a, SUM(p.cost) AS b, SUM(q.x) AS c FROM " + _THREE.replace(_TOTALS["p"], "(SELECT uid, cost FROM events WHERE kind = 'view')")),
        ("joins", "SELECT SUM(a.cost) AS a, SUM(b.cost) AS b, SUM(c.cost) AS c FROM events a JOIN events b ON a.uid = b.uid JOIN events c ON a.uid = c.uid"),
    ],
    "multiples of sums": [
        *(("joins", f"SELECT {use} FROM events a JOIN events b ON a.uid = b.uid WHERE a.kind <> 'buy'") for use in (
            "SUM(a.cost) / 4 AS s, SUM(b.cost) / 3 AS t", "COUNT(*) * AVG(a.cost) / 4 AS s, SUM(b.cost) / 3 AS t", "SUM(b.cost) / 3 - SUM(a.cost) / 4 AS d",
        )),
        ("joins", "SELECT SUM(x) / 4 AS s, SUM(y) / 3 AS t FROM (SELECT a.uid, SUM(a.cost) AS x, SUM(b.cost) AS y FROM events a JOIN events b ON a.uid = b.uid WHERE a.kind <> 'buy' GROUP BY a.uid) t"),
        ("joins", "SELECT SUM(a) / 4 AS s, SUM(b) / 3 AS t FROM (SELECT a.uid, a.cost AS a, b.cost AS b FROM events a JOIN events b ON a.uid = b.uid WHERE a.kind <> 'buy') t"),
        ("joins", "SELECT SUM(s.x) / 4 AS s, SUM(p.x) AS t FROM (SELECT a.uid, SUM(a.cost) AS x FROM events a JOIN events b ON a.uid = b.uid GROUP BY a.uid) s JOIN (SELECT uid, SUM(cost) AS x FROM events WHERE kind <> 'buy' GROUP BY uid) p ON s.uid = p.uid"),
        ("joins", "SELECT SUM(s.x) * 4 AS s, SUM(p.x) * 3 AS t FROM (SELECT uid, AVG(cost) AS x FROM events GROUP BY uid) s JOIN (SELECT uid, AVG(cost) AS x FROM events WHERE kind <> 'buy' GROUP BY uid) p ON s.uid = p.uid"),
    ],
    "dominated differences of unions": [
        *(("joins", f"SELECT {use} FROM {_UNION}") for use in ("SUM(x) AS a, SUM(y) AS b", "SUM(x) - SUM(y) AS d", "COUNT(*) * (AVG(x) - AVG(y)) AS d", "SUM(x) FILTER (WHERE 1 = 1) AS a, SUM(y) AS b")),
        ("joins", f"SELECT SUM(x) AS a, SUM(y) AS b FROM (SELECT * FROM {_UNION}) v"),
        ("joins", f"WITH v AS (SELECT * FROM {_UNION}) SELECT SUM(x) - SUM(y) AS d, COUNT(*) AS n FROM v"),
    ],
    "counts as factors": [
        *(("joins", f"SELECT SUM({factors}) AS s FROM {source}") for factors, source in product(
            ("w.w * t.n", "t.n * w.w", "CAST(t.n AS DOUBLE) * w.w"),
            ("own w JOIN (SELECT uid, COUNT(*) AS n FROM events WHERE place = 'Oslo' OR kind = 'view' GROUP BY uid) t ON w.uid = t.uid", "own w JOIN (SELECT uid, COUNT(cost) AS n FROM events GROUP BY uid) t ON w.uid = t.uid"),
        )),
    ],
}  # fmt: skip
