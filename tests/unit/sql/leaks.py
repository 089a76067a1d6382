"""Queries that would show one person, a raw value or an unlisted column, by the kind of trick.

Each line is a catalogue of the test module and a query. The gate refuses it, or its result shows nothing of the person with the key
``u17`` (17 where keys are numbers).
"""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

LEAKS: dict[str, list[tuple[str, str]]] = {
    "overlapping rows": [
        ("g", "SELECT a.status, SUM(b.s) AS s, COUNT(*) AS n, COUNT(DISTINCT b.user_key) AS d FROM orders a JOIN (SELECT user_key, region, SUM(amount) AS s, COUNT_IF(order_id = 17) AS f FROM orders GROUP BY user_key, region) b ON a.region = b.region WHERE a.region = 'north' AND NOT (a.status = 'paid' AND b.f = 1) GROUP BY a.status"),
        ("g", "SELECT a.day, SUM(b.amount) AS s, COUNT(*) AS n FROM orders a JOIN orders b ON a.region = b.region AND b.day <= a.day WHERE a.region = 'north' GROUP BY a.day"),
        ("g", "SELECT l.label, SUM(o.amount) AS s FROM orders o JOIN labels l ON o.user_key = l.user_key GROUP BY l.label"),
        ("g", "SELECT l.label, SUM(o.amount) AS s FROM orders o, labels l WHERE o.user_key = l.user_key GROUP BY l.label"),
        ("g", "SELECT l.label, SUM(o.amount) AS s FROM labels l LEFT JOIN orders o USING (user_key) GROUP BY l.label"),
        ("g", "SELECT label, SUM(s) AS s FROM (SELECT o.user_key, l.label, SUM(o.amount) AS s FROM orders o JOIN labels l ON o.user_key = l.user_key GROUP BY o.user_key, l.label) t GROUP BY label"),
        ("g", "WITH j AS (SELECT o.user_key, l.label, o.amount FROM orders o JOIN labels l ON o.user_key = l.user_key) SELECT label, SUM(amount) AS s FROM j GROUP BY label"),
        ("g", "SELECT c.campaign, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.campaign"),
        ("g", "SELECT r.country, SUM(o.amount) AS s FROM orders o JOIN regions r ON o.region = r.region GROUP BY r.country"),
        ("g", "SELECT r.country, SUM(o.amount) AS s FROM orders o LEFT JOIN regions r ON o.region = r.region GROUP BY r.country"),
        ("g", "SELECT r.country, SUM(o.amount) AS s FROM orders o JOIN (SELECT country, region FROM regions) r ON o.region = r.region GROUP BY r.country"),
        ("g", "SELECT w.seg, SUM(o.amount) AS s FROM orders o CROSS JOIN weights w LEFT JOIN clicks c ON c.device = w.seg AND c.user_key = o.user_key GROUP BY w.seg"),
    ],
    "one row among worthless ones": [
        ("g", "SELECT status, SUM(discount) AS s, COUNT(*) AS n FROM orders WHERE discount = 0 OR order_id = 17 GROUP BY status"),
        ("g", "SELECT SUM(amount) AS s, COUNT(*) AS n FROM orders WHERE order_id = 17 OR amount = 10"),
        ("g", "SELECT SUM(sparse) AS s FROM orders"),
        ("g", "SELECT AVG(sparse) AS s FROM orders WHERE region = 'north'"),
        ("g", "SELECT region, STDDEV(sparse) AS s, COUNT(*) AS n FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(sparse + 0) AS s FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(total) AS s FROM (SELECT user_key, region, SUM(sparse) AS total FROM orders GROUP BY user_key, region) t GROUP BY region"),
        ("g", "SELECT region, SUM(amount) AS s FROM orders WHERE sparse IS NULL OR order_id = 17 GROUP BY region"),
        ("g", "SELECT SUM(o.amount) AS s FROM orders o JOIN weights w ON o.user_key = w.user_key WHERE w.user_key = 'u17'"),
        ("g", "SELECT o.region, SUM(o.whale) AS s FROM orders o GROUP BY o.region"),
        ("g", "SELECT SUM(whale) AS s, COUNT(*) AS n FROM orders"),
    ],
    "moments and digits": [
        ("g", "SELECT region, COUNT(*) AS n, SUM(amount) AS p1, SUM(amount * amount) AS p2, SUM(amount * amount * amount) AS p3, COVAR_POP(amount * amount, amount * amount) AS c4, COVAR_POP(amount * amount, amount * amount * amount) AS c5, VAR_POP(amount * amount * amount) AS c6 FROM orders GROUP BY region"),
        ("num", "SELECT SUM(CAST(age AS BIGINT) * order_id * order_id) AS s FROM orders WHERE order_id IN (1, 32, 1000)"),
        ("g", "SELECT region, SUM(amount * amount * amount) AS s FROM orders GROUP BY region"),
        ("g", "SELECT region, SKEWNESS(amount) AS s FROM orders GROUP BY region"),
        ("g", "SELECT region, KURTOSIS(amount) AS s, AVG(amount) AS m FROM orders GROUP BY region"),
        ("g", "SELECT region, VAR_POP(amount * age) AS s FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(amount) AS a, SUM(amount * age) AS b, SUM(amount * order_id) AS c, SUM(amount * discount) AS d FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(amount) AS a, SUM(LEAST(amount, 7000)) AS b FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(LEAST(amount, 7001)) AS a, SUM(LEAST(amount, 7000)) AS b FROM orders GROUP BY region"),
        ("g", "SELECT region, SUM(amount) AS a FROM orders GROUP BY region HAVING SUM(amount * amount * amount) > 3"),
    ],
    "identity of another type": [
        ("num", "SELECT SUM(s) AS s, COUNT(*) AS n FROM (SELECT m.k, SUM(o.amount) AS s FROM orders o JOIN mine m ON o.user_id = m.k GROUP BY m.k) t"),
        ("num", "SELECT SUM(o.amount) AS s FROM orders o JOIN mine m ON m.k = o.user_id"),
        ("num", "SELECT m.seg, COUNT(*) AS n FROM mine m WHERE m.k IN (SELECT user_id FROM orders) GROUP BY m.seg"),
        ("num", "SELECT m.seg, COUNT(*) AS n FROM mine m WHERE EXISTS (SELECT 1 FROM orders o WHERE o.user_id = m.k) GROUP BY m.seg"),
        ("num", "SELECT m.seg, COUNT(*) AS n FROM mine m LEFT SEMI JOIN orders o ON o.user_id = m.k GROUP BY m.seg"),
        ("num", "SELECT COUNT(*) AS n, SUM(s) AS s FROM (SELECT k, SUM(amount) AS s FROM (SELECT m.k, o.amount, o.user_id FROM orders o JOIN mine m ON o.user_id = m.k) j GROUP BY k) t"),
        ("num", "SELECT m.k, SUM(o.amount) AS s FROM orders o LEFT JOIN mine m ON o.user_id = m.k GROUP BY m.k"),
        ("num", "SELECT SUM(o.amount) AS s FROM orders o JOIN mine m ON STRING(o.user_id) = m.k AND m.seg = 'a' GROUP BY m.k"),
    ],
    "weights made by the text": [
        ("g", "SELECT o.region, SUM(o.amount) AS t, COUNT(x.f) AS hits FROM orders o JOIN (SELECT w.user_key, COUNT(r.region) AS f FROM weights w LEFT JOIN regions r ON w.seg = r.region AND w.user_key = 'u17' GROUP BY w.user_key) x ON o.user_key = x.user_key GROUP BY o.region"),
        ("g", "SELECT o.region, SUM(o.amount * x.f) AS t FROM orders o JOIN (SELECT w.user_key, COUNT(r.region) AS f FROM weights w LEFT JOIN regions r ON w.seg = r.region AND w.user_key = 'u17' GROUP BY w.user_key) x ON o.user_key = x.user_key GROUP BY o.region"),
        ("g", "SELECT o.region, SUM(x.f + 1) AS t, COUNT(*) AS n FROM orders o JOIN (SELECT w.user_key, COUNT(r.region) AS f FROM weights w LEFT JOIN regions r ON w.seg = r.region AND w.user_key = 'u17' GROUP BY w.user_key) x ON o.user_key = x.user_key GROUP BY o.region"),
        ("g", "SELECT o.region, SUM(o.amount * COALESCE(w.w, 1)) AS t, SUM(o.amount) AS u FROM orders o LEFT JOIN weights w ON o.user_key = w.user_key AND w.user_key = 'u17' GROUP BY o.region"),
        ("g", "SELECT o.region, SUM(o.amount * w.w) AS t, SUM(o.amount) AS u FROM orders o JOIN weights w ON o.user_key = w.user_key GROUP BY o.region"),
        ("g", "SELECT o.region, SUM(COALESCE(x.w, 0) + 1) AS t, COUNT(*) AS n FROM orders o JOIN (SELECT l.user_key, w.w FROM (SELECT DISTINCT user_key FROM labels) l LEFT JOIN weights w ON l.user_key = w.user_key AND w.user_key = 'u17') x ON o.user_key = x.user_key GROUP BY o.region"),
        ("g", "SELECT COUNT(w.w) AS n FROM orders o LEFT JOIN weights w ON o.user_key = w.user_key AND w.user_key = 'u17'"),
    ],
    "unlisted column as a count": [
        ("g", "SELECT older, COUNT(*) AS n FROM (SELECT user_key, COUNT_IF(age > 30) AS older FROM orders GROUP BY user_key) t GROUP BY older"),
        ("out", "SELECT id, COUNT_IF(b > 3) AS big FROM v GROUP BY id"),
        ("out", "SELECT id, COUNT(*) FILTER (WHERE b > 3) AS big FROM v GROUP BY id"),
        ("out", "SELECT id, COUNT(NULLIF(b > 3, FALSE)) AS big FROM v GROUP BY id"),
        ("out", "SELECT id, COUNT(CASE WHEN b > 3 THEN 1 END) AS big FROM v GROUP BY id"),
        ("out", "SELECT id FROM v WHERE b > 3"),
        ("out", "SELECT id, COUNT(*) AS n FROM v GROUP BY id HAVING MAX(b) > 3"),
        ("g", "SELECT f, COUNT(*) AS n FROM (SELECT user_key, MAX(CASE WHEN age > 30 THEN 1 ELSE 0 END) AS f FROM orders GROUP BY user_key) t GROUP BY f"),
        ("g", "SELECT f, COUNT(*) AS n FROM (SELECT user_key, COUNT(NULLIF(age > 30, FALSE)) AS f FROM orders GROUP BY user_key) t GROUP BY f"),
        ("g", "SELECT SUM(f) AS n FROM (SELECT user_key, IF(SUM(age) > 30, 1, 0) AS f FROM orders GROUP BY user_key) t"),
    ],
    "small cell by NULL": [
        ("g", "SELECT region, COUNT(*) - COUNT(optional) AS missing FROM orders GROUP BY region"),
        ("g", "SELECT region, COUNT(*) AS n, COUNT(optional) AS c FROM orders GROUP BY region"),
        ("g", "SELECT COUNT(*) AS n, COUNT(optional) AS c FROM orders"),
        ("g", "SELECT region, COUNT(*) AS n, SUM(optional) / AVG(optional) AS c FROM orders GROUP BY region"),
        ("g", "SELECT COUNT(*) - COUNT(optional + 1) AS c FROM orders"),
        ("g", "SELECT COUNT(*) - COUNT(DISTINCT optional) AS c FROM orders"),
        ("g", "SELECT COUNT(*) AS n, REGR_COUNT(amount, optional) AS c FROM orders"),
    ],
}  # fmt: skip
