"""Generate faults: each is a copy of a module's syntax tree with one small change.

The kinds are those that real changes introduce: a check dropped, a comparison turned, ``max`` for ``min``, one element of a loop
skipped, a call left out, a constant moved, an option not passed. Text that only people read (messages, hints, docstrings,
annotations, log calls) is never changed.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
SWAPPED_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
UNWRAPPED = {"shield", "to_the_end", "run_to_end", "frozenset", "sorted", "abs"}
FOR_PEOPLE = {
    "hint",
    "details",
    "cause",
    "message",
    "party",
    "description",
    "title",
    "summary",
    "static_summary",
    "help",
    "what",
    "expected",
    "actual",
    "show",
}
LOGGERS = {"log", "logger", "LOG", "_log", "logging"}

Statement = ast.stmt


@dataclass(frozen=True)
class Fault:
    """One change of one module."""

    file: str
    function: str
    kind: str
    first_line: int
    last_line: int
    before: str
    after: str
    put: Callable[[], ast.Module]
    """Change the module's tree in place and return it. Called once, in the process of this fault."""

    @property
    def name(self) -> str:
        """Identify the fault in ``equivalent.toml``; it does not depend on line numbers."""
        return f"{self.file}::{self.function}::{self.kind}::{' '.join(self.before.split())} => {' '.join(self.after.split())}"


def _header(statement: Statement) -> tuple[int, int]:
    """Lines of a statement without the lines of its block."""
    body = getattr(statement, "body", None)
    if isinstance(statement, ast.Match):
        return statement.lineno, statement.cases[0].body[0].lineno
    last = body[0].lineno - 1 if isinstance(body, list) and body and isinstance(body[0], ast.stmt) else statement.end_lineno
    return statement.lineno, max(statement.lineno, last or statement.lineno)


def _shown(statement: Statement) -> str:
    """The statement's own text: its first line when it has a block."""
    text = ast.unparse(statement)
    return text.splitlines()[0] if hasattr(statement, "body") else text


