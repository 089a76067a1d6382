"""Generated expressions and statements: those of Spark's grammar, those of other dialects that the parser also reads, and broken ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from sqlglot.dialects.dialect import Dialect

from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, TYPES

_BINARY = """
    + - * / % DIV || & | ^ = == <> != < <= > >= <=> AND OR LIKE ILIKE RLIKE REGEXP << >> >>> XOR MOD ** // GLOB ?? ~ # -> IS IN COLLATE
    ESCAPE OVERLAPS := && !< ! |>
"""
FORMS = [
    *(f"{{}} {operator} {{}}" for operator in _BINARY.split()),
    "{} IS DISTINCT FROM {}", "{} IS NOT DISTINCT FROM {}", "{} NOT LIKE {}", "{} NOT RLIKE {}", "{} SIMILAR TO {}", "{} AT TIME ZONE {}",
    "{} LIKE {} ESCAPE '!'", "{} NOT LIKE {} ESCAPE '!'", "{} ILIKE {} ESCAPE '!'", "{} NOT NULL AND {}", "{} ISNULL", "{} NOTNULL",
    "{} LIKE ANY ('5', 'a%')", "{} NOT LIKE ANY ('5', 'a%')", "{} LIKE ALL ('5', 'a%')", "{} NOT LIKE ALL ('5', 'a%')",
    "{} LIKE SOME ({})", "{} ILIKE ANY ('5', 'a%')", "{} IS NULL", "{} IS NOT NULL", "{} IS TRUE", "{} IS NOT FALSE", "{} IS UNKNOWN",
    "{} IS NOT UNKNOWN", "{} BETWEEN {} AND {}", "{} NOT BETWEEN {} AND {}", "{} BETWEEN SYMMETRIC {} AND {}", "{} BETWEEN {} {}",
    "{} IN ({}, {})", "{} NOT IN ({})", "{} IN (SELECT a FROM t)", "{} NOT IN (SELECT a FROM t)", "({}, {}) IN (({}, {}))",
    "{} = ANY ({})", "NOT {}", "! {}", "-{}", "- {}", "+{}", "~{}", "PRIOR {}", "INTERVAL {} DAY", "DATE {}", "{}::string", "{}::int",
    "{}::decimal(4, 1)", "CAST({} AS STRING)", "TRY_CAST({} AS INT)", "{}[0]", "SPLIT({}, {})[1]", "({})", "(({}))", "COALESCE({}, {})",
    "CASE WHEN {} THEN {} ELSE {} END", "CASE {} WHEN {} THEN {} END", "IF({}, {}, {})", "EXTRACT(YEAR FROM {})",
    "SUBSTRING({} FROM {} FOR {})", "SUBSTRING({} FROM {})", "POSITION({} IN {})", "TRIM(BOTH {} FROM {})", "TRIM({} FROM {})",
    "TRIM({}, {})", "OVERLAY({} PLACING {} FROM {} FOR {})", "CONCAT({}, {})", "LEAST({}, {})", "(SELECT MAX({}) FROM t)",
    "EXISTS (SELECT 1 FROM t WHERE {})", "DECODE({}, {}, {})", "DATEDIFF(DAY, {}, {})", "ELEMENT_AT(SPLIT({}, {}), 1)", "{} /* c */",
    "{} -- c\n", "LEFT({}, {})", "{} a", "RLIKE({}, {})", "LIKE({}, {})", "STRING({})",
]  # fmt: skip
_ATOMS = [
    "a", "c", "x", "b", "d", "s", "t.a", "`s`", "1", "2", "0", "'5'", "''", "TRUE", "FALSE", "NULL", "-1", "1.5", "0.5", "1e2", "2L", "3D",
    "1S", "1.5BD", "'it''s'", "'a\\nb'", "r'\\d'", "'a' 'b'", "DATE '2024-01-05'", "TIMESTAMP '2024-01-01 00:00:00'", "INTERVAL 3 DAY",
    "INTERVAL '2' MONTH", "INTERVAL -1 HOUR", "INTERVAL '1 02:30:00' DAY TO SECOND", "CURRENT_DATE",
]  # fmt: skip
_WINDOWS = [
    "PARTITION BY {} ORDER BY {}", "ORDER BY {} DESC NULLS LAST, {} ASC", "ORDER BY {} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
    "PARTITION BY {} ORDER BY {} RANGE BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING", "ORDER BY {} ROWS UNBOUNDED PRECEDING",
    "PARTITION BY {}, {} ORDER BY {} NULLS FIRST", "ORDER BY {} RANGE BETWEEN INTERVAL 3 DAY PRECEDING AND CURRENT ROW", "",
]  # fmt: skip


def _calls(*kinds: str) -> list[str]:
    """A form for each function of the gate's vocabulary, with each number of arguments up to three more than the least."""
    return [
        f"{name}({', '.join(['{}'] * count)})"
        for name, function in FUNCTIONS.items()
        for count in range(function.least, min(function.most, function.least + 3) + 1)
        if function.kind in kinds
    ]


def _aggregates() -> list[str]:
    forms = ["COUNT(*)", "SOME({})", "ANY({})", "COUNT(DISTINCT {}, {})", "COUNT(*) FILTER (WHERE {})", "LAST({}, TRUE)"]
    for call in _calls("aggregate"):
        forms += [call, call.replace("(", "(DISTINCT "), f"{call} FILTER (WHERE {{}})", f"{call} IGNORE NULLS"]
    return forms


