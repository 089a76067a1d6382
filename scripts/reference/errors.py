"""The catalogue of error codes: every code that the product's packages raise by name."""

from __future__ import annotations

import ast
import functools
import html
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cleanroom.attestation.reasons import Reason
from cleanroom.errors import CATEGORIES, CleanRoomError
from scripts.reference.markdown import code, header, page, prose, table, wrap

ROOT = Path(__file__).resolve().parents[2]
_GATE = (
    "A refused query has one or more reasons with these codes, each with the line and column of the cause. `cleanroom query lint` prints "
    "them. Proposing the query fails with `QueryRefusedByGate`, whose details contain the same reasons."
)
_PLAN = (
    "Category `refused`. The pod, and `cleanroom query lint` where Spark is installed, refuse the plan that Spark has made of a rewritten "
    "query. The query gate should have refused such a query."
)
_VALUE = "{…}"
PACKAGES = ("cleanroom", "workflows", "activities", "workers", "starters", "sparkapp")
CLASSES = {kind.__name__: kind for kind in CATEGORIES.values()}


@dataclass
class Entry:
    """One code within one category."""

    messages: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)


@functools.cache
def render() -> str:
    """The page ``docs/reference/errors.md``."""
    found: defaultdict[type[CleanRoomError], defaultdict[str, Entry]] = defaultdict(lambda: defaultdict(Entry))
    for kind, name, call, module, assigned in _raised():
        entry = found[kind][name]
        entry.modules.add(module)
        message = _shown(call.args[1], assigned) if len(call.args) > 1 else ""
        hint = next((_shown(item.value, assigned) for item in call.keywords if item.arg == "hint"), "")
        for text, kept in ((message, entry.messages), (hint.replace(_VALUE, "") and hint, entry.hints)):
            if text and text not in kept:
                kept.append(text)
    lines = header(
        "Error codes",
        "the calls that raise them",
        "Every error has a stable `code`. With `--output json` a command prints `{code, message, cause, hint, party, category, retryable, "
        "details}`. The category decides the exit code, and whether Temporal retries the activity.",
        "Codes that a real service returns (governance, Azure, AWS, Kubernetes) keep that service's spelling and are not listed here: "
        "the error's `cause` quotes the service. `{…}` stands for a value.",
    )
    lines += ["## Categories", ""]
    lines += table(
        ("Category", "Exit code", "Retried", "Meaning"),
        (
            (code(kind.category), str(kind.exit_code), "yes" if kind.default_retryable else "no", prose(kind.__doc__))
            for kind in CLASSES.values()
        ),
    )
    for kind in CLASSES.values():
        if not found[kind]:
            continue
        lines += [f"## {kind.category}", ""]
        rows = ((code(name), _first(entry.messages), _first(entry.hints), _places(entry)) for name, entry in sorted(found[kind].items()))
        lines += table(("Code", "Message", "Remedy", "Raised in"), rows)
    lines += ["## Attestation", "", "Category `refused`. The details hold the expected and the actual value.", ""]
    lines += [*wrap(", ".join(code(str(reason)) for reason in Reason) + "."), ""]
    lines += ["## Query gate", "", *wrap(_GATE), ""]
    lines += table(("Code", "For example"), ((code(name), text) for name, text in sorted(_refused_by_gate().items())))
    lines += ["", "## Spark's plan", "", *wrap(_PLAN), ""]
    lines += table(("Code", "For example"), ((code(name), text) for name, text in sorted(_refused_plans().items())))
    return page(lines)


def codes_for_operators() -> set[str]:
    """The codes that name the operator as the party who must act, or whose category says that a service did not do its part."""
    categories = {"unavailable", "internal"}
    return {name for kind, name, call, _, _ in _raised() if kind.category in categories or _keyword(call, "party") == "operator"}


def _refused_plans() -> dict[str, str]:
    """Codes with which a pod refuses Spark's plan of a query, and a message of each."""
    found: dict[str, str] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree) if path.startswith(("sparkapp/plan/", "sparkapp/plan_check.py")) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refused":
                found.setdefault(_text(node.args[0]), html.escape(_text(node.args[1]), quote=False))
    return found


def _refused_by_gate() -> dict[str, str]:
    """Codes with which the gate refuses a query, and a message of each."""
    found: dict[str, str] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree) if path.startswith(("cleanroom/sql/", "cleanroom/query_gate.py")) else ():
            name, text = "", ""
            if isinstance(node, ast.Tuple) and path.endswith("/tokens.py") and len(node.elts) == 2:  # the table of banned tokens
                name, text = _text(node.elts[0]), _text(node.elts[1])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal" and len(node.args) > 1:
                name, text = _text(node.args[0]), _text(node.args[1])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reason":
                name, text = _keyword(node, "code"), _keyword(node, "message")
            if name and text:
                found.setdefault(name, html.escape(text, quote=False))
    return found


