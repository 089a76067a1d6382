"""What a check passes down the syntax tree, and what it collects on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import ROWS, CheckedQuery, ColumnKey, ProtectedInput, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope

MAX_EXPANSION = 1024 * 1024
"""Characters that relations, aliases, ordinals, ``*`` and named windows of one query may expand to, in total."""
MAX_REASONS = 50


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that a query is checked against."""

    catalog: Catalog  # views that the query may read
    rereading: bool  # the text is the gate's own rendering: it may read every column, and owners' rules do not apply again
    withheld: frozenset[ColumnKey]  # columns that no result may show, except identities, which have separate rules

    @staticmethod
    def of(catalog: Catalog, *, rereading: bool = False) -> Rules:
        """The rules of ``catalog``."""
        withheld = frozenset() if rereading else frozenset([pair for view in catalog.views for pair in view.withheld()])
        return Rules(catalog, rereading, withheld)


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
                f"the relations, aliases, ordinals, * and named windows of this query expand to more than {MAX_EXPANSION} characters; "
                "compute each part once, in a common table expression",
            )

    def read_rows(self, view: str) -> None:
        """Record that the query reads rows of ``view``."""
        self.uses.setdefault((view, ROWS), set()).add("rows")

    def release(self, protected: list[ProtectedInput], floor: int) -> int:
        """Record that a SELECT enforces ``floor`` for the inputs ``protected``, and return the number of the release."""
        self.releases += 1
        for item in protected:
            key = (item.view, item.identity_column)
            self.floors[key] = max(self.floors.get(key, 0), floor)
        return self.releases


class Context(NamedTuple):
    """Where in a query a check is."""

    rules: Rules  # rules of the query
    findings: Findings  # what is collected over the whole query
    relations: Mapping[str, CheckedQuery]  # temporary views and common table expressions in force, by lower-case name
    scope: Scope  # scope of the SELECT
    clause: str = "output"  # how the lineage names the use of columns here: `join`, `filter`, `output`, or the name of an aggregate
    aggregate: str = ""  # name of the aggregate whose arguments are being checked, or empty
    aggregates_allowed: bool = False  # the clause may contain aggregates and window functions
    in_window: bool = False  # inside a call of a window function
    in_qualify: bool = False  # directly inside QUALIFY, where aliases keep their names
    # Lower-case names of the aliases that are being expanded. Inside, they do not refer to themselves
    expanding: frozenset[str] = frozenset()

    def for_select(self, scope: Scope) -> Context:
        """The context of a SELECT with ``scope``; clauses and aggregates around it do not apply inside."""
        return Context(self.rules, self.findings, self.relations, scope)

    def in_clause(self, clause: str, *, aggregates: bool = False) -> Context:
        """This context in a clause of the SELECT."""
        return Context(self.rules, self.findings, self.relations, self.scope, clause, "", aggregates)

    def in_aggregate(self, name: str, use: str) -> Context:
        """This context inside an aggregate whose use of columns the lineage calls ``use``."""
        return self._replace(clause=use, aggregate=name)

    def inside_window(self) -> Context:
        """This context inside a call of a window function."""
        return self._replace(clause="window", in_window=True)

    def inside_qualify(self) -> Context:
        """This context in the QUALIFY clause."""
        return Context(self.rules, self.findings, self.relations, self.scope, "filter", aggregates_allowed=True, in_qualify=True)

    def expanding_alias(self, name: str) -> Context:
        """This context inside the expression that the alias ``name`` stands for."""
        return self._replace(in_qualify=False, expanding=self.expanding | {name.lower()})

    def record(self, value: Value) -> None:
        """Record in the lineage that this clause reads ``value``. The gate's own rendering needs no lineage."""
        if self.rules.rereading:
            return
        uses, clause = self.findings.uses, self.clause
        for view, column, _ in value.origins:
            key = (view, column)
            if key in uses:
                uses[key].add(clause)
            else:
                uses[key] = {clause}
