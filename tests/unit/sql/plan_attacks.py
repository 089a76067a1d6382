"""Rewritten queries with a mistake, as a faulty gate could make them, and texts that no gate has rewritten.

Each mistake replaces a part of the rendering of a query of :data:`QUERIES`. The second check, on Spark's plan, refuses the result with the
code that is given.
"""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

QUERIES = {
    "sum": "SELECT region, SUM(amount) AS s, COUNT(*) AS n FROM orders GROUP BY region",
    "two sums": "SELECT region, SUM(amount) AS s, SUM(discount) AS d FROM orders GROUP BY region",
    "who": "SELECT COUNT(DISTINCT CASE WHEN status = 'paid' THEN user_key END) AS n FROM orders",
    "explode": "SELECT t.tag, COUNT(DISTINCT o.user_key) AS n FROM orders o LATERAL VIEW EXPLODE(SPLIT(o.status, ',')) t AS tag GROUP BY t.tag",
    "two keys": "SELECT region, status, COUNT(*) AS n FROM orders GROUP BY region, status",
    "deviation": "SELECT region, STDDEV(amount) AS d FROM orders WHERE status = 'paid' GROUP BY region",
    "overlap": "SELECT o.region, c.device, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY o.region, c.device",
    "having": "SELECT c.device, SUM(o.amount) AS s FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY c.device HAVING COUNT(*) > 1 ORDER BY s",
    "own rows": "SELECT w.seg, SUM(o.amount) AS s FROM orders o JOIN weights w ON o.user_key = w.user_key GROUP BY w.seg",
    "unique": "SELECT r.country, COUNT(*) AS n FROM orders o JOIN regions r ON o.region = r.region GROUP BY r.country",
    "persons": "SELECT o.status, c.device, COUNT(*) AS n FROM orders o JOIN clicks c ON o.user_key = c.user_key GROUP BY o.status, c.device",
    "outer": "SELECT o.region, COUNT(c.campaign) AS n FROM orders o LEFT JOIN clicks c ON o.user_key = c.user_key GROUP BY o.region",
    "semi": "SELECT w.seg, COUNT(*) AS n FROM weights w WHERE w.user_key IN (SELECT user_key FROM orders WHERE region = 'west') GROUP BY w.seg",
    "person first": "SELECT n, COUNT(*) AS p FROM (SELECT user_key, COUNT(*) AS n FROM orders GROUP BY user_key) t GROUP BY n",
    "window": "SELECT region, COUNT(*) AS n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY user_key ORDER BY day) AS rn FROM orders) t WHERE rn = 1 GROUP BY region",
    "extreme": "SELECT region, MAX(day) AS d FROM orders GROUP BY region",
    "condition": "SELECT region, COUNT_IF(status = 'paid') AS p FROM orders GROUP BY region",
}  # fmt: skip

_PERSON = "`orders`.`user_key` AS `__cr_p`"
_LAST = "COUNT(*) AS `__cr_c0`\n    FROM `orders` AS `orders`"

