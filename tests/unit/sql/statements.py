"""Generated statements: joins, subqueries, set operations, groups, windows, aliases and stars in many combinations."""

from __future__ import annotations

import random

from cleanroom.sql import Catalog

CATALOG = Catalog.model_validate(
    {
        "views": {
            "ta": {"a": "integer", "c": "integer", "s": "string"},
            "tb": {"a": "integer", "k": "string", "d": "string"},
            "tc": {"s": "string", "n": "number", "a": "integer"},
        }
    }
)
COLUMNS = {"ta": ("a", "c", "s"), "tb": ("a", "k", "d"), "tc": ("s", "n", "a")}
ROWS = {
    "ta": ("a int, c int, s string", [(1, 2, "x"), (1, 2, "x"), (2, None, "y"), (3, 5, None), (None, 1, "x,y"), (4, 4, "z")]),
    "tb": ("a int, k string, d string", [(1, "x", "2024-01-05"), (2, "y", "2024-02-01"), (2, "x", None), (None, "z", "2024-01-05")]),
    "tc": ("s string, n double, a int", [("x", 1.5, 1), ("y", -2.0, 2), (None, 0.5, 3), ("x", 1.5, None)]),
}
"""Rows with duplicates and NULLs."""
_JOINS = [
    "JOIN", "INNER JOIN", "LEFT JOIN", "RIGHT OUTER JOIN", "FULL JOIN", "LEFT SEMI JOIN", "ANTI JOIN", "CROSS JOIN", ",",
]  # fmt: skip
_SETS = ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "UNION DISTINCT", "INTERSECT ALL", "EXCEPT ALL"]
_FRAMES = ["", " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW", " RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"]


