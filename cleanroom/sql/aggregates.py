"""Groups, aggregates and windows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.expressions import only, position_of
from cleanroom.sql.floors import Floors
from cleanroom.sql.functions import result_type
from cleanroom.sql.lexical import Refusal, strip_invisible
from cleanroom.sql.marking import MARK
from cleanroom.sql.values import ATOM, ROWS, Scope, Value
from cleanroom.sql.vocabulary import COUNTING, FUNCTIONS, IGNORING_NULLS, MIXING, WITHIN_GROUP

_LEAVES = frozenset({exp.Column, exp.Literal, exp.Identifier, exp.Null, exp.Boolean, exp.Star, exp.DataType})
_COMPOSED = COUNTING | MIXING | {"MIN", "MAX"}


class Aggregates(Floors):
    """Mixin of the checker: what GROUP BY makes of rows, and functions over groups and windows."""

    allow_aggregate: bool
    in_qualify: bool
    floors: dict[tuple[str, str], int]

    def note(self, refusal: Refusal) -> None:
        raise NotImplementedError

    # -- GROUP BY -------------------------------------------------------------------------------------------------

    def _prepare_groups(self, node: exp.Select, scope: Scope, items: Sequence[exp.Expr | Value]) -> None:
        """Sets the group keys of ``scope``, whether its groups are single persons, and the text of GROUP BY."""
        named = {}
        for item in node.expressions:
            if type(item) is exp.Alias and isinstance(item.args["alias"], exp.Identifier):
                named[str(item.args["alias"].this).lower()] = item.this
        group = node.args.get("group")
        keys: list[Value] = []
        if group is not None:
            self.context = "group"
            scope.aliases = dict(named)
            keys = self._group(group, scope, items)
            scope.group_keys = {key.sql for key in keys}
        elif node.args.get("having") is not None or any(_aggregates(item) for item in node.expressions):
            scope.group_keys = set()
        scope.aliases = named
        if scope.group_keys is not None and scope.slots:
            scope.keyed = self.is_keyed(scope, keys)
            scope.raw_keys = [key.sql for key in keys if key.raw]
            if not scope.keyed:
                for key in keys:
                    self.check_release_key(key, node)

    def _group(self, group: exp.Expr, scope: Scope, items: Sequence[exp.Expr | Value]) -> list[Value]:
        only(group, "expressions", "rollup", "cube", "grouping_sets", "all")
        composed = (exp.Rollup, exp.Cube, exp.GroupingSets)
        plain = [key for key in group.expressions if not isinstance(key, composed)]
        if group.args.get("all"):
            plain = [exp.Literal.number(index + 1) for index, item in enumerate(items) if isinstance(item, Value) or not _aggregates(item)]
            if group.expressions or not plain:
                raise Refusal("ClauseNotAllowed", "GROUP BY ALL needs a column that is not an aggregate", position_of(group))
        hive = group.args.get("grouping_sets")
        if hive and plain and not group.args.get("rollup") and not group.args.get("cube"):  # GROUP BY a, b GROUPING SETS ((a), (b))
            listed = {key.sql for key in self._grouping(hive[0], [], scope, items)[0]}
            if not all(self._group_key(key, scope, items).sql in listed for key in plain):
                raise Refusal("ClauseNotAllowed", "each key before GROUPING SETS must be in one of the sets", position_of(group))
            plain = []
        many = [key for key in group.expressions if isinstance(key, composed)]
        many += [part for name in ("rollup", "cube", "grouping_sets") for part in group.args.get(name) or []]
        scope.multiplied = scope.multiplied or bool(many)
        if many and scope.slots:
            raise Refusal(
                "DifferencingRisk",
                "ROLLUP, CUBE and GROUPING SETS over rows under a privacy floor: "
                "totals minus parts would show the groups that are suppressed",
                position_of(group),
            )
        keys = [self._group_key(key, scope, items) for key in plain]
        texts = [key.sql for key in keys]
        for part in many:
            inner, text = self._grouping(part, keys, scope, items)
            if not part.expressions:  # GROUP BY a, b WITH ROLLUP
                texts = []
            keys = keys + inner
            texts.append(text)
        if plain and any(isinstance(part, exp.GroupingSets) for part in many):
            raise Refusal("ClauseNotAllowed", "GROUPING SETS beside other group keys: write every set out instead", position_of(group))
        scope.group_text = "\nGROUP BY " + ", ".join(texts)
        return keys

    def _grouping(self, node: exp.Expr, before: list[Value], scope: Scope, items: Sequence[exp.Expr | Value]) -> tuple[list[Value], str]:
        only(node, "expressions")
        if not isinstance(node, exp.GroupingSets):
            inner = [self._group_key(key, scope, items) for key in node.expressions]
            word = "ROLLUP" if isinstance(node, exp.Rollup) else "CUBE"
            return inner, f"{word}({', '.join(key.sql for key in inner or before)})"
        keys: list[Value] = []
        sets = []
        for each in node.expressions:
            members = each.expressions if isinstance(each, exp.Tuple) else [each]
            inner = [self._group_key(key, scope, items) for key in members]
            keys += inner
            sets.append(f"({', '.join(key.sql for key in inner)})")
        return keys, f"GROUPING SETS({', '.join(sets)})"

    def _group_key(self, node: exp.Expr, scope: Scope, items: Sequence[exp.Expr | Value]) -> Value:
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdecimal():
            index = int(str(node.this)) - 1
            if not 0 <= index < len(items):
                raise Refusal("ClauseNotAllowed", f"GROUP BY {node.this}: there is no such column", position_of(node))
            item = items[index]
            value = item if isinstance(item, Value) else self.value(item, scope)
            self.expand(len(value.sql), node)
        else:
            value = self.value(node, scope)
        if not value.origins and not value.sources and value.degree == 0:
            raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning", position_of(node))
        if value.sql.isdecimal():
            raise Refusal("ClauseNotAllowed", "GROUP BY a constant has no meaning", position_of(node))
        return value

    # -- aggregates -----------------------------------------------------------------------------------------------

    def aggregate_value(self, node: exp.Anonymous, name: str, scope: Scope) -> Value:
        if not self.allow_aggregate or self.aggregate:
            where = "inside another aggregate" if self.aggregate else "in this clause"
            raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed {where}", position_of(node))
        if self.in_qualify:
            raise Refusal("AggregateNotAllowedHere", f"QUALIFY: give {name}(…) an alias in the SELECT and use that here", position_of(node))
        if (not node.expressions and name == "MODE") or WITHIN_GROUP.get(name):
            raise Refusal("WrongArguments", f"{name}(…) needs WITHIN GROUP (ORDER BY …)", position_of(node))
        text, args, distinct = self._aggregate_args(node, name, scope)
        return self._aggregate_result(node, name, f"{name}({text})", args, distinct, scope)

    def within_group(self, node: exp.Expr, scope: Scope) -> Value:
        """``PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY x)`` and its like: aggregates of what they sort by."""
        only(node, "this", "expression")
        call, order = node.this, node.args["expression"]
        name = called(call)
        if name not in WITHIN_GROUP or not isinstance(order, exp.Order) or (WITHIN_GROUP[name] and len(call.expressions) != 1):
            raise Refusal(
                "FunctionNotAllowed", f"WITHIN GROUP (ORDER BY …) is allowed with {', '.join(sorted(WITHIN_GROUP))}", position_of(node)
            )
        if not self.allow_aggregate or self.aggregate:
            raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed in this clause", position_of(node))
        only(call, "this", "expressions")
        only(order, "expressions")
        text, args, distinct = self._aggregate_args(call, name, scope)
        saved = self.context, self.aggregate
        self.context, self.aggregate = name.lower(), name
        try:
            texts, keys = self._sort_keys(order, scope)
        finally:
            self.context, self.aggregate = saved
        for key in keys:
            if key.windowed or key.identity:
                raise Refusal("AggregateNotAllowedHere", f"{name} cannot sort by a window or an identity", position_of(node))
        listed = name in ("LISTAGG", "STRING_AGG")
        if not listed and (len(keys) != 1 or (name == "MODE" and args)):
            raise Refusal("WrongArguments", f"{name} sorts by one expression", position_of(node))
        sql = f"{name}({text}) WITHIN GROUP (ORDER BY {', '.join(texts)})"
        out = self._aggregate_result(node, name, sql, [*args, *keys] if listed else keys, distinct, scope)
        out.degree = None
        return out

    def nulls_treatment(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this")
        if called(node.this) not in IGNORING_NULLS:
            raise Refusal("FunctionNotAllowed", f"IGNORE NULLS is allowed with {', '.join(sorted(IGNORING_NULLS))}", position_of(node))
        out = self.value(node.this, scope)
        if isinstance(node, exp.IgnoreNulls):
            out.sql += " IGNORE NULLS"
        return out

    def _aggregate_args(self, node: exp.Anonymous, name: str, scope: Scope) -> tuple[str, list[Value], bool]:
        nodes, distinct = node.expressions, False
        if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
            only(nodes[0], "expressions")
            nodes, distinct = nodes[0].expressions, True
            if len(nodes) > FUNCTIONS[name].most:
                raise Refusal("WrongArguments", f"{name} does not take {len(nodes)} arguments", position_of(node))
        if len(nodes) == 1 and isinstance(nodes[0], exp.Star):
            only(nodes[0])
            if name != "COUNT" or distinct:
                raise Refusal("WrongArguments", f"{name}(*) is not allowed", position_of(node))
            return "*", [], False
        if len(nodes) > 1 and name == "COUNT" and not distinct:
            raise Refusal("WrongArguments", "COUNT takes one column, or DISTINCT several", position_of(node))
        if name in ("GROUPING", "GROUPING_ID"):
            args = self.all(nodes, scope)
            return ", ".join(arg.sql for arg in args), args, False
        saved = self.context, self.aggregate
        self.context, self.aggregate = name.lower(), name
        try:
            args = self.all(nodes, scope)
        finally:
            self.context, self.aggregate = saved
        for arg in args:
            if arg.windowed:
                raise Refusal("AggregateNotAllowedHere", f"{name} of a window function is not allowed", position_of(node))
            if arg.identity and name not in ("COUNT", "APPROX_COUNT_DISTINCT"):
                raise Refusal("IdentityUse", f"{name} of {arg.name}: an identity may be counted and nothing else", position_of(node))
        return ("DISTINCT " if distinct else "") + ", ".join(arg.sql for arg in args), args, distinct

    def _aggregate_result(self, node: exp.Expr, name: str, sql: str, args: list[Value], distinct: bool, scope: Scope) -> Value:
        if scope.slots and not scope.keyed:
            self.protected_aggregate(name, args, distinct, scope, node)
        how = name.lower()
        floored = {slot.view for slot in scope.slots}
        degree = 1 if name in _COMPOSED and all(arg.degree is not None and not arg.matched for arg in args) else None
        return Value(
            sql,
            result_type(FUNCTIONS[name], args) if args else "long",
            ATOM,
            origins=frozenset((view, column, how) for arg in args for view, column, _ in arg.origins)
            or frozenset((view, ROWS, how) for view in scope.views),
            exposed=self.still_exposed(name, args, scope, floored),
            degree=degree,
            aggregated=True,
            weight=max((arg.weight for arg in args), default=1.0),
        )

    def aggregate_filter(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "expression")
        call = node.this
        if not isinstance(call, exp.Anonymous) or not isinstance(node.args["expression"], exp.Where):
            raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate", position_of(node))
        if FUNCTIONS.get(called(call), FUNCTIONS["ABS"]).kind != "aggregate":
            raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate", position_of(node))
        value = self.value(call, scope)
        only(node.args["expression"], "this")
        saved = self.context, self.aggregate
        self.context, self.aggregate = "condition", "FILTER"
        try:
            condition = self.value(node.args["expression"].this, scope)
        finally:
            self.context, self.aggregate = saved
        if scope.slots and not scope.keyed:
            self.add_cells([condition], node, scope)
        condition.free = False
        out = self.combine(f"{value.sql} FILTER(WHERE {condition.sql})", value.type, ATOM, [value, condition], node)
        out.aggregated, out.free, out.degree = True, False, None
        return out

    def branches(self, conditions: Sequence[Value], node: exp.Expr, scope: Scope) -> bool:
        if self.aggregate and scope.slots and not scope.keyed:
            self.add_cells(conditions, node, scope)
            return True
        return False

    # -- windows --------------------------------------------------------------------------------------------------

    def window_value(self, node: exp.Expr, scope: Scope) -> Value:
        only(node, "this", "partition_by", "order", "spec", "alias", "over")
        if str(node.args.get("over") or "OVER").upper() != "OVER":
            raise Refusal("ClauseNotAllowed", "only OVER (…) is allowed", position_of(node))
        if not self.allow_aggregate or self.aggregate:
            raise Refusal("AggregateNotAllowedHere", "a window function is not allowed here", position_of(node))
        call, where, nulls = node.this, None, ""
        if isinstance(call, exp.Filter):
            only(call, "this", "expression")
            only(call.args["expression"], "this")
            call, where = call.this, call.args["expression"].this
        if isinstance(call, exp.IgnoreNulls | exp.RespectNulls):
            only(call, "this")
            nulls = " IGNORE NULLS" if isinstance(call, exp.IgnoreNulls) else ""
            call = call.this
        name = called(call)
        if not name:
            raise Refusal("FunctionNotAllowed", "this function is not allowed over a window", position_of(node))
        only(call, "this", "expressions")
        function = FUNCTIONS[name]
        allowed = function.kind in ("aggregate", "window") and not WITHIN_GROUP.get(name) and name not in ("GROUPING", "GROUPING_ID")
        if not allowed or not max(function.least, name == "MODE") <= len(call.expressions) <= function.most:
            raise Refusal("FunctionNotAllowed", f"{name} is not allowed over a window", position_of(node))
        if nulls and name not in IGNORING_NULLS:
            raise Refusal("FunctionNotAllowed", f"IGNORE NULLS is not allowed with {name}", position_of(node))
        if where is not None and function.kind != "aggregate":
            raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate", position_of(node))
        if len(call.expressions) == 1 and isinstance(call.expressions[0], exp.Distinct):
            raise Refusal("ClauseNotAllowed", f"{name}(DISTINCT …) OVER (…): Spark has no such window; aggregate first", position_of(node))
        saved = self.context, self.in_window
        self.context, self.in_window = "window", True
        try:
            if len(call.expressions) == 1 and isinstance(call.expressions[0], exp.Star) and name == "COUNT":
                only(call.expressions[0])
                args, text = [], "*"
            else:
                args = self.all(call.expressions, scope)
                text = ", ".join(arg.sql for arg in args)
            over, partition, parts = self._over(node, scope)
            if where is not None:
                parts.append(self.value(where, scope))
                nulls += f" FILTER(WHERE {parts[-1].sql})"
        finally:
            self.context, self.in_window = saved
        if scope.slots and (scope.group_keys is None or scope.keyed):
            if scope.keyed or not self.is_keyed(scope, partition):
                raise Refusal(
                    "WindowOverFloor",
                    "a window over rows under a privacy floor must be PARTITION BY their identity; or aggregate them first",
                    position_of(node),
                )
            partition = [key for key in partition if not (key.raw and key.identity)]
        parts += partition
        kind = result_type(function, args) if args else ("long" if name == "COUNT" else function.result)
        out = self.combine(f"{name}({text}){nulls} OVER ({over})", kind, ATOM, [*args, *parts], node)
        out.windowed, out.degree = True, None
        return out

    def check_windows(self, scope: Scope) -> None:
        """Named windows that nothing uses, which therefore do not run: they are held to the same rules."""
        self.context = "window"
        for definition in scope.windows.values():
            self._over(definition, scope)

    def _over(self, node: exp.Expr, scope: Scope) -> tuple[str, list[Value], list[Value]]:
        """Text of a window, what it partitions by and what it sorts by."""
        alias = node.args.get("alias")
        if alias is not None:
            definition = scope.windows.get(alias.name.lower())
            if definition is None or node.args.get("partition_by") or node.args.get("order") or node.args.get("spec"):
                raise Refusal(
                    "ClauseNotAllowed",
                    f"OVER {strip_invisible(alias.name)[:80]}: a named window of this SELECT is used as it is; write it out as OVER (…)",
                    position_of(node),
                )
            only(definition, "this", "partition_by", "order", "spec")
            node = definition
        partition = self.all(node.args.get("partition_by") or [], scope)
        values: list[Value] = []
        text = []
        if partition:
            text.append("PARTITION BY " + ", ".join(part.sql for part in partition))
        order = node.args.get("order")
        if order is not None:
            only(order, "expressions")
            keys, values = self._sort_keys(order, scope)
            text.append("ORDER BY " + ", ".join(keys))
        spec = node.args.get("spec")
        if spec is not None:
            only(spec, "kind", "start", "start_side", "end", "end_side")
            kind = str(spec.args.get("kind") or "").upper()
            if kind not in ("ROWS", "RANGE"):
                raise Refusal("ClauseNotAllowed", "a window frame is ROWS or RANGE", position_of(node))
            start = self._bound(spec.args.get("start"), spec.args.get("start_side"), node, scope)
            end = (
                self._bound(spec.args.get("end"), spec.args.get("end_side"), node, scope)
                if spec.args.get("end") is not None
                else "CURRENT ROW"
            )
            text.append(f"{kind} BETWEEN {start} AND {end}")
        if alias is not None:
            self.expand(sum(map(len, text)), node)
        return " ".join(text), partition, values

    def _sort_keys(self, order: exp.Expr, scope: Scope) -> tuple[list[str], list[Value]]:
        texts, values = [], []
        for item in order.expressions:
            only(item, "this", "desc", "nulls_first")
            values.append(self.value(item.this, scope))
            texts.append(values[-1].sql + direction(item))
        return texts, values

    def _bound(self, bound: object, side: object, node: exp.Expr, scope: Scope) -> str:
        if isinstance(bound, str) and bound.upper() == "CURRENT ROW":
            return "CURRENT ROW"
        word = str(side or "").upper()
        if word in ("PRECEDING", "FOLLOWING"):
            if isinstance(bound, str) and bound.upper() == "UNBOUNDED":
                return f"UNBOUNDED {word}"
            if isinstance(bound, exp.Literal) and not bound.is_string and str(bound.this).isdecimal():
                return f"{bound.this} {word}"
            if isinstance(bound, exp.Interval):
                return f"{self.value(bound, scope).sql} {word}"
        raise Refusal("ClauseNotAllowed", "a frame bound is UNBOUNDED, CURRENT ROW, a whole number or an interval", position_of(node))


def called(node: object) -> str:
    """Name of the function of the vocabulary that ``node`` calls, or nothing."""
    name = node.this if isinstance(node, exp.Anonymous) else None
    if not isinstance(name, str) or not name.startswith(MARK):
        return ""
    name = name[len(MARK) :]
    return name if name in FUNCTIONS else ""


def direction(item: exp.Expr) -> str:
    """Sort direction with the place of NULLs spelt out, so that every engine sorts alike."""
    return f" {'DESC' if item.args.get('desc') else 'ASC'} NULLS {'FIRST' if item.args.get('nulls_first') else 'LAST'}"


def _aggregates(node: exp.Expr) -> bool:
    """Whether ``node`` holds an aggregate of its own SELECT: not in a subquery, and not as the function of a window."""
    while type(node) is exp.Alias:
        node = node.this
    if type(node) in _LEAVES:
        return False
    stack = [node]
    while stack:
        part = stack.pop()
        kind = type(part)
        if kind in _LEAVES or isinstance(part, exp.Query | exp.Exists):
            continue
        if isinstance(part, exp.Window):
            call = part.this
            while isinstance(call, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
                stack += [call.args["expression"]] if isinstance(call, exp.Filter) else []
                call = call.this
            stack += [*call.expressions, *(part.args.get("partition_by") or []), *filter(None, [part.args.get("order")])]
            continue
        if kind is exp.Anonymous and isinstance(part.this, str):
            function = FUNCTIONS.get(part.this.removeprefix(MARK))
            if function is not None and function.kind == "aggregate":
                return True
        stack += part.iter_expressions()
    return False