def _over_windows(start: int) -> list[str]:
    calls = [*_calls("window"), *_aggregates()]
    return [f"{call} OVER ({_WINDOWS[number % len(_WINDOWS)]})" for number, call in enumerate(calls, start)]


SCALARS = [
    *_calls("scalar"),
    *(f"{word}({{}} AS {name})" for word in ("CAST", "TRY_CAST") for name, _ in TYPES.values()),
    *(f"{{}}::{name}" for name, _ in TYPES.values()),
    *(f"EXTRACT({field} FROM {{}})" for field in sorted(EXTRACT_FIELDS)),
    "CAST({} AS VARCHAR(9))", "CAST({} AS CHAR(2))", "CAST({} AS DECIMAL(4))", "CURRENT_DATE", "CURRENT_TIMESTAMP", "{} <=> {}",
    "{} IN (SELECT c FROM t WHERE t.a = {})", "(SELECT SUM({}) FROM t WHERE {})", "CASE WHEN {} THEN {} WHEN {} THEN {} END",
    "CASE {} WHEN {} THEN {} WHEN {} THEN {} ELSE {} END",
    *(f"INTERVAL '{amount}' {unit}" for amount, unit in (
        ("5", "YEAR"), ("-2", "QUARTER"), ("3", "WEEKS"), ("4", "SECOND"), ("7", "MILLISECOND"), ("8", "MICROSECOND"),
        ("1-2", "YEAR TO MONTH"),
        ("6", "MINUTE"), ("1 2:30", "DAY TO MINUTE"),
    )),
]  # fmt: skip
"""Calls of every scalar function, casts to every type, and every field and unit."""
AGGREGATES = _aggregates()
"""Calls of every aggregate."""
WINDOWS = [form for start in range(len(_WINDOWS)) for form in _over_windows(start)]
"""Calls of every aggregate and window function over a window."""


def _filled(form: str, parts: Sequence[str]) -> str:
    for part in parts:
        form = form.replace("{}", part.replace("{}", ""), 1)
    return form


def pairs() -> Iterator[str]:
    """Every form as every operand of every other form, without parentheses."""
    for outer in FORMS:
        for inner in FORMS:
            operand = _filled(inner, ("a", "c", "b", "d"))
            for place in range(outer.count("{}")):
                parts = ["s", "x", "c", "a"]
                parts[place] = operand
                yield _filled(outer, parts)


def constructs(step: int = 1) -> list[str]:
    """Every form of the gate's language with simple operands of three types, or with those of every ``step``-th type."""
    operands = [("a", "c", "x", "a", "c", "x"), ("s", "'5'", "2", "s", "'b'", "1"), ("b", "d", "TRUE", "b", "d", "TRUE")]
    texts = [_filled(form, parts) for form in [*FORMS, *SCALARS, *AGGREGATES, *WINDOWS] for parts in operands]
    return list(dict.fromkeys([*texts[::step], *_ATOMS]))


def expression(rnd: random.Random, depth: int) -> str:
    """An expression, mostly without parentheses. Some are of aggregates or window functions."""
    draw = rnd.random()
    if draw < 0.15:
        return _over_rows(rnd, depth, rnd.choice((AGGREGATES, WINDOWS)))
    return _scalar(rnd, depth)


def _over_rows(rnd: random.Random, depth: int, calls: Sequence[str]) -> str:
    """An expression of calls of ``calls``, whose arguments are scalars."""
    parts = []
    for _ in range(3):
        form = rnd.choice(calls)
        parts.append(_filled(form, [_scalar(rnd, min(depth - 1, 2)) for _ in range(form.count("{}"))]))
    form = rnd.choice(["{}", "{}", *FORMS])
    return _filled(form, [rnd.choice((*parts, "1", "'a'", "NULL")) for _ in range(form.count("{}"))] if form != "{}" else parts)


def _scalar(rnd: random.Random, depth: int) -> str:
    if depth == 0 or rnd.random() < 0.12:
        return rnd.choice(_ATOMS)
    form = rnd.choice(FORMS if rnd.random() < 0.7 else SCALARS)
    parts = [_scalar(rnd, depth - 1) if rnd.random() < 0.6 else rnd.choice(_ATOMS) for _ in range(form.count("{}"))]
    return _filled(form, [f"({part})" if rnd.random() < 0.15 else part for part in parts])


class BrokenStatements:
    """Statements in which one word is missing, doubled, foreign or misplaced."""

    def __init__(self, statements: Sequence[str]) -> None:
        dialect = Dialect.get_or_raise("spark")
        self._words = [[text[token.start : token.end + 1] for token in dialect.tokenize(text)] for text in statements]
        self._pool = [word for words in self._words for word in words]

    def one(self, rnd: random.Random) -> str:
        """One such statement."""
        words = list(rnd.choice(self._words))
        at = rnd.randrange(len(words) - 1)
        new: list[list[str]] = [[], [words[at], words[at]], [rnd.choice(self._pool), words[at]], [rnd.choice(self._pool)]]
        if rnd.random() < 0.8:
            words[at : at + 1] = rnd.choice(new)
        else:
            words[at], words[at + 1] = words[at + 1], words[at]
        return " ".join(words)