def _is_log_call(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        root = node.func.value
        return (isinstance(root, ast.Name) and root.id in LOGGERS) or (isinstance(root, ast.Attribute) and root.attr in LOGGERS)
    return False


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the expressions of one statement that code, not people, reads; nested statements are excluded."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        if name in ("body", "orelse", "finalbody", "handlers", "cases") and isinstance(node, ast.stmt):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.stmt | ast.JoinedStr):
                continue
            if (isinstance(child, ast.keyword) and child.arg in FOR_PEOPLE) or _is_log_call(child):
                continue
            yield child
            yield from _expressions(child)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST | None]]]:
    """Yield kinds of faults for one expression, each with a function that changes a copy in place or returns a replacement."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if other := COMPARISONS.get(type(operator)):

                def turn(copied: ast.Compare, index: int = index, other: type[ast.cmpop] = other) -> None:
                    copied.ops[index] = other()

                yield "compare", turn  # type: ignore[misc]
        right = node.comparators[0]
        if len(node.ops) == 1 and isinstance(node.left, ast.Tuple) and isinstance(right, ast.Tuple):
            for index in range(len(node.left.elts)):

                def shorten(copied: ast.Compare, index: int = index) -> None:
                    del copied.left.elts[index], copied.comparators[0].elts[index]  # type: ignore[attr-defined]

                yield "compare-less", shorten  # type: ignore[misc]
    elif isinstance(node, ast.BoolOp):
        for index in range(len(node.values)):

            def drop(copied: ast.BoolOp, index: int = index) -> ast.AST | None:
                del copied.values[index]
                return copied.values[0] if len(copied.values) == 1 else None

            yield "condition-less", drop  # type: ignore[misc]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "negation", lambda copied: copied.operand  # type: ignore[attr-defined]
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Name) and name in SWAPPED_NAMES:

            def swap(copied: ast.Call) -> None:
                copied.func.id = SWAPPED_NAMES[copied.func.id]  # type: ignore[attr-defined]

            yield "swap", swap  # type: ignore[misc]
        if name in UNWRAPPED and len(node.args) == 1 and not isinstance(node.args[0], ast.GeneratorExp):
            yield "unwrap", lambda copied: copied.args[0]  # type: ignore[attr-defined]
        for index, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in FOR_PEOPLE:

                def forget(copied: ast.Call, index: int = index) -> None:
                    del copied.keywords[index]

                yield "option", forget  # type: ignore[misc]
    elif isinstance(node, ast.comprehension):

        def skip(copied: ast.comprehension) -> None:
            copied.iter = _without_first(copied.iter)

        if not node.is_async:
            yield "skip-one", skip  # type: ignore[misc]
        for index in range(len(node.ifs)):

            def unfilter(copied: ast.comprehension, index: int = index) -> None:
                del copied.ifs[index]

            yield "filter", unfilter  # type: ignore[misc]
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", lambda copied: ast.Constant(not copied.value)  # type: ignore[attr-defined]
        elif isinstance(node.value, int | float):
            yield "constant", lambda copied: ast.Constant(copied.value * 2 if copied.value > 1 else copied.value + 1)  # type: ignore[attr-defined]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not isinstance(node.left, ast.JoinedStr | ast.Constant):

        def invert(copied: ast.BinOp) -> None:
            copied.op = ARITHMETIC[type(copied.op)]()

        yield "arithmetic", invert  # type: ignore[misc]
    elif isinstance(node, ast.IfExp):
        yield "branch", lambda copied: copied.body  # type: ignore[attr-defined]
        yield "branch", lambda copied: copied.orelse  # type: ignore[attr-defined]
    elif isinstance(node, ast.List | ast.Set | ast.Tuple) and len(node.elts) > 1 and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        for index in range(len(node.elts)):

            def omit(copied: ast.List, index: int = index) -> None:
                del copied.elts[index]

            yield "element", omit  # type: ignore[misc]
    elif isinstance(node, ast.Dict) and len(node.keys) > 1:
        for index in range(len(node.keys)):

            def omit_key(copied: ast.Dict, index: int = index) -> None:
                del copied.keys[index], copied.values[index]

            yield "element", omit_key  # type: ignore[misc]


def _without_first(iterable: ast.expr) -> ast.expr:
    starred = ast.List([ast.Starred(iterable, ast.Load())], ast.Load())
    return ast.Subscript(starred, ast.Slice(ast.Constant(1)), ast.Load())


def _statement_changes(node: Statement) -> Iterator[tuple[str, Callable[[Statement], Statement | None]]]:
    if isinstance(node, ast.Raise):
        yield "raise", lambda copied: ast.Pass()
    elif (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call | ast.Await)
        and not _is_log_call(node.value)
        and not ast.unparse(node).startswith("super()")  # without it, the function has no __class__ cell and cannot be replaced
    ):
        yield "call", lambda copied: ast.Pass()
    elif isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare):

        def negate(copied: Statement) -> None:
            copied.test = ast.UnaryOp(ast.Not(), copied.test)  # type: ignore[attr-defined]

        yield "negate", negate
    elif isinstance(node, ast.For):

        def skip(copied: Statement) -> None:
            copied.iter = _without_first(copied.iter)  # type: ignore[attr-defined]

        yield "skip-one", skip
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:

        def invert(copied: Statement) -> None:
            copied.op = ARITHMETIC[type(copied.op)]()  # type: ignore[attr-defined]

        yield "arithmetic", invert
    elif isinstance(node, ast.Continue | ast.Break):
        yield "jump", lambda copied: ast.Pass()


def _statements(body: list[Statement], function: str, *, inside: bool) -> Iterator[tuple[list[Statement], int, str]]:
    """Yield every statement within functions, and every module-level assignment, with its place."""
    for index, statement in enumerate(body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{function}.{statement.name}" if function else statement.name
            yield from _statements(statement.body, name, inside=not isinstance(statement, ast.ClassDef))
            continue
        if (inside or (not function and isinstance(statement, ast.Assign | ast.AnnAssign))) and not _declares(statement):
            yield body, index, function
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, block, []) or [], function, inside=inside)
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from _statements(part.body, function, inside=inside)


def faults_of(path: Path, root: Path) -> Iterator[Fault]:
    """Yield every fault of one module."""
    tree = ast.parse(path.read_text())
    file = str(path.relative_to(root))

    def fault(function: str, kind: str, old: Statement, new: Statement, body: list[Statement], index: int) -> Fault:
        def put() -> ast.Module:
            body[index] = ast.copy_location(new, old)
            return ast.fix_missing_locations(tree)

        first, last = _header(old)
        return Fault(file, function, kind, first, last, _shown(old), _shown(new), put)

    for body, index, function in list(_statements(tree.body, "", inside=False)):
        statement = body[index]
        if not (isinstance(statement, ast.Raise) or _is_docstring(statement) or _is_log(statement)):
            for number, node in enumerate(_expressions(statement)):
                for kind, change in _changes(node):
                    new = copy.deepcopy(statement)
                    target = list(_expressions(new))[number]
                    replacement = change(target)
                    if replacement is not None:
                        new = _replaced(new, target, replacement)
                    yield fault(function, kind, statement, new, body, index)
        for kind, alter in _statement_changes(statement):
            new = copy.deepcopy(statement)
            yield fault(function, kind, statement, alter(new) or new, body, index)


def _declares(statement: Statement) -> bool:
    """Whether a module-level assignment has no effect at run time that a test could notice: ``__all__`` and type variables."""
    text = ast.unparse(statement)
    return text.startswith("__all__") or "TypeVar(" in text


def _is_docstring(statement: Statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_log(statement: Statement) -> bool:
    return isinstance(statement, ast.Expr) and _is_log_call(statement.value)


def _replaced(statement: Statement, target: ast.AST, replacement: ast.AST) -> Statement:
    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return replacement if node is target else super().visit(node)

    result: Statement = Replace().visit(statement)
    return result