Assigned = dict[str, ast.expr]


@functools.cache
def _raised() -> tuple[tuple[type[CleanRoomError], str, ast.Call, str, Assigned], ...]:
    """The calls that create errors, with their code and what is assigned to the names of the function around each."""
    return tuple(_read_raised())


def _read_raised() -> Iterator[tuple[type[CleanRoomError], str, ast.Call, str, Assigned]]:
    for path, tree in trees().items():
        constants = dict(_constants(tree))
        for call, kind, assigned in _calls(tree, {}):
            for name in _codes(call.args[0], constants) if call.args else ():
                yield CLASSES[kind], name, call, path, assigned


def _calls(node: ast.AST, assigned: Assigned) -> Iterator[tuple[ast.Call, str, Assigned]]:
    """The calls of errors in a tree, each with the last value that was assigned before it to each name of its function."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        assigned = dict(assigned)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
        yield node, node.func.id, dict(assigned)
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, assigned)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        assigned[node.targets[0].id] = node.value
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = zip(node.targets[0].elts, node.value.elts, strict=False)
        assigned |= {target.id: value for target, value in pairs if isinstance(target, ast.Name)}


def _shown(node: ast.expr, assigned: Assigned) -> str:
    """The text of an argument: what :func:`_text` returns, or the text that was assigned to its name; ``{…}`` if only a run decides it."""
    match node:
        case ast.Name(id=name) if name in assigned:
            return _shown(assigned[name], {other: value for other, value in assigned.items() if other != name})
        case ast.IfExp(body=first, orelse=second):
            return _first([_shown(first, assigned), _shown(second, assigned)])
        case ast.BoolOp(values=parts):
            return _first([_shown(part, assigned) for part in parts])
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _shown(left, assigned) + _shown(right, assigned)
        case ast.Call(func=ast.Attribute(attr="join"), args=[ast.GeneratorExp(elt=each) | ast.ListComp(elt=each)]):
            return _shown(each, assigned)
        case ast.Call(func=ast.Attribute(attr="join"), args=[ast.Name(id=name)]):
            found = assigned.get(name)
            return _shown(found.elt, assigned) if isinstance(found, ast.GeneratorExp | ast.ListComp) else _VALUE
    return _text(node) or ("" if isinstance(node, ast.Constant) else _VALUE)


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Parse the modules of :data:`PACKAGES`, by their path in the repository."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in paths}


@functools.cache
def _returned() -> dict[str, ast.expr]:
    """What the functions return that only return one text, such as ``ask_again``, by their names."""
    functions = (node for tree in trees().values() for node in tree.body if isinstance(node, ast.FunctionDef))
    ends = ((node.name, node.body[-1]) for node in functions if len(node.body) == 2 and ast.get_docstring(node))
    return {name: end.value for name, end in ends if isinstance(end, ast.Return) and isinstance(end.value, ast.JoinedStr)}


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The string constants of a module."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Constant):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Name) and isinstance(statement.value.value, str):
                yield target.id, statement.value.value


def _codes(node: ast.expr, constants: dict[str, str]) -> list[str]:
    """The codes that an expression can be: a literal, a constant of the module, or the literals of ``a or b`` and ``a if c else b``."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Name):
        return [constants[node.id]] if node.id in constants else []
    parts = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse] if isinstance(node, ast.IfExp) else []
    return [code for part in parts for code in _codes(part, constants)]


def _keyword(call: ast.Call, name: str) -> str:
    return next((_text(item.value) for item in call.keywords if item.arg == name), "")


def _text(node: ast.expr) -> str:
    """A string literal, or that of a function of :func:`_returned`; the expressions of an f-string become ``{…}``, others nothing."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _returned():
        node = _returned()[node.func.id]
    if isinstance(node, ast.Constant):
        return str(node.value or "")
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
    return ""


def _first(texts: list[str]) -> str:
    """The first text with words of its own, or one that is only a value."""
    return next((text for text in texts if text != _VALUE), next(iter(texts), ""))


def _places(entry: Entry) -> str:
    places = sorted(entry.modules)
    return ", ".join(code(place) for place in places[:2]) + (f" and {len(places) - 2} more" if len(places) > 2 else "")