MISTAKES: list[tuple[str, str, list[tuple[str, str]]]] = [
    # The conditions of the floors.
    ("sum", "PlanFloorMissing", [("HAVING COUNT(`__cr_r`.`__cr_p`) >= 5 AND", "HAVING")]),
    ("sum", "PlanFloorMissing", [("`__cr_p`) >= 5", "`__cr_p`) >= 4")]),
    ("sum", "PlanFloorMissing", [("`__cr_p`) >= 5", "`__cr_p`) <= 5")]),
    ("sum", "PlanFloorMissing", [("COUNT(`__cr_r`.`__cr_p`) >= 5", "COUNT(*) >= 5")]),
    ("sum", "PlanFloorMissing", [(">= 5 AND COUNT_IF", ">= 5 OR COUNT_IF")]),
    ("sum", "PlanFloorMissing", [(" AND COUNT_IF(`__cr_r`.`__cr_c0` > 0) >= 5", "")]),
    ("sum", "PlanFloorMissing", [("COUNT_IF(`__cr_r`.`__cr_c0` > 0) >= 5", "COUNT_IF(`__cr_r`.`__cr_c0` > 0) >= 2")]),
    ("sum", "PlanFloorMissing", [("COUNT_IF(`__cr_r`.`__cr_c0` > 0)", "COUNT_IF(`__cr_r`.`__cr_c0` >= 0)")]),
    ("sum", "PlanFloorMissing", [("CASE WHEN `orders`.`amount` <> 0", "CASE WHEN `orders`.`discount` <> 0")]),
    ("sum", "PlanFloorMissing", [(" AND 100 * MAX(`__cr_r`.`__cr_c1`) <= 80 * SUM(`__cr_r`.`__cr_c1`)", "")]),
    ("sum", "PlanFloorMissing", [("<= 80 *", "<= 99 *")]),
    ("sum", "PlanFloorMissing", [("SUM(ABS(`orders`.`amount`))", "SUM(ABS(`orders`.`discount`))")]),
    ("sum", "PlanFloorMissing", [("80 * SUM(`__cr_r`.`__cr_c1`)", "80 * SUM(`__cr_r`.`__cr_c3`)")]),
    ("outer", "PlanFloorMissing", [("`o`.`user_key` AS `__cr_p`", "`c`.`user_key` AS `__cr_p`"), ("`o`.`region`, `o`.`user_key`\n", "`o`.`region`, `c`.`user_key`\n")]),
    ("two sums", "PlanFloorMissing", [("COALESCE(`orders`.`amount`, 0) <> COALESCE(`orders`.`discount`, 0)", "`orders`.`amount` IS NOT NULL")]),
    ("two sums", "PlanFloorMissing", [("COALESCE(`orders`.`discount`, 0) THEN", "COALESCE(`orders`.`amount`, 0) THEN")]),
    ("sum", "PlanFloorMissing", [("CASE WHEN `orders`.`amount` <> 0", "CASE WHEN `orders`.`amount` IS NOT NULL")]),
    ("deviation", "PlanFloorMissing", [("CASE WHEN `orders`.`amount` <> 0", "CASE WHEN `orders`.`amount` IS NOT NULL")]),
    ("sum", "PlanColumnNotAllowed", [("SUM(`orders`.`amount`) AS `__cr_c2`", "SUM(`orders`.`age` * 30000000) AS `__cr_c2`")]),
    ("who", "PlanFloorMissing", [(" AND COUNT_IF(`__cr_r`.`__cr_c2` = 0) NOT BETWEEN 1 AND 4", "")]),
    ("who", "PlanFloorMissing", [("`__cr_c2` = 0) NOT BETWEEN 1 AND 4", "`__cr_c2` = 0) NOT BETWEEN 1 AND 2")]),
    ("explode", "PlanFloorMissing", [("LEFT ANTI JOIN", "LEFT SEMI JOIN")]),
    ("explode", "PlanRowsOfPersons", [("COUNT_IF(`__cr_r`.`__cr_c0` > 0) AS `__cr_a0`", "SUM(`__cr_r`.`__cr_c0`) AS `__cr_a0`")]),
    ("explode", "PlanColumnNotAllowed", [("SPLIT(`o`.`status`, ',')", "SPLIT(STRING(`o`.`age`), ',')")]),
    # The rows per person.
    ("sum", "PlanFloorMissing", [(_PERSON, "`orders`.`order_id` AS `__cr_p`"), ("`orders`.`region`, `orders`.`user_key`", "`orders`.`region`, `orders`.`order_id`")]),
    ("sum", "PlanFloorMissing", [("GROUP BY `orders`.`region`, `orders`.`user_key`", "GROUP BY `orders`.`region`, `orders`.`user_key`, `orders`.`day`")]),
    ("sum", "PlanFloorMissing", [(_PERSON, "UPPER(`orders`.`user_key`) AS `__cr_p`"), ("`orders`.`region`, `orders`.`user_key`", "`orders`.`region`, UPPER(`orders`.`user_key`)")]),
    ("two keys", "PlanFloorMissing", [("GROUP BY `__cr_r`.`__cr_k0`, `__cr_r`.`__cr_k1`", "GROUP BY `__cr_r`.`__cr_k0`"), ("`__cr_r`.`__cr_k1` AS `__cr_k1`", "MAX(`__cr_r`.`__cr_k1`) AS `__cr_k1`")]),
    ("two keys", "PlanRowsOfPersons", [("SUM(`__cr_r`.`__cr_c0`)", "MAX(`__cr_r`.`__cr_c0`)")]),
    ("sum", "PlanRowsOfPersons", [("SUM(`__cr_r`.`__cr_c2`)", "MAX(`__cr_r`.`__cr_c2`)")]),
    ("sum", "PlanRowsOfPersons", [("SUM(`__cr_r`.`__cr_c2`)", "MAX(`__cr_r`.`__cr_p`)")]),
    ("sum", "PlanRowsOfPersons", [("SUM(`orders`.`amount`) AS `__cr_c2`", "COLLECT_LIST(`orders`.`amount`) AS `__cr_c2`"), ("SUM(`__cr_r`.`__cr_c2`)", "COLLECT_LIST(`__cr_r`.`__cr_c2`)")]),
    ("extreme", "PlanColumnNotAllowed", [("MAX(`orders`.`day`)", "MAX(`orders`.`amount`)")]),
    ("sum", "PlanFloorMissing", [(_PERSON, "COALESCE(`orders`.`status`, `orders`.`user_key`) AS `__cr_p`"), ("`orders`.`region`, `orders`.`user_key`", "`orders`.`region`, COALESCE(`orders`.`status`, `orders`.`user_key`)")]),
    # Groups that are read again.
    ("deviation", "PlanFloorMissing", [("LEFT SEMI JOIN", "LEFT JOIN")]),
    ("deviation", "PlanFloorMissing", [("ON `orders`.`region` <=> `__cr_g`.`__cr_k0`", "ON TRUE")]),
    ("deviation", "PlanFloorMissing", [("ON `orders`.`region` <=>", "ON `orders`.`status` <=>")]),
    ("deviation", "PlanFloorMissing", [("WHERE `orders`.`status` = 'paid'\n    GROUP", "GROUP")]),
    ("deviation", "PlanFloorMissing", [("WHERE `orders`.`status` = 'paid'\nGROUP BY `orders`.`region`", "WHERE `orders`.`status` = 'void'\nGROUP BY `orders`.`region`")]),
    ("deviation", "PlanFloorMissing", [("\nGROUP BY `orders`.`region`", "\nGROUP BY `orders`.`region`, `orders`.`day`")]),
    ("deviation", "PlanFloorMissing", [("\nLEFT SEMI JOIN (\n", "\nLEFT SEMI JOIN (SELECT 'north' AS `__cr_k0`) AS `x` ON TRUE\nLEFT ANTI JOIN (\n")]),
    # Joins.
    ("overlap", "PlanFloorMissing", [("LEFT ANTI JOIN", "LEFT SEMI JOIN")]),
    ("having", "PlanFloorMissing", [("LEFT ANTI JOIN", "LEFT SEMI JOIN")]),
    ("having", "PlanFloorMissing", [("COUNT(`__cr_r`.`__cr_p`) >= 5 AND", "")]),
    ("overlap", "PlanFloorMissing", [("LEFT ANTI JOIN", "CROSS JOIN (SELECT 1 AS `z`) AS `zz`\nLEFT ANTI JOIN")]),
    ("overlap", "PlanFloorMissing", [("ON `__cr_g`.`__cr_k0` <=> `__cr_overlapping0`.`__cr_k0` AND", "ON")]),
    ("overlap", "PlanFloorMissing", [("FROM `__cr_rows1` AS `__cr_o`", "FROM (SELECT 'x' AS `__cr_k0`, 'y' AS `__cr_k1`, 'z' AS `__cr_p`) AS `__cr_o`")]),
    ("overlap", "PlanFloorMissing", [("- COUNT(*) BETWEEN 1 AND 4", "- COUNT(*) BETWEEN 1 AND 3")]),
    ("overlap", "PlanFloorMissing", [("- COUNT(*) BETWEEN 1 AND 4", "- COUNT(*) BETWEEN 2 AND 4")]),
    ("overlap", "PlanFloorMissing", [("`__cr_a`.`__cr_n` >= 5", "`__cr_a`.`__cr_n` >= 50")]),
    ("overlap", "PlanFloorMissing", [("`__cr_a`.`__cr_n` - COUNT(*)", "`__cr_a`.`__cr_n` + COUNT(*)")]),
    ("overlap", "PlanFloorMissing", [("FROM `__cr_rows1` AS `__cr_o`", "FROM `__cr_rows1` AS `__cr_o`\n      WHERE `__cr_o`.`__cr_k0` = 'x'")]),
    ("overlap", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "`o`.`region` = `c`.`campaign`")]),
    ("overlap", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "`o`.`user_key` > `c`.`user_key`")]),
    ("overlap", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "CAST(`o`.`user_key` AS INT) = CAST(`c`.`user_key` AS INT)")]),
    ("own rows", "PlanFloorMissing", [("QUALIFY COUNT(*) OVER (PARTITION BY `w`.`user_key`) = 1", "")]),
    ("unique", "PlanJoinNotAllowed", [("OVER (PARTITION BY `r`.`region`) = 1", "OVER (PARTITION BY `r`.`region`) = 2")]),
    ("unique", "PlanJoinNotAllowed", [("OVER (PARTITION BY `r`.`region`) = 1", "OVER (PARTITION BY `r`.`country`) = 1")]),
    ("unique", "PlanJoinNotAllowed", [("\n      QUALIFY COUNT(*) OVER (PARTITION BY `r`.`region`) = 1", "")]),
    ("persons", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "`o`.`region` = `c`.`campaign`")]),
    ("persons", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "CAST(`o`.`user_key` AS INT) = CAST(`c`.`user_key` AS INT)")]),
    ("persons", "PlanJoinNotAllowed", [("`o`.`user_key` = `c`.`user_key`", "TRUE")]),
    ("semi", "PlanRowsOfPersons", [("`w`.`user_key` IN", "`w`.`user_key` NOT IN")]),
    ("semi", "PlanJoinNotAllowed", [("`orders`.`user_key` AS `user_key`", "`orders`.`region` AS `user_key`")]),
    ("window", "PlanRowsOfPersons", [("PARTITION BY `orders`.`user_key`", "PARTITION BY `orders`.`region`")]),
    # Columns.
    ("sum", "PlanColumnNotAllowed", [("`orders`.`region` AS `__cr_k0`", "`orders`.`age` AS `__cr_k0`"), ("GROUP BY `orders`.`region`", "GROUP BY `orders`.`age`")]),
    ("sum", "PlanColumnNotAllowed", [("FROM `orders` AS `orders`", "FROM `orders` AS `orders`\n    WHERE `orders`.`order_id` <> 17")]),
    ("sum", "PlanColumnNotAllowed", [("`orders`.`region` AS `__cr_k0`", "`orders`.`age` AS `__cr_k0`"), ("GROUP BY `orders`.`region`", "GROUP BY `orders`.`age`"), ("    `__cr_r`.`__cr_k0` AS `__cr_k0`", "    CONCAT('x', `__cr_r`.`__cr_k0`) AS `__cr_k0`")]),
    ("deviation", "PlanColumnNotAllowed", [("`orders`.`region` AS `__cr_k0`", "`orders`.`age` AS `__cr_k0`"), ("GROUP BY `orders`.`region`", "GROUP BY `orders`.`age`"), ("`orders`.`region` <=>", "`orders`.`age` <=>"), ("`orders`.`region` AS `region`", "CONCAT('x', `orders`.`age`) AS `region`")]),
    ("condition", "PlanColumnNotAllowed", [("COUNT_IF(`orders`.`status` = 'paid')", "COUNT_IF(`orders`.`age` > 30)")]),
    ("person first", "PlanColumnNotAllowed", [("COUNT(*) AS `n`", "SUM(`orders`.`age`) AS `n`")]),
    # Operators, functions and relations.
    ("sum", "PlanExpressionNotAllowed", [("`__cr_g`.`__cr_a1` AS `n`", "`__cr_g`.`__cr_a1` + RAND() AS `n`")]),
    ("sum", "PlanExpressionNotAllowed", [("`__cr_g`.`__cr_a1` AS `n`", "CURRENT_USER() AS `n`")]),
    ("sum", "PlanExpressionNotAllowed", [("`__cr_g`.`__cr_a1` AS `n`", "INPUT_FILE_NAME() AS `n`")]),
    ("sum", "PlanExpressionNotAllowed", [("`__cr_g`.`__cr_a1` AS `n`", "RAISE_ERROR(`__cr_g`.`__cr_k0`) AS `n`")]),
    ("sum", "PlanLeafUnknown", [("FROM `orders` AS `orders`", "FROM `hidden` AS `orders`")]),
    ("sum", "PlanOperatorNotAllowed", [("FROM `orders` AS `orders`", "FROM `orders` TABLESAMPLE (50 PERCENT) AS `orders`")]),
    ("sum", "PlanLeafUnknown", [("FROM `orders` AS `orders`", "FROM `orders` AS `orders` CROSS JOIN RANGE(3)")]),
    ("sum", "PlanRowsOfPersons", [("FROM `orders` AS `orders`", "FROM (SELECT * FROM `orders` LIMIT 10) AS `orders`")]),
    ("sum", "PlanRowsOfPersons", [("FROM `orders` AS `orders`", "FROM (SELECT * FROM `orders` UNION ALL SELECT * FROM `orders`) AS `orders`")]),
    ("sum", "PlanRowsOfPersons", [("FROM `orders` AS `orders`", "FROM `orders` AS `orders` LATERAL VIEW EXPLODE(ARRAY(1, 2)) `x` AS `y`")]),
    ("sum", "PlanRowsOfPersons", [("FROM `orders` AS `orders`", "FROM (SELECT * FROM `orders` EXCEPT SELECT * FROM `orders` WHERE region = 'a') AS `orders`")]),
]  # fmt: skip

