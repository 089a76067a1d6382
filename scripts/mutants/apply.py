"""Put a fault into modules that are already imported.

A function keeps its identity and gets other code, so names that other modules imported, decorators and registered activities see
the fault. A module-level constant is assigned again in every module that imported it. A module that is imported later (as the
workflow sandbox does) is compiled from the changed tree.
"""

from __future__ import annotations

import ast
import gc
import importlib.machinery
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from scripts.mutants.faults import Fault


class Functions:
    """The functions of the target modules, found once, before the processes of the faults start."""

    def __init__(self, files: set[str]) -> None:
        self._found: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        for item in gc.get_objects():
            if isinstance(item, FunctionType) and item.__code__.co_filename in files:
                code = item.__code__
                self._found[code.co_filename, code.co_qualname, code.co_firstlineno].append(item)

    def apply(self, fault: Fault, root: Path) -> None:
        """Put ``fault`` into this process."""
        path = str(root / fault.file)
        tree = fault.put()
        code = compile(tree, path, "exec", dont_inherit=True)
        _compile_later_imports(path, code)
        if not fault.function:
            _assign(path, fault, tree)
            return
        for inner in _codes(code):
            for function in self._found.get((path, inner.co_qualname, inner.co_firstlineno), ()):
                if len(inner.co_freevars) == len(function.__code__.co_freevars):
                    function.__code__ = inner


def _codes(code: CodeType) -> list[CodeType]:
    found = [item for item in code.co_consts if isinstance(item, CodeType)]
    return [*found, *(inner for item in found for inner in _codes(item))]


def _compile_later_imports(path: str, code: CodeType) -> None:
    genuine = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        return code if self.path == path else genuine(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _assign(path: str, fault: Fault, tree: ast.Module) -> None:
    module = next(item for item in list(sys.modules.values()) if getattr(item, "__file__", None) == path)
    for statement in tree.body:
        if statement.lineno != fault.first_line or not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        value: Any = eval(compile(ast.Expression(statement.value), path, "eval"), module.__dict__)
        pairs = zip(target.elts, value, strict=True) if isinstance(target, ast.Tuple) else ((target, value),)
        for name, item in pairs:
            if isinstance(name, ast.Name):
                _rebind(name.id, module.__dict__.get(name.id), item)


def _rebind(name: str, old: Any, value: Any) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is old:
            setattr(module, name, value)
