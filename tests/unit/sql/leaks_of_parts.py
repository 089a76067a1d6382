"""Leaks by combinations of several numbers, of steps per person, and of the parts of unions; see :mod:`tests.unit.sql.leaks`.

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
_OWN = "(SELECT status AS k, {0} AS x FROM orders UNION ALL SELECT 'void' AS k, x FROM own) t"
_FLAGS = "(SELECT user_key, SUM(amount) AS y, MAX(CASE WHEN status = 'paid' THEN 1 ELSE 0 END) AS f, MAX(CASE WHEN status = 'open' THEN 1 ELSE 0 END) AS g, MIN(status) AS m FROM orders GROUP BY user_key) t"


def _per_person(value: str, use: str, source: str = "orders o") -> str:
    return f"SELECT {use} AS s FROM (SELECT o.user_key, {value} AS x FROM {source} GROUP BY o.user_key) t"


LEAKS_OF_PARTS: dict[str, list[tuple[str, str]]] = {
    "sums of parts": [
        ("void", "SELECT SUM(amount) AS t, SUM(amount) FILTER (WHERE status = 'paid') AS a, SUM(amount) FILTER (WHERE status = 'open') AS b FROM orders"),
        ("void", "SELECT SUM(amount) AS t, SUM(CASE WHEN status = 'paid' THEN amount END) AS a, SUM(CASE WHEN status = 'open' THEN amount ELSE 0 END) AS b FROM orders"),
        ("void", "SELECT SUM(amount) - SUM(IF(status = 'paid', amount, 0)) - SUM(IF(status = 'open', amount, 0)) AS b FROM orders"),
        ("void", "SELECT region, SUM(amount) - SUM(amount) FILTER (WHERE status = 'paid') - SUM(amount) FILTER (WHERE status = 'open') AS b FROM orders GROUP BY region"),
        ("void", "SELECT SUM(amount) AS t, SUM(CASE WHEN status IN ('paid', 'open') THEN amount END) AS a FROM orders"),
        ("void", "SELECT SUM(amount) AS t, SUM(CASE WHEN status < 'void' THEN amount END) AS a, COUNT(*) AS n FROM orders"),
        ("void", "SELECT SUM(CASE status WHEN 'void' THEN amount WHEN 'paid' THEN amount * 1000 ELSE amount * 1000 END) AS b FROM orders"),
        ("void", "SELECT SUM(CASE WHEN status = 'paid' THEN amount WHEN status = 'open' THEN -amount ELSE amount END) AS t, SUM(CASE WHEN status = 'paid' THEN amount END) AS a, SUM(CASE WHEN status = 'open' THEN amount END) AS b FROM orders"),
        ("void", "SELECT SUM(CASE WHEN status = 'paid' THEN amount * 2 ELSE amount END) AS t, SUM(CASE WHEN status = 'paid' THEN amount * 2 WHEN status = 'open' THEN amount END) AS a FROM orders"),
        ("void", "SELECT SUM(amount) * 1.0 AS t, SUM(amount * CASE WHEN status = 'void' THEN 0 ELSE 1 END) AS a FROM orders"),
        ("void", "SELECT AVG(amount) * COUNT(*) AS t, AVG(amount) FILTER (WHERE status = 'paid') * COUNT_IF(status = 'paid') AS a, AVG(amount) FILTER (WHERE status = 'open') * COUNT_IF(status = 'open') AS b FROM orders"),
        ("void", "SELECT TRY_DIVIDE(SUM(amount), 1) AS t, SUM(amount) FILTER (WHERE status = 'paid') AS a, SUM(amount) FILTER (WHERE status = 'open') AS b FROM orders"),
        ("void", "SELECT region, SUM(amount) AS t, SUM(amount) FILTER (WHERE status = 'paid') AS a FROM orders GROUP BY region HAVING SUM(amount) FILTER (WHERE status = 'open') > 0"),
        ("void", "SELECT region, SUM(amount) AS t, SUM(amount) FILTER (WHERE status = 'paid') AS a FROM orders GROUP BY region ORDER BY SUM(amount) FILTER (WHERE status = 'open')"),
        ("void", f"SELECT SUM(y) AS s, SUM(CASE WHEN f = 1 THEN y END) AS a, SUM(CASE WHEN g = 1 THEN y END) AS b FROM {_FLAGS}"),
        ("void", f"SELECT SUM(y) AS s, SUM(y) FILTER (WHERE m = 'paid') AS a, SUM(y) FILTER (WHERE m = 'open') AS b FROM {_FLAGS}"),
        ("void", f"SELECT SUM(y) AS s, SUM(CASE WHEN f = 1 OR g = 1 THEN y END) AS a FROM {_FLAGS}"),
        ("void", f"SELECT SUM(y) AS s, SUM(y * f) AS a, SUM(y * g) AS b FROM {_FLAGS}"),
        ("void", "SELECT SUM(amount) AS t, SUM(CASE WHEN status = 'paid' THEN amount END) AS a, SUM(CASE WHEN status = 'open' THEN twin END) AS b FROM orders"),
        ("void", f"SELECT SUM(CASE WHEN o.status = 'void' THEN o.amount ELSE w.w END) AS s, SUM(CASE WHEN o.status <> 'void' THEN w.w END) AS t FROM {_JOINED}"),
        ("void", "SELECT SUM(IF(status = 'void', amount, 0)) AS s FROM orders"),
        ("void", "SELECT SUM(IF(status = 'void', amount, 300)) AS s, 300 * COUNT_IF(status <> 'void') AS n FROM orders"),
        ("void", "SELECT SUM(CASE WHEN status = 'void' THEN amount ELSE discount END) AS s, SUM(discount) AS d FROM orders"),
        ("void", f"SELECT SUM(o.amount) AS t, SUM(CASE WHEN c.device IS NULL THEN o.amount END) AS a, SUM(CASE WHEN c.device = 'web' THEN o.amount END) AS b FROM {_CLICKED.replace('JOIN', 'LEFT JOIN')}"),
        ("void", "SELECT SUM(CASE WHEN region <> '`a`.`' THEN amount END) AS t, SUM(CASE WHEN status = 'paid' THEN amount END) AS a, SUM(CASE WHEN status = 'open' THEN amount END) AS b FROM orders"),
        ("void", "WITH t AS (SELECT status AS k, amount AS x FROM orders) SELECT SUM(x) AS t, SUM(x) FILTER (WHERE k = 'paid') AS a, SUM(x) FILTER (WHERE k = 'open') AS b FROM t"),
        ("void", "SELECT SUM(amount + 0) AS t, SUM(amount) FILTER (WHERE status LIKE 'p%') AS a, SUM(amount) FILTER (WHERE status LIKE 'o%') AS b FROM orders"),
        ("void", "SELECT SUM(amount) AS t, SUM(amount) FILTER (WHERE CASE status WHEN 'void' THEN FALSE ELSE TRUE END) AS a FROM orders"),
    ],
    "counts of parts": [
        ("void", "SELECT COUNT(part) AS t, COUNT(part) FILTER (WHERE status = 'paid') AS a, COUNT(part) FILTER (WHERE status = 'open') AS b FROM orders"),
        ("void", "SELECT COUNT(part) AS t, COUNT(CASE WHEN status = 'paid' THEN part END) AS a, COUNT(CASE WHEN status = 'open' THEN part END) AS b FROM orders"),
        ("void", "SELECT COUNT(part) - COUNT(part) FILTER (WHERE status <> 'void') AS a FROM orders"),
        ("void", "SELECT COUNT_IF(status = 'void') - (COUNT(*) - COUNT(part)) AS a, COUNT(part) FILTER (WHERE status <> 'void') AS b, COUNT_IF(status <> 'void') AS c FROM orders"),
        ("void", "SELECT REGR_COUNT(part, part) AS t, COUNT(part) FILTER (WHERE status = 'paid') AS a, COUNT(part) FILTER (WHERE status = 'open') AS b FROM orders"),
        ("void", "SELECT SUM(part) / AVG(part) AS t, COUNT(part) FILTER (WHERE status = 'paid') AS a, COUNT(part) FILTER (WHERE status = 'open') AS b FROM orders"),
        ("void", "SELECT COUNT(part + order_id) AS t, COUNT(part) FILTER (WHERE status = 'paid') AS a, COUNT(part) FILTER (WHERE status = 'open') AS b FROM orders"),
    ],
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
    "one person in a union": [
        *(("void", f"SELECT {use} AS s FROM {source}") for use, source in product(
            ("SUM(x)", "AVG(x)", "STDDEV(x)", "SUM(x) / COUNT(*)"),
            (_OWN.format("whale"), _BOTH.format("whale", "spend")),
        )),
        ("void", f"SELECT k, SUM(x) AS s FROM {_OWN.format('whale')} WHERE k = 'void' GROUP BY k"),
        ("void", f"SELECT SUM(x) FILTER (WHERE k = 'void') AS s FROM {_OWN.format('whale')}"),
        ("void", "SELECT k, SUM(x) AS s FROM (SELECT status AS k, points AS x FROM orders UNION ALL SELECT 'void' AS k, p AS x FROM own) t GROUP BY k"),
        ("void", f"SELECT SUM(x) AS s FROM {_BOTH.format('points', 'big')}"),
    ],
    "persons by other values": [
        *(("mail", f"SELECT {all_of} AS a, {some_of} AS b FROM {_JOINED}") for all_of, some_of in product(
            ("COUNT(DISTINCT o.email)", "COUNT(DISTINCT w.alias)", "APPROX_COUNT_DISTINCT(o.email)", "COUNT(DISTINCT o.email, o.region)"),
            ("COUNT(DISTINCT CASE WHEN o.status = 'paid' THEN o.email END)", "COUNT(DISTINCT w.alias) FILTER (WHERE o.status = 'paid')", "COUNT(DISTINCT IF(o.status = 'paid', o.user_key, NULL))"),
        )),
        ("mail", "SELECT COUNT(DISTINCT email) - COUNT(DISTINCT CASE WHEN status = 'paid' THEN email END) AS b FROM orders"),
        ("mail", "SELECT COUNT(DISTINCT user_key) AS a, COUNT(DISTINCT CASE WHEN status = 'paid' THEN user_key END) AS b, COUNT(DISTINCT CASE WHEN status = 'lost' THEN user_key END) AS c FROM orders"),
    ],
    "limits and rounding": [
        *(("void", f"SELECT {use} AS s, COUNT(*) AS n FROM orders") for use in (
            "SUM(LEAST(age, 30))", "AVG(LEAST(age, 30))", "SUM(LEAST(30, age))", "SUM(LEAST(age, 31, 30))", "STDDEV(LEAST(age, 30))", "SUM(LEAST(score, 0.5))",
            "SUM(LEAST(age, 30) + 1)", "SUM(LEAST(age, 30) / 30)", "SUM(ROUND(score))", "SUM(ROUND(age, -2))", "AVG(ROUND(score))", "SUM(ROUND(score) * 10)",
            "SUM(CASE WHEN region = 'north' THEN LEAST(age, 30) END)", "SUM(LEAST(age, 30)) FILTER (WHERE status = 'void')", "SUM(LEAST(age, NULL))",
        )),
        ("twins", "SELECT SUM(LEAST(optional, 1000000)) AS s FROM orders"),
        ("void", "SELECT SUM(LEAST(x, 30)) AS s, COUNT(*) AS n FROM (SELECT user_key, SUM(age) AS x FROM orders GROUP BY user_key) t"),
        ("void", "SELECT SUM(x) AS s, COUNT(*) AS n FROM (SELECT user_key, SUM(LEAST(age, 30)) AS x FROM orders GROUP BY user_key) t"),
        ("void", "SELECT SUM(x) AS s, COUNT(*) AS n FROM (SELECT user_key, LEAST(age, 30) AS x FROM orders) t"),
        ("void", "SELECT SUM(x) AS s, COUNT(*) AS n FROM (SELECT user_key, MAX(ROUND(score)) AS x FROM orders GROUP BY user_key) t"),
    ],
    "arrays made by the text": [
        *(("mail", f"SELECT tag, COUNT(DISTINCT o.user_key) AS n FROM orders o LATERAL VIEW EXPLODE({array}) t AS tag GROUP BY tag") for array in (
            "SPLIT(CASE o.status WHEN 'paid' THEN 'a,d' WHEN 'open' THEN 'b,d' ELSE 'a,b,c,d' END, ',')", "ARRAY(o.status, o.region)", "SPLIT(CONCAT(o.status, ',', o.region), ',')",
            "ARRAY('all', IF(o.status = 'paid', 'a', 'b'))", "SPLIT(REPLACE(o.status, 'paid', 'paid,all'), ',')", "SEQUENCE(1, LENGTH(o.status))", "ARRAY_DISTINCT(ARRAY(o.status))",
        )),
        ("mail", "SELECT tag, COUNT(DISTINCT user_key) AS n FROM (SELECT user_key, CONCAT(status, ',all') AS x FROM orders) o LATERAL VIEW EXPLODE(SPLIT(x, ',')) t AS tag GROUP BY tag"),
    ],
    "persons with more rows": [
        ("often", "SELECT c.campaign, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign"),
        ("often", "SELECT c.campaign, AVG(o.amount) * COUNT(*) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign"),
        ("often", "SELECT c.campaign, SUM(o.amount) AS s FROM orders o LEFT JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign"),
        ("often", "SELECT c.campaign, SUM(t.s) AS s FROM (SELECT user_key, SUM(amount) AS s FROM orders GROUP BY user_key) t JOIN clicks c ON t.user_key = c.user_key GROUP BY c.campaign"),
        ("often", "SELECT k, SUM(s) AS s FROM (SELECT o.user_key, c.campaign AS k, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY o.user_key, c.campaign) t GROUP BY k"),
        ("often", "WITH j AS (SELECT o.amount, c.campaign FROM orders o JOIN clicks c USING (user_key)) SELECT campaign, SUM(amount) AS s FROM j GROUP BY campaign"),
        ("often", "SELECT c.campaign = 'all' AS k, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign = 'all'"),
        ("often", "SELECT c.campaign, o.region, SUM(o.amount) AS s, COUNT(*) AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign, o.region"),
    ],
    "rows without an identity": [
        ("bare", "SELECT SUM(amount) AS a, SUM(twin) AS b FROM orders"),
        ("bare", "SELECT status, SUM(amount) AS a, SUM(twin) AS b FROM orders GROUP BY status"),
        ("bare", "SELECT SUM(x) AS a, SUM(y) AS b FROM (SELECT user_key, SUM(amount) AS x, SUM(twin) AS y FROM orders GROUP BY user_key) t"),
        ("bare", "SELECT SUM(o.amount) AS a, SUM(o.twin) AS b FROM orders o LEFT JOIN clicks c ON o.user_key = c.user_key"),
        ("bare", "SELECT SUM(o.amount) AS a, SUM(o.twin) AS b FROM own r LEFT JOIN orders o ON r.region = o.region"),
        ("bare", "SELECT SUM(o.amount) AS a, SUM(o.twin) AS b FROM orders o RIGHT JOIN own r ON r.region = o.region"),
        ("bare", "SELECT SUM(o.amount) AS a, SUM(o.twin) AS b FROM orders o JOIN own r ON r.region = o.region"),
        ("bare", "SELECT SUM(x) AS a, SUM(y) AS b FROM (SELECT amount AS x, twin AS y FROM orders UNION ALL SELECT spend AS x, spend AS y FROM clicks) t"),
        ("bare", "WITH t AS (SELECT * FROM orders) SELECT SUM(amount) AS a, SUM(twin) AS b FROM t"),
        ("bare", "SELECT SUM(amount) AS a, SUM(twin) AS b FROM orders WHERE status = 'void' OR region = 'north'"),
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
    "missing values": [
        *(("gaps", f"SELECT {use} AS n FROM orders") for use in (
            "COUNT(*) - SUM(score)", "COUNT(*) AS m, SUM(score)", "COUNT(order_id) - SUM(score)", "SUM(1) - SUM(score)", "COUNT(DISTINCT user_key) - SUM(score)",
            "COUNT(*) - SUM(score * score)", "COUNT(*) - SUM(COALESCE(score, 0))", "COUNT_IF(region = 'north') - SUM(score)", "COUNT(*) - SUM(ROUND(score))",
            "ROUND(COUNT_IF(region = 'north') - SUM(part) FILTER (WHERE NOT region <> 'north') / AVG(part) FILTER (WHERE region = 'north'))",
            "ROUND(COUNT_IF(status <> 'open') - (SUM(part) - SUM(part) FILTER (WHERE status = 'open')) / AVG(part) FILTER (WHERE status <> 'open'))",
            "ROUND(SUM(part) FILTER (WHERE region = 'north') / AVG(COALESCE(part, 0)) FILTER (WHERE region = 'north') - COUNT(part) FILTER (WHERE region = 'north'))",
            "ROUND(COUNT(*) - COUNT(discount) - COUNT(twin) + SUM(discount + twin) / AVG(discount + twin))",
            "ROUND(COUNT(*) - COUNT(discount) - COUNT(twin) + SUM(discount * twin) / AVG(discount * twin))",
        )),
        *(("gaps", f"SELECT {use} AS n FROM (SELECT user_key, MAX({flag}) AS f FROM orders GROUP BY user_key) t") for use, flag in product(
            ("ROUND(COUNT(*) - SUM(f) / AVG(f))", "ROUND(COUNT(*) - COUNT_IF(f = 1) / AVG(f))", "COUNT(*) - COUNT(f)"),
            ("CASE WHEN status = 'paid' THEN 1 WHEN status = 'open' THEN 0 END", "IF(status = 'paid', 1, IF(status = 'open', 0, NULL))"),
        )),
    ],
    "forms of steps": [
        *(("steps", f"SELECT {use} AS s FROM (SELECT user_key, SUM(amount) AS s, AVG(amount) AS m, MAX(amount) AS a, MIN(amount) AS b FROM orders GROUP BY user_key) t") for use in (
            "SUM(a) + SUM(b) - SUM(s)", "2 * SUM(m) - SUM(s)", "SUM(2 * m - s)", "SUM(a + b - s)", "2 * SUM(m) - SUM(a) - SUM(b) + SUM(s)", "COUNT(*) * (2 * AVG(m) - AVG(s))",
            "SUM(a) FILTER (WHERE TRUE) + SUM(b) - SUM(s)",
        )),
        ("steps", "SELECT SUM(z) AS s FROM (SELECT user_key, 2 * AVG(amount) - SUM(amount) AS z FROM orders GROUP BY user_key) t"),
        ("steps", "WITH p AS (SELECT user_key, 2 * AVG(amount) AS x, SUM(amount) AS y FROM orders GROUP BY user_key), q AS (SELECT user_key, x AS z, y FROM p) SELECT SUM(z) - SUM(y) AS s FROM q"),
        ("steps", "SELECT 2 * SUM(x) - SUM(y) AS s FROM (SELECT user_key, AVG(s) AS x, SUM(s) AS y FROM (SELECT user_key, status, SUM(amount) AS s FROM orders GROUP BY user_key, status) u GROUP BY user_key) t"),
        ("steps", "SELECT 2 * SUM(x) - SUM(y) AS s FROM (SELECT user_key, SUM(amount) / COUNT(*) AS x, SUM(amount) AS y FROM orders GROUP BY user_key) t"),
    ],
    "means of equal sums": [
        *(("pairs", f"SELECT {use} AS n FROM {source}") for use, source in product(
            ("ROUND(40 * AVG(x) / AVG(y) - COUNT(*))", "ROUND(COUNT(*) - SUM(x) / AVG(y))", "ROUND(COUNT(x) - SUM(x) / AVG(y))"),
            ("(SELECT user_key, amount AS x, twin AS y FROM orders) t", "(SELECT user_key, SUM(amount) AS x, SUM(twin) AS y FROM orders GROUP BY user_key) t"),
        )),
    ],
    "dominated differences": [
        *(("gaps", f"SELECT {use} AS s FROM orders") for use in (
            "SUM(whale) - SUM(amount)", "SUM(whale) AS a, SUM(amount)", "SUM(whale - amount)", "AVG(whale - amount) * 40", "40 * (AVG(whale) - AVG(amount))",
            "SUM(whale) - SUM(amount) FILTER (WHERE region = 'north')", "SUM(whale) - SUM(COALESCE(amount, 0))",
        )),
        ("gaps", "SELECT SUM(x) - SUM(y) AS s FROM (SELECT user_key, SUM(whale) AS x, SUM(amount) AS y FROM orders GROUP BY user_key) t"),
        ("gaps", "SELECT SUM(x) - SUM(y) AS s FROM (SELECT user_key, AVG(whale) AS x, MAX(amount) AS y FROM orders GROUP BY user_key) t"),
        ("steps", "SELECT SUM(amount) - SUM(amount + 0 * part) AS s FROM orders"),
        ("steps", "SELECT SUM(amount) - SUM(amount - part) - SUM(part) AS s FROM orders"),
    ],
    "failures of one value": [
        *(("gaps", f"SELECT {use} AS s FROM orders") for use in (
            "SUM(-age)", "AVG(-age)", "STDDEV(-age)", "COUNT(-age)", "SUM(points * 1.0 * points)", "SUM(points * 1.5 * age * 1.0)", "SUM(-age) FILTER (WHERE status <> 'void')",
        )),
        ("gaps", "SELECT SUM(x) AS s FROM (SELECT user_key, -MAX(age) AS x FROM orders GROUP BY user_key) t"),
        ("gaps", "SELECT SUM(-x) AS s FROM (SELECT user_key, MIN(age) AS x FROM orders GROUP BY user_key) t"),
    ],
    "columns behind literals": [
        *(("void", f"SELECT SUM(CASE WHEN region <> '{text}' THEN {value} END) AS s FROM orders") for text, value in product(
            ("`a`.`", "`", "x`.`y`.`"), ("discount + 1000", "amount * 0 + discount"),
        )),
    ],
}  # fmt: skip
