"""Leaks by steps per person, by unions, and by constants of the text; see :mod:`tests.unit.sql.leaks`.

In the catalogue ``void``, the person u17 is the only one with an amount among the void orders, has a tiny score and age, and the only
large value (whale). In ``ratings``, amounts are small whole numbers. In ``mail``, each person has an address, and u17 has no paid order. In
``bare``, the rows of u17 have no identity.
"""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

from itertools import product

_JOINED = "orders o JOIN weights w ON o.user_key = w.user_key"
_CLICKED = "orders o JOIN clicks c ON o.user_key = c.user_key"
_BOTH = "(SELECT status AS k, {0} AS x, user_key FROM orders UNION ALL SELECT device AS k, {1} AS x, user_key FROM clicks) t"


def _per_person(value: str, use: str, source: str = "orders o") -> str:
    return f"SELECT {use} AS s FROM (SELECT o.user_key, {value} AS x FROM {source} GROUP BY o.user_key) t"


LEAKS_OF_PARTS: dict[str, list[tuple[str, str]]] = {
    "powers by steps": [
        *(("ratings", _per_person(value, use)) for value, use in product(
            ("SUM(o.amount * o.amount * o.amount)", "AVG(o.amount * o.amount * o.amount)", "VAR_POP(o.amount * o.amount)", "KURTOSIS(o.amount)", "SKEWNESS(o.amount)", "MAX(o.amount * o.amount * o.amount)"),
            ("SUM(x)", "AVG(x)"),
        )),
        *(("ratings", _per_person("SUM(o.amount * o.amount)", use)) for use in ("SUM(x * x)", "STDDEV(x)", "VAR_POP(x)", "CORR(x, x)", "REGR_SXX(x, x)", "COVAR_POP(x, x)")),
        ("ratings", _per_person("STDDEV(o.amount)", "STDDEV(x)")),
        ("ratings", "SELECT SUM(a) AS a, SUM(b) AS b, SUM(c) AS c FROM (SELECT user_key, SUM(amount) AS a, SUM(amount * amount) AS b, SUM(amount * amount * amount) AS c FROM orders GROUP BY user_key) t"),
        ("ratings", "SELECT SUM(a * b) AS c FROM (SELECT user_key, SUM(amount) AS a, SUM(amount * amount) AS b FROM orders GROUP BY user_key) t"),
    ],
    "weights by steps": [
        *(("ratings", _per_person(value, use, source)) for (value, source), use in product(
            (("SUM(o.amount * w.w)", _JOINED), ("AVG(o.amount * w.w)", _JOINED), ("MAX(o.amount * w.w)", _JOINED), ("COVAR_POP(o.amount, w.w)", _JOINED), ("SUM(o.amount * c.spend)", _CLICKED), ("CORR(o.amount, c.spend)", _CLICKED)),
            ("SUM(x)", "AVG(x)"),
        )),
        ("ratings", f"WITH t AS (SELECT o.user_key, SUM(o.amount * w.w) AS x FROM {_JOINED} GROUP BY o.user_key) SELECT status, SUM(t.x) AS s FROM orders p JOIN t ON p.user_key = t.user_key GROUP BY status"),
        ("ratings", f"CREATE OR REPLACE TEMP VIEW t AS SELECT o.user_key, SUM(o.amount * w.w) AS x FROM {_JOINED} GROUP BY o.user_key; SELECT SUM(x) AS s FROM t"),
    ],
    "arrays made by the text": [
        *(("mail", f"SELECT tag, COUNT(DISTINCT o.user_key) AS n FROM orders o LATERAL VIEW EXPLODE({array}) t AS tag GROUP BY tag") for array in (
            "SPLIT(CASE o.status WHEN 'paid' THEN 'a,d' WHEN 'open' THEN 'b,d' ELSE 'a,b,c,d' END, ',')", "ARRAY(o.status, o.region)", "SPLIT(CONCAT(o.status, ',', o.region), ',')",
            "ARRAY('all', IF(o.status = 'paid', 'a', 'b'))", "SPLIT(REPLACE(o.status, 'paid', 'paid,all'), ',')", "SEQUENCE(1, LENGTH(o.status))", "ARRAY_DISTINCT(ARRAY(o.status))",
        )),
        ("mail", "SELECT tag, COUNT(DISTINCT user_key) AS n FROM (SELECT user_key, CONCAT(status, ',all') AS x FROM orders) o LATERAL VIEW EXPLODE(SPLIT(x, ',')) t AS tag GROUP BY tag"),
    ],
    "sums of unions that overflow": [
        ("void", "SELECT k, SUM(x) AS s FROM (SELECT status AS k, points AS x FROM orders UNION ALL SELECT 'void' AS k, p AS x FROM own) t GROUP BY k"),
        ("void", f"SELECT SUM(x) AS s FROM {_BOTH.format('points', 'big')}"),
        ("void", f"SELECT k, SUM(x) AS s FROM {_BOTH.format('points', 'big')} GROUP BY k"),
        ("void", f"SELECT SUM(x) FILTER (WHERE k = 'void') AS s FROM {_BOTH.format('points', 'big')}"),
        ("void", f"SELECT SUM(-x) AS s FROM {_BOTH.format('points', 'big')}"),
        ("void", f"SELECT SUM(y) AS s FROM (SELECT x AS y FROM {_BOTH.format('points', 'big')}) u"),
    ],
    "rounding": [
        *(("void", f"SELECT {use} AS s, COUNT(*) AS n FROM orders") for use in (
            "SUM(ROUND(age, -2))", "AVG(ROUND(age, -2))", "SUM(BROUND(age, -2))", "SUM(ROUND(age, 0 - 2))", "STDDEV(ROUND(age, -2))", "SUM(LEAST(age, NULL))",
        )),
    ],
    "columns behind literals": [
        *(("void", f"SELECT SUM(CASE WHEN region <> '{text}' THEN {value} END) AS s FROM orders") for text, value in product(
            ("`a`.`", "`", "x`.`y`.`"), ("discount + 1000", "amount * 0 + discount"),
        )),
    ],
}  # fmt: skip