class Statements:
    """Random statements over :data:`CATALOG`."""

    def __init__(self, rnd: random.Random) -> None:
        self._rnd = rnd
        self._number = 0

    def one(self) -> str:
        """One statement."""
        self._number = 0
        if self._chance(0.2):
            text, columns = self._from(1, {})
            return f"SELECT {self._rnd.choice(['*', '*', columns[0].split('.')[0] + '.*'])} FROM {text}"
        return self._query(2, {})

    def _chance(self, share: float) -> bool:
        return self._rnd.random() < share

    def _name(self) -> str:
        self._number += 1
        return f"q{self._number}"

    def _query(self, depth: int, tables: dict[str, tuple[str, ...]], width: int = 0) -> str:
        rnd, prefix = self._rnd, ""
        if depth and self._chance(0.2):
            name = self._name()
            prefix = f"WITH {name} AS ({self._query(depth - 1, tables, 2)}) "
            if self._chance(0.5):
                prefix = prefix.replace(f"WITH {name} AS", f"WITH {name}(a, z) AS", 1)
                tables = {**tables, name: ("a", "z")}
            else:
                tables = {**tables, name: ("x0", "x1")}
        width = width or rnd.randint(1, 3)
        text = self._select(depth, tables, width)
        while self._chance(0.3):
            other = self._select(max(depth - 1, 0), tables, width)
            text += f" {rnd.choice(_SETS)} " + (f"({other})" if self._chance(0.2) else other)
        if self._chance(0.25):
            text += " ORDER BY " + ", ".join(f"{number + 1}{rnd.choice(['', ' DESC', ' NULLS LAST'])}" for number in range(width))
            text += rnd.choice(["", " LIMIT 3"])
        return prefix + text

    def _select(self, depth: int, tables: dict[str, tuple[str, ...]], width: int) -> str:
        rnd = self._rnd
        source, columns = self._from(depth, tables)
        text = source
        if self._chance(0.5):
            text += " WHERE " + self._condition(depth, columns, tables)
        mode = rnd.random()
        if mode < 0.35:
            items, group = self._grouped(columns, width)
            text += group
        elif mode < 0.5:
            call = rnd.choice(["ROW_NUMBER()", "SUM(1)", f"LAG({columns[0]})", f"COUNT({columns[-1]})", "DENSE_RANK()"])
            frame = rnd.choice(_FRAMES) if call.startswith(("SUM", "COUNT")) else ""
            over = f"(PARTITION BY {rnd.choice(columns)} ORDER BY {', '.join(columns)}{frame})"
            items = [f"{call} OVER {over}", *(self._scalar(columns) for _ in range(width - 1))]
        else:
            items = [self._scalar(columns) for _ in range(width)]
        names = [f"{item}{rnd.choice([' AS', ''])} x{number}" for number, item in enumerate(items)]
        if width > 1 and self._chance(0.2) and mode >= 0.5:
            names[-1] = f"CONCAT(x0, 1) AS x{width - 1}"  # an alias of the same SELECT
        qualify = f" QUALIFY x0 {rnd.choice(['<', '>='])} 2" if 0.35 <= mode < 0.5 and self._chance(0.3) else ""
        stars = depth < 2 and mode >= 0.5 and width == len(columns) and self._chance(0.5)
        return f"SELECT {'DISTINCT ' if self._chance(0.15) else ''}{'*' if stars else ', '.join(names)} FROM {text}{qualify}"

    def _from(self, depth: int, tables: dict[str, tuple[str, ...]]) -> tuple[str, list[str]]:
        text, columns = self._relation(depth, tables)
        while self._chance(0.45):
            join = self._rnd.choice(_JOINS)
            right, others = self._relation(depth, tables)
            text += f"{'' if join == ',' else ' '}{join} {right}"
            if join not in (",", "CROSS JOIN"):
                text += " USING (a)" if self._chance(0.15) else f" ON {self._equal(columns, others)}"
            columns = columns if "SEMI" in join or "ANTI" in join else [*columns, *others]
        if self._chance(0.08):
            text += f" LATERAL VIEW {self._rnd.choice(['', 'OUTER '])}EXPLODE(SPLIT(CONCAT('p,q', {columns[0]}), ',')) e AS word"
            columns = [*columns, "word"]
        return text, columns

    def _relation(self, depth: int, tables: dict[str, tuple[str, ...]]) -> tuple[str, list[str]]:
        rnd, alias = self._rnd, self._name()
        draw = rnd.random()
        if depth and draw < 0.25:
            return f"({self._query(depth - 1, tables, 2)}) {alias}", [f"{alias}.x0", f"{alias}.x1"]
        if draw < 0.3:
            return f"(SELECT 1, 'x' UNION ALL SELECT NULL, 'y') AS {alias}(a, m)", [f"{alias}.a", f"{alias}.m"]
        name = rnd.choice([*COLUMNS, *tables, *tables])
        known = tables.get(name) or COLUMNS[name]
        return f"{name}{rnd.choice([' AS', ''])} {alias}", [f"{alias}.{column}" for column in known]

    def _equal(self, left: list[str], right: list[str]) -> str:
        rnd = self._rnd
        text = f"{rnd.choice(left)} {rnd.choice(['=', '=', '<=>', '<'])} {rnd.choice(right)}"
        return text + (f" {rnd.choice(['AND', 'OR'])} {self._simple(left)}" if self._chance(0.2) else "")

    def _scalar(self, columns: list[str]) -> str:
        rnd = self._rnd
        one, two = rnd.choice(columns), rnd.choice(columns)
        return rnd.choice([
            one, one, one, one.rsplit(".", 1)[-1], f"COALESCE({one}, {two})", f"CONCAT({one}, {two})", 
            f"CASE WHEN {one} = {two} THEN 1 END",
            f"CASE WHEN {one} IS NULL THEN '0' END", f"LENGTH({one}) + 1 * 2", "1", "'k'", f"IF({one} = '1', {two}, NULL)",
        ])  # fmt: skip

    def _simple(self, columns: list[str]) -> str:
        rnd = self._rnd
        one = rnd.choice(columns)
        return rnd.choice([
            f"{one} = {rnd.choice(columns)}", f"{one} IS NOT NULL", f"{one} IN ('1', 'x', '2')", f"NOT {one} = '1'",
            f"{one} BETWEEN '1' AND '3'", f"{one} LIKE '%x%'", f"{one} <> 'y'", f"NOT ({one} IS NULL OR {one} = '2')",
        ])  # fmt: skip

    def _condition(self, depth: int, columns: list[str], tables: dict[str, tuple[str, ...]]) -> str:
        rnd, parts = self._rnd, []
        for _ in range(rnd.randint(1, 3)):
            one = rnd.choice(columns)
            draw = rnd.random() if depth else 1.0
            if draw < 0.2:
                parts.append(f"{one} {rnd.choice(['IN', 'NOT IN'])} ({self._query(depth - 1, tables, 1)})")
            elif draw < 0.4:
                parts.append(f"{rnd.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM tb e WHERE e.a = {one})")
            elif draw < 0.5:
                parts.append(f"{one} = (SELECT MAX(e.a) FROM tc e WHERE e.s = {rnd.choice(columns)})")
            else:
                parts.append(self._simple(columns))
        return f" {rnd.choice(['AND', 'OR'])} ".join(parts)

    def _grouped(self, columns: list[str], width: int) -> tuple[list[str], str]:
        rnd = self._rnd
        keys = [rnd.choice(columns) for _ in range(max(1, width - 1))]
        calls = [
            "COUNT(*)", f"COUNT(DISTINCT {rnd.choice(columns)})", f"MAX({rnd.choice(columns)})", f"MIN({rnd.choice(columns)})",
            f"COUNT({rnd.choice(columns)}) FILTER (WHERE {self._simple(columns)})", f"SUM(LENGTH({rnd.choice(columns)}))",
        ]  # fmt: skip
        items = [*keys, rnd.choice(calls)][-width:] if width > 1 else [rnd.choice(calls)]
        first = "1" if width > 1 and self._chance(0.3) else keys[0]
        names = ", ".join([first, *keys[1:]])
        conditions = ["COUNT(*) > 1", f"MAX({keys[0]}) IS NOT NULL", "COUNT(*) >= 1 AND COUNT(*) < 5"]
        return items, f" GROUP BY {names}" + (f" HAVING {rnd.choice(conditions)}" if self._chance(0.3) else "")
