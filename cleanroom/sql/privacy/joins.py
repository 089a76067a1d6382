"""Which relations may be joined with protected rows, so that the query text cannot put one person into overlapping result rows.

Relations with protected rows are joined on their identities. Any other relation is joined by columns on which it is unique, so that
each protected row finds one row at most. Where that is not known, the rewritten query leaves out the rows of the relation whose key
occurs more than once.

Relations with protected rows may have several rows per person, so that a protected row may be in several result rows. The rewritten
query then drops result rows that overlap with another row in all but a few persons.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from cleanroom.sql.model import Equality, ProtectedInput, Relation, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import EqualColumns

_WHOLE_NUMBERS = frozenset({"integer", "long"})
_ALIAS = re.compile(r"`?([^`.]+)`?\.")


class Attached(NamedTuple):
    """How the relations of a FROM clause are joined with its protected rows."""

    repeated: frozenset[str] = frozenset()  # aliases of relations whose rows may be in several rows, with different values of others
    enforce: Mapping[str, tuple[str, ...]] = {}  # aliases of relations whose rows must be made unique, and the columns
    by_other_columns: tuple[str, ...] = ()  # aliases of the relations that are not joined by the identity
    chosen: bool = False  # a relation without persons is joined by several columns


def alias_in(reference: str) -> str:
    """Alias of the relation that the column ``reference`` belongs to."""
    match = _ALIAS.match(reference)
    return match.group(1) if match else ""


class _Graph:
    """The relations that are joined so far, starting from the protected ones."""

    def __init__(self, relations: Mapping[str, Relation], protected: Sequence[ProtectedInput], pairs: Sequence[Equality]) -> None:
        self.relations = relations
        # Other types are cast before they are compared.
        comparable = ((pair, {pair.first.type, pair.second.type}) for pair in pairs if pair.plain)
        self.pairs = [pair for pair, types in comparable if len(types) == 1 or types <= _WHOLE_NUMBERS]
        self.references = {item.reference for item in protected}
        self.persons = self._same_values()
        self.core = list(dict.fromkeys(alias_in(item.reference) for item in protected))
        self.reached: set[str] = set()
        self.many: set[str] = set()

    def _same_values(self) -> set[str]:
        """Columns that carry an identity of the protected rows."""
        found, size = set(self.references), 0
        while len(found) != size:
            size = len(found)
            for pair in self.pairs:
                texts = {pair.first.sql, pair.second.sql}
                if pair.same and texts & found:
                    found |= texts
        return found

    def into(self, alias: str) -> list[tuple[Value, Value]]:
        """Pairs of a column of a reached relation and a column of ``alias`` that select rows of ``alias``."""
        found = []
        for one, two, _, restricts in self.pairs:
            for outer, inner in ((one, two), (two, one)):
                if inner.sources != {alias} or not outer.sources or not outer.sources <= self.reached:
                    continue
                # Rows of persons are kept only where the condition is true, if they are the optional side.
                if restricts is None or alias in restricts or (self.core == list(outer.sources) and outer.sources <= restricts):
                    found.append((outer, inner))
        return found

    def by_identity(self, pairs: Iterable[tuple[Value, Value]]) -> bool:
        return any(outer.type == inner.type and (outer.sql in self.persons or outer.identity) for outer, inner in pairs)

    def is_unique(self, alias: str, names: Collection[str]) -> bool:
        unique_on = self.relations[alias].unique_on
        return unique_on is not None and unique_on <= set(names)

    def reach_core(self) -> bool:
        """Reach every relation with protected rows by joins on identities."""
        for start in self.core:
            self.reached, self.many = {start}, set()
            waiting = [alias for alias in self.core if alias != start]
            while waiting:
                found = next((alias for alias in waiting if self._joins_persons(alias)), None)
                if found is None:
                    break
                self.reached.add(found)
                waiting.remove(found)
            if not waiting:
                self.many = {alias for alias in self.core if not self._one_row_per_person(alias)}
                return True
        return False

    def _joins_persons(self, alias: str) -> bool:
        return any(
            outer.type == inner.type
            and ((outer.sql in self.persons and inner.sql in self.references) or (outer.identity and inner.identity))
            for outer, inner in self.into(alias)
        )

    def _one_row_per_person(self, alias: str) -> bool:
        columns = self.relations[alias].columns
        return self.is_unique(alias, [name for name, value in columns.items() if value.sql in self.persons])


def attach(relations: Sequence[Relation], protected: Sequence[ProtectedInput], pairs: Sequence[Equality]) -> Attached:
    """Decide how the relations of a FROM clause are joined with its protected rows.

    Args:
        relations: Relations of the FROM clause.
        protected: Its protected inputs.
        pairs: Columns that its conditions compare for equality.

    Raises:
        Refusal: ``JoinNotOnIdentity`` or ``FanOutOverFloor``.
    """
    by_alias = {relation.alias: relation for relation in relations}
    enforce = _chosen(by_alias, protected)
    if not protected or len(by_alias) < 2:
        return Attached(enforce=enforce)
    graph = _Graph(by_alias, protected, pairs)
    graph.core = [alias for alias in graph.core if alias in by_alias]
    if not graph.core:
        return Attached(frozenset(by_alias), enforce)
    if not graph.reach_core():
        names = " and ".join(by_alias[alias].written_alias for alias in graph.core)
        raise Refusal(
            "JoinNotOnIdentity",
            f"{names} are under privacy floors: join them by an equality of their identity columns, which must have the same type "
            "and no cast (further conditions may follow with AND)",
        )
    others: list[str] = []
    chosen = False
    waiting = [alias for alias in by_alias if alias not in graph.reached]
    while waiting:
        alias = _attach_one(graph, waiting, enforce, others)
        if alias is None:
            raise Refusal(
                "FanOutOverFloor",
                f"{by_alias[waiting[0]].written_alias} is joined with rows under a privacy floor by no equality of two columns of the same "
                "type, so that it could copy them; join it by equal columns, without a cast",
            )
        waiting.remove(alias)
        chosen = chosen or len({inner.sql for _, inner in graph.into(alias)}) > 1
        graph.reached.add(alias)
    repeated = frozenset([alias for alias in graph.core if graph.many - {alias}])
    return Attached(repeated, enforce, tuple(others), chosen)


def _chosen(relations: Mapping[str, Relation], protected: Iterable[ProtectedInput]) -> dict[str, tuple[str, ...]]:
    """The relations whose rows persons choose, and the column on which they must be made unique: a person may have several of them."""
    own = {alias_in(item.reference) for item in protected if not item.chooses}
    enforce: dict[str, tuple[str, ...]] = {}
    for item in protected:
        relation = relations.get(alias_in(item.reference)) if item.chooses else None
        if relation is None or relation.alias in own:
            continue
        name = next(name for name, value in relation.columns.items() if value.sql == item.reference)
        if relation.unique_on is not None and relation.unique_on <= {name}:
            continue
        if relation.alias in enforce:
            how = f"IN with persons compares two columns of {relation.written_alias}; compare one of them"
            raise Refusal("FanOutOverFloor", how)
        enforce[relation.alias], relation.unique_on = (item.reference,), frozenset([name])
    return enforce


def decided_by(person: str, relations: Collection[Relation], equal: EqualColumns) -> set[str]:
    """Aliases of the ``relations`` of which all rows of a person are joined with the same row; ``person`` reads the identity.

    They are unique on the identity, or on columns of another such relation. All equalities hold in every row.
    """
    known, found = {equal.representative(person)}, set[str]()
    waiting = [relation for relation in relations if relation.unique_on and relation.unique_on <= relation.columns.keys()]
    while True:
        reached = [
            relation
            for relation in waiting
            if relation.alias not in found
            and all(equal.representative(relation.columns[name].sql) in known for name in relation.unique_on or ())
        ]
        if not reached:
            return found
        for relation in reached:
            found.add(relation.alias)
            known |= {equal.representative(value.sql) for value in relation.columns.values()}


def _attach_one(graph: _Graph, waiting: Sequence[str], enforce: dict[str, tuple[str, ...]], others: list[str]) -> str | None:
    """Attach one relation of ``waiting``, and return its alias; None if there is no way."""
    reachable = {alias: pairs for alias in waiting if (pairs := graph.into(alias))}
    found = next((alias for alias, pairs in reachable.items() if graph.is_unique(alias, [it.name.lower() for _, it in pairs])), None)
    if found is None:
        texts = {alias: tuple(dict.fromkeys(inner.sql for _, inner in pairs)) for alias, pairs in reachable.items()}
        found = next((alias for alias in texts if texts[alias]), None)
        if found is None:
            return None
        enforce[found] = texts[found]
    if not graph.by_identity(reachable[found]):
        others.append(found)
    return found
