"""What the processes of a pod load before they run anything."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import sparkapp

ROOT = Path(sparkapp.__file__).resolve().parent.parent


def test_daemon_of_spark_preloads_what_every_worker_imports() -> None:
    import sparkapp.daemon

    assert [module.__name__ for module in sparkapp.daemon.PRELOADED] == [
        *("pandas", "pyarrow.csv", "pyarrow.json", "pyarrow.parquet", "pyspark.worker"),
        *("sparkapp.identity", "sparkapp.output", "sparkapp.views"),
    ]


def test_program_finds_its_modules_when_spark_runs_it_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/folder/of/the/script", *sys.path])
    runpy.run_path(str(ROOT / "sparkapp" / "__main__.py"), run_name="spark")
    assert sys.path[0] == str(ROOT)
    assert "/folder/of/the/script" not in sys.path
