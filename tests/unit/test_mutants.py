"""The fault generator of ``make mutants``: which faults it makes, and that a running process sees them."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts.mutants.apply import Functions
from scripts.mutants.faults import faults_of

SOURCE = '''"""Module."""
LIMIT = 5


def check(values, allowed):
    """Docstring."""
    for value in values:
        if value not in allowed or value > LIMIT:
            raise ValueError(f"{value}")
    return min(values)
'''


def test_each_kind_of_fault_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)
    faults = {(fault.kind, fault.before, fault.after) for fault in faults_of(tmp_path / "module.py", tmp_path)}
    assert {(kind, after) for kind, _, after in faults} == {
        ("constant", "LIMIT = 10"),
        ("skip-one", "for value in [*values][1:]:"),
        ("compare", "if value in allowed or value > LIMIT:"),
        ("compare", "if value not in allowed or value >= LIMIT:"),
        ("condition-less", "if value > LIMIT:"),
        ("condition-less", "if value not in allowed:"),
        ("negate", "if not (value not in allowed or value > LIMIT):"),
        ("raise", "pass"),
        ("swap", "return max(values)"),
    }


def test_a_fault_reaches_a_function_that_is_already_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)  # restored after the test
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    namespace: dict[str, Any] = {}
    exec(compile(ast.parse(SOURCE), str(path), "exec"), namespace)
    check = namespace["check"]
    assert check([1, 2], [1, 2]) == 1
    fault = next(item for item in faults_of(path, tmp_path) if item.kind == "swap")
    Functions({str(path)}).apply(fault, tmp_path)
    assert check([1, 2], [1, 2]) == 2


def test_a_fault_reaches_each_constant_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)  # restored after the test
    path = tmp_path / "constants_under_test.py"
    path.write_text("ONE = 1\nTWO, THREE = 2, 3\n")
    faults = [fault for fault in faults_of(path, tmp_path) if fault.kind == "constant"]
    assert len(faults) == 3
    for fault in faults:
        module = ModuleType("constants_under_test")
        module.__file__ = str(path)
        exec(path.read_text(), module.__dict__)
        monkeypatch.setitem(sys.modules, "constants_under_test", module)
        Functions(set()).apply(fault, tmp_path)
        assert {module.ONE, module.TWO, module.THREE} != {1, 2, 3}, fault.name
