"""Printing: streams, tables, errors, charts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cleanroom.errors import InvalidInput, NotFound, Refused
from starters.operations.session import Session
from starters.terminal import output
from starters.terminal.output import Format, print_error, print_rows
from starters.terminal.result_view import chart_png, print_chart, series
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def test_errors_show_names_instead_of_user_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("starters.terminal.output.USER_NAMES", {})
    (tmp_path / "here.toml").write_text('[default]\ncollaboration = "flights"\n[default.parties]\nlitware = "738d85d9"\n')
    monkeypatch.setattr("starters.operations.session.USER_NAMES", output.USER_NAMES)
    Session.load(None, str(tmp_path / "here.toml"))
    print_error(Refused("ConsentDisabled", "disabled by: m[738d85d9]", cause="reported by 738d85d9"), Format.JSON)
    error = json.loads(capsys.readouterr().out)
    assert (error["message"], error["cause"]) == ("disabled by: m[litware]", "reported by litware")
    print_error(NotFound("UserDocumentNotFound", "no x"), Format.JSON)
    error = json.loads(capsys.readouterr().out)
    assert "query list" in error["hint"]


def test_characters_outside_of_the_encoding_are_replaced() -> None:
    script = (
        "from starters.terminal.output import *; from starters.terminal.streams import *; tolerant_streams(); "
        "out.print('▇▇ ✔ — Zürich …'); print_json({'name': 'Zürich'})"
    )
    ascii_terminal = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ascii_terminal, timeout=PATIENCE, check=True, cwd=ROOT)
    assert done.stdout.decode("ascii").splitlines() == ["## + - Z?rich .", '{"name": "Z\\u00fcrich"}']


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("| true", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 1, "OutputNotWritten"),
        ("-o json | true", 0, ""),
        ("-o json >/dev/full", 1, "OutputNotWritten"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_closed_and_full_streams_keep_the_exit_code(redirection: str, code: int, error: str, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(
        "import sys, typer\n"
        "from starters.terminal.output import *\n"
        "from starters.terminal.entry import main\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def rows(output: Output = Format.TABLE) -> None:\n"
        "    with error_boundary(output):\n"
        "        sys.stdin.read()\n"
        "        print_rows([{'name': 'x' * 70}] * 1000, output, columns=('name',))\n"
        "        print_status('done')\n"
        "main(app)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1" if redirection == "| true" else ""}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} rows.py {redirection}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=PATIENCE, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert error in done.stderr
    assert code != 0 or redirection == "2>&-" or "done" in done.stderr


def test_first_column_of_a_table_is_never_wrapped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"run": "r-20260112-091500-a1b2c3", "query": "some-long-query-name", "state": "COMPLETED", "started": "2026-01-12T09:15:00+00:00"}
    ]
    columns = ("run", "query", "state", "started")
    monkeypatch.delenv("COLUMNS", raising=False)
    print_rows(rows, Format.TABLE, columns=columns)
    assert any(all(str(value) in line for value in rows[0].values()) for line in capsys.readouterr().out.splitlines()), "a pipe: one line"
    monkeypatch.setenv("COLUMNS", "60")
    # A console reads COLUMNS only when it is created.
    monkeypatch.setattr("starters.terminal.output.out", Console(soft_wrap=True))
    print_rows(rows, Format.TABLE, columns=columns)
    narrow = capsys.readouterr().out.splitlines()
    assert narrow[0] == rows[0]["run"]
    assert "  query: some-long-query-name" in narrow


def test_chart_of_unknown_column_or_unwritable_file_is_rejected(tmp_path: Path) -> None:
    rows = [{"name": "a", "n": 1.5}, {"name": "b", "n": 2}]
    assert series(rows) == (["b", "a"], [2.0, 1.5], "n")
    with pytest.raises(InvalidInput, match="ChartColumnUnknown"):
        series(rows, "name")
    with pytest.raises(InvalidInput, match="ChartNotWritten"):
        chart_png(rows, tmp_path)


def test_chart_prints_counts_as_integers_and_means_with_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    print_chart([{"shop": "north.00", "buyers": 1234}, {"shop": "south", "buyers": 20}])
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if "▇" in line] == ["1234", "20"]
    assert "north.00" in printed
    print_chart([{"shop": "north", "mean": 2.0}])
    assert "2.00" in capsys.readouterr().out


def test_bars_of_counts_have_integer_labels_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.pyplot.close", drawn.append)
    chart_png([{"shop": "a", "buyers": 3}, {"shop": "a", "buyers": 1}], tmp_path / "chart.png")
    monkeypatch.undo()
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["3", "1"], "also for equal labels"
    drawn[0].canvas.draw()
    assert all("." not in label.get_text() for label in axes.get_xticklabels())


@pytest.mark.parametrize(
    ("rows", "labels"),
    [([{"month": 1, "buyers": 5}], ["1"]), ([{"buyers": 5}], ["1"]), ([{"day": None, "buyers": 5}], ["1"])],
    ids=["another number", "one column", "null"],
)
def test_chart_is_written_for_a_result_without_texts(tmp_path: Path, rows: list[dict[str, Any]], labels: list[str]) -> None:
    found = series(rows)
    assert found is not None
    assert found[0] == labels
    chart_png(rows, tmp_path / "new folder/chart.png")
    assert (tmp_path / "new folder/chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [[], [{"name": "a"}]], ids=["no rows", "no number"])
def test_chart_that_cannot_be_drawn_is_an_error(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput, match="ChartEmpty"):
        chart_png(rows, tmp_path / "chart.png")
    assert not (tmp_path / "chart.png").exists()


@pytest.mark.parametrize("text", ["$^$", "$\\frac$", "a$b", "\\$^$", "$_{", "%", "\\n"])
def test_chart_draws_text_with_tex_literally(tmp_path: Path, text: str) -> None:
    rows = [{text + "x": text, text: 1.0}]
    chart_png(rows, tmp_path / "chart.png", title=text)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("title", ["", "short", "Average departure delay by manufacturer, " * 5, "x" * 200])
def test_title_of_a_chart_stays_inside_the_picture(tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.pyplot.close", drawn.append)
    chart_png([{"name": "a" * 30, "n": 1.0}], tmp_path / "chart.png", title=title)
    monkeypatch.undo()
    (figure,) = drawn
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
