"""The benchmarks are not run by the suite, but a renamed name of the product must not break them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("file", sorted(item.name for item in FOLDER.glob("bench_*.py")))
def test_every_benchmark_finds_what_it_imports(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert "main" in runpy.run_path(str(FOLDER / file), run_name="imported")
