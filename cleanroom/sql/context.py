"""What a check passes down the syntax tree, and what it collects on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import NO_NAMES, OR, CheckedQuery, ColumnKey, ProtectedInput, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.tokens import Tokens

MAX_EXPANSION = 1024 * 1024
"""Characters that relations, aliases, ordinals and ``*`` of one query may expand to, in total."""
MAX_REASONS = 50


@dataclass(slots=True)
class Findings:
    """What the checks of one query collect, across its segments."""

    uses: dict[ColumnKey, set[str]] = field(default_factory=dict)  # for each input column, the clauses and aggregates that read it
    # For each view and identity column, the floor that the rewritten query enforces
    floors: dict[ColumnKey, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)  # refusals after which the check could continue
    releases: int = 0  # number of releases so far
    # What an owner should look at: codes and messages, in the order of the query
    warnings: dict[tuple[str, str], None] = field(default_factory=dict)
    expansion: int = 0  # characters of MAX_EXPANSION that are used up

    def warn(self, code: str, message: str) -> None:
        """Record something that an owner should look at."""
        self.warnings[code, message] = None

    def note(self, refusal: Refusal) -> None:
        """Record a refusal and continue, unless there are too many."""
        self.refusals.append(refusal)
        if len(self.refusals) > MAX_REASONS:
            raise refusal

    def expand(self, size: int) -> None:
        """Count what a short text expands to: without a limit, ``a + a AS b, b + b AS c, …`` doubles with every item."""
        self.expansion += size
        if self.expansion > MAX_EXPANSION:
            raise Refusal(
                "QueryTooLarge",
                f"the relations, aliases, ordinals and * of this query expand to more than {MAX_EXPANSION} characters; "
                "compute each part once, in a common table expression",
            )

    def release(self, protected: list[ProtectedInput], floor: int) -> int:
        """Record that a SELECT enforces ``floor`` for the inputs ``protected``, and return the number of the release."""
        self.releases += 1
        for item in protected:
            key = (item.view, item.identity_column)
            self.floors[key] = max(self.floors.get(key, 0), floor)
        return self.releases


class Context(NamedTuple):
    """Where in a query a check is."""

    catalog: Catalog  # views that the query may read, with the owners' rules
    findings: Findings  # what is collected over the whole query
    text: Tokens  # text of the statement
    # The functions through which the readers of constructs read what is inside of them
    read_expression: Callable[[Context, int], Value]
    read_query: Callable[[Context, Scope | None, bool], CheckedQuery]
    relations: Mapping[str, CheckedQuery]  # temporary views and common table expressions in force, by lower-case name
    scope: Scope  # scope of the SELECT
    clause: str = "output"  # how the lineage names the use of columns here: `join`, `filter`, `output`, or the name of an aggregate
    aggregate: str = ""  # name of the aggregate whose arguments are being checked, or empty
    aggregates_allowed: bool = False  # the clause may contain aggregates and window functions
    in_qualify: bool = False  # directly inside QUALIFY, where aliases keep their names
    # Lower-case names of the aliases that are being expanded. Inside, they do not refer to themselves
    expanding: frozenset[str] = NO_NAMES

    def for_select(self, scope: Scope) -> Context:
        """The context of a SELECT with ``scope``; clauses and aggregates around it do not apply inside."""
        return Context(*self[:6], scope)

    def in_clause(self, clause: str, *, aggregates: bool = False) -> Context:
        """This context in a clause of the SELECT."""
        return Context(*self[:7], clause, "", aggregates)

    def in_aggregate(self, name: str, use: str) -> Context:
        """This context inside an aggregate whose use of columns the lineage calls ``use``."""
        return self._replace(clause=use, aggregate=name)

    def expression(self, least: int = OR) -> Value:
        """Read and check an expression whose operators have a precedence of ``least`` or more."""
        return self.read_expression(self, least)

    def expressions(self) -> list[Value]:
        """Read expressions with commas between them."""
        return self.text.listed(self.expression)

    def query(self, parent: Scope | None, hidden: bool) -> CheckedQuery:
        """Read and check a query, which may read columns of the scope ``parent`` if it is a correlated subquery.

        If ``hidden``, its output ends with the identity columns of protected rows, so that an enclosing query can count persons.
        """
        return self.read_query(self, parent, hidden)

    def record(self, value: Value) -> None:
        """Record in the lineage that this clause reads ``value``."""
        uses, clause = self.findings.uses, self.clause
        for view, column, _ in value.origins:
            uses.setdefault((view, column), set()).add(clause)