TEXTS = {
    "SELECT user_key FROM orders": "PlanRowsOfPersons",
    "SELECT amount FROM orders": "PlanRowsOfPersons",
    "SELECT region, SUM(amount) AS s FROM orders GROUP BY region": "PlanFloorMissing",
    "SELECT region FROM orders GROUP BY region HAVING COUNT(DISTINCT user_key) >= 5": "PlanFloorMissing",
    "SELECT DISTINCT region FROM orders": "PlanRowsOfPersons",
    "SELECT seg, (SELECT MAX(amount) FROM orders) AS m FROM weights": "PlanFloorMissing",
    "SELECT seg FROM weights WHERE user_key = (SELECT user_key FROM orders)": "PlanRowsOfPersons",
    "SELECT seg FROM weights w WHERE EXISTS (SELECT 1 FROM orders o WHERE o.region = w.seg)": "PlanJoinNotAllowed",
    "SELECT * FROM weights w FULL JOIN orders o ON o.user_key = w.user_key": "PlanRowsOfPersons",
    "SELECT w.seg FROM weights w LEFT ANTI JOIN orders o ON o.user_key = w.user_key": "PlanRowsOfPersons",
    "SELECT * FROM hidden": "PlanLeafUnknown",
    "SELECT ROW_NUMBER() OVER (ORDER BY amount) AS n FROM orders": "PlanRowsOfPersons",
}
"""Texts of an author that reach Spark as they are, and the code of the refusal."""
