"""Plans and expressions as texts in which attributes have no IDs, so that two readings of one text can be compared."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from sparkapp.plan.tree import Node

_IGNORED = frozenset({"exprId", "qualifier", "metadata", "nonInheritableMetadataKeys", "explicitMetadata", "resultId", "jvmId", "origin"})
_encode = lru_cache(1024, typed=True)(json.JSONEncoder().encode)


class Canonical:
    """Texts of plans. Attributes are numbered in the order in which the plan first names them."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._texts: dict[Node, str] = {}

    @staticmethod
    def shared(node: Node) -> str:
        """The text of an expression with the IDs of its attributes, to compare expressions of one operator."""
        same = Canonical()
        same._numbers = _Identity()
        return same.text(node)

    def text(self, node: Node) -> str:
        """The text of a plan or an expression."""
        if (known := self._texts.get(node)) is None:
            known = self._texts[node] = self._text(node)
        return known

    def _text(self, node: Node) -> str:
        children = [self.text(child) for child in node.children]
        members = [f"{name}={self._member(node, value)}" for name, value in sorted(node.fields.items()) if name not in _IGNORED]
        if node.kind == "Alias":
            members = [part for part in members if not part.startswith("name=")]
        if "exprId" in node.fields:
            members.append(f"#{self.number(node.id)}")
        return f"{node.kind}({', '.join([*children, *members])})"

    def number(self, id: int) -> int:
        """The number of an attribute."""
        return self._numbers.setdefault(id, len(self._numbers))

    def _member(self, node: Node, value: Any) -> str:
        if isinstance(value, list):
            if value and isinstance(value[0], dict) and "class" in value[0]:
                return self.text(node.read(value))
            return f"[{', '.join(self._member(node, item) for item in value)}]"
        if isinstance(value, dict) and str(value.get("product-class")).endswith("ExprId"):
            return f"#{self.number(int(value['id']))}"
        if isinstance(value, dict):
            parts = [f"{name}={self._member(node, part)}" for name, part in sorted(value.items()) if name not in _IGNORED]
            return f"{{{', '.join(parts)}}}"
        return _encode(value)


class _Identity(dict[int, int]):
    def setdefault(self, key: int, default: int = 0) -> int:
        return key
