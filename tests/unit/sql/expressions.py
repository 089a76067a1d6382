"""Generated expressions and statements: those of Spark's grammar, those of other dialects that the parser also reads, and broken ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from sqlglot.dialects.dialect import Dialect

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


def expression(rnd: random.Random, depth: int) -> str:
    """An expression, mostly without parentheses."""
    if depth == 0 or rnd.random() < 0.12:
        return rnd.choice(_ATOMS)
    form = rnd.choice(FORMS)
    parts = [expression(rnd, depth - 1) if rnd.random() < 0.6 else rnd.choice(_ATOMS) for _ in range(form.count("{}"))]
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
