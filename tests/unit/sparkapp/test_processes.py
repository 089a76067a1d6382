"""What the processes of a pod load before they run anything."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import sparkapp
from sparkapp.jvm import jar, spark_home

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


def test_driver_finds_the_jar_also_below_the_archive_that_spark_submit_puts_first() -> None:
    """Without the jar, Spark would not read Parquet itself."""
    home = spark_home()
    archive = home / "python/lib/pyspark.zip"
    names = "print(find_spec('pyspark').origin, spark_home(), jar())"
    program = f"from importlib.util import find_spec; from sparkapp.jvm import jar, spark_home; {names}"
    environment = {"PYTHONPATH": f"{archive}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{archive}/pyspark/__init__.py", str(home), str(jar())]
    assert jar().exists()
