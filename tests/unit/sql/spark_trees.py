"""Spark's syntax trees of expressions and statements, in a form in which those with the same meaning are equal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

Tree = list[Any]
_NO_MEANING = {
    "class", "num-children", "evalContext", "evalMode", "origin", "exprId", "resultId", "qualifier", "jvmId", "isInternal",
    "nonInheritableMetadataKeys", "outerAttrs", "joinCond",
}  # fmt: skip
_CALLS = {"Substring": "substring", "StringLocate": "locate", "Overlay": "overlay", "Like": "like", "RLike": "rlike"}
"""Expressions with a syntax of their own, and the function that is the same."""
_SYNONYMS = {"some": "bool_or", "any": "bool_or"}
_FIRST = {"First": "first", "Last": "last", "AnyValue": "any_value"}
_DEFAULTS = {"overlay": 4, "locate": 3, "substring": 3}


class SparkParser:
    """The parser of a Spark session. It executes nothing."""

    def __init__(self, session: Any) -> None:
        session.conf.set("spark.sql.debug.maxToStringFields", "100000")  # otherwise the trees contain no names
        self._parser = session._jsparkSession.sessionState().sqlParser()

    def statement_problem(self, text: str) -> str:
        """Why Spark does not read a statement; empty if it does."""
        try:
            self._parser.parsePlan(text)
        except Exception as error:
            return str(error) or "refused"
        return ""

    def trees(self, texts: Sequence[str]) -> list[Tree | None]:
        """The trees of expressions; None for one that Spark does not read. All are parsed together if possible."""
        try:
            nodes = json.loads(self._parser.parseExpression("f(" + ",\n".join(texts) + "\n)").toJSON())
        except Exception:
            nodes = []
        if nodes and nodes[0]["num-children"] == len(texts):
            return _forest(nodes[1:])
        if len(texts) == 1:
            return [None]
        middle = len(texts) // 2
        return self.trees(texts[:middle]) + self.trees(texts[middle:])


def _forest(nodes: list[dict[str, Any]]) -> list[Tree | None]:
    trees: list[Tree | None] = []
    at = 0
    while at < len(nodes):
        tree, at = _tree(nodes, at)
        trees.append(tree)
    return trees


def _tree(nodes: list[dict[str, Any]], at: int) -> tuple[Tree, int]:
    """The tree of the node at ``at``, and the index after it. The list contains each node before its children."""
    node, at = nodes[at], at + 1
    children = []
    for _ in range(node["num-children"]):
        child, at = _tree(nodes, at)
        children.append(child)
    facts = {name: _fact(fact) for name, fact in node.items() if name not in _NO_MEANING and not _places(fact)}
    return _normal(re.sub(r"\$.*", "", node["class"].rsplit(".", 1)[-1]), facts, children), at


def _places(fact: Any) -> bool:
    """Whether ``fact`` holds places of children, which the tree contains itself."""
    return type(fact) is int or (isinstance(fact, list) and all(type(item) is int for item in fact))


def _fact(fact: Any) -> Any:
    if isinstance(fact, list) and fact and isinstance(fact[0], dict) and "num-children" in fact[0]:
        return _forest(fact)
    if isinstance(fact, list):
        return [_fact(item) for item in fact]
    if isinstance(fact, dict):
        return {name: _fact(item) for name, item in fact.items() if name not in _NO_MEANING}
    return fact


def _normal(name: str, facts: dict[str, Any], children: list[Tree]) -> Tree:
    if name == "UnresolvedAttribute":
        column = facts["nameParts"].strip("[]").split(", ")[-1].lower()
        return _call(column, []) if column in ("current_date", "current_timestamp") else ["column", column]
    if name in ("And", "Or", "Concat"):
        return [name, [part for child in children for part in (child[1] if child[0] == name else [child])]]
    if name in ("IsNotNull", "Not"):
        inner = ["IsNull", {}, children] if name == "IsNotNull" else children[0]
        return inner[2][0] if inner[0] == "Not" else ["Not", {}, [inner]]
    if name in _CALLS:
        return _call(_CALLS[name], children)
    if name == "AggregateExpression" and children[0][0] in _FIRST and not children[0][1].get("ignoreNulls"):
        return _call(_FIRST[children[0][0]], children[0][2])  # RESPECT NULLS, which is the default
    if name == "UnresolvedFunction" and not facts.get("isDistinct") and not facts.get("filter"):
        return _call(facts["nameParts"].strip("[]").lower(), children)
    if name == "CaseWhen":
        return [name, facts]  # the branches contain the children
    if name in ("UnresolvedAlias", "Alias"):
        return children[0]
    if name == "UnresolvedRelation":
        return [name]
    if name == "SubqueryAlias":
        return children[0]
    if name == "CreateNamedStruct":
        return [name, children[1::2]]
    if name == "UnaryMinus" and children[0][0] == "Literal":
        return children[0] if children[0][1] == "0" else [name, {}, children]
    if name == "Literal":
        return _literal(str(facts.get("value")), str(facts.get("dataType")))
    if (
        name == "Cast"
        and children[0][0] == "Literal"
        and str(facts["dataType"]).startswith(("double", "long", "short", "decimal", "date", "time"))
    ):
        return _literal(children[0][1], str(facts["dataType"]))
    return [name, facts, children]


def _call(name: str, children: list[Tree]) -> Tree:
    name = _SYNONYMS.get(name, name)
    if len(children) == _DEFAULTS.get(name) and children[-1][0] in ("Literal", "UnaryMinus"):
        children = children[:-1]  # the default that the syntax adds
    return ["call", name, children]


def _literal(value: str, kind: str) -> Tree:
    if kind == "timestamp" and value.endswith(" 00:00:00"):
        value = value.removesuffix(" 00:00:00")
    if kind in ("double", "long", "short") or kind.startswith("decimal"):
        value = str(float(value)) if re.fullmatch(r"-?[0-9]+([.][0-9]*)?(e[+-]?[0-9]+)?", value, re.IGNORECASE) else value
    if value.startswith("-") and not kind.startswith(("string", "interval")):
        return ["UnaryMinus", {}, [["Literal", value[1:], kind]]]
    return ["Literal", value, kind]
