"""The suite runs no benchmark, but checks what they declare, what decides about a figure, and the page of the figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import benchmarks.__main__ as runner
from benchmarks import page
from benchmarks.framework import Benchmark, Figure, Growth, at_least, at_most, reported

DECLARED = runner.find()


@pytest.mark.parametrize("name", DECLARED)
def test_every_benchmark_declares_targets_and_the_page_has_a_row_of_each_figure(name: str) -> None:
    figures = DECLARED[name].figures
    assert any(figure.limit is not None for figure in figures)
    assert len({figure.name for figure in figures}) == len(figures)
    text = page.PAGE.read_text("utf-8")
    missing = [figure.name for figure in figures if f"| {name} | {figure.name} |" not in text]
    assert not missing, "run `python -m benchmarks --page`"


@pytest.mark.parametrize(
    ("figure", "value", "measured", "limit", "state"),
    [
        (at_most("a", 3, "x"), 3.0, "3x", "at most 3x", "ok"),
        (at_most("a", 3, "x"), 3.01, "3.01x", "at most 3x", "**missed**"),
        (at_most("a", 3, "x"), float("nan"), "nanx", "at most 3x", "**missed**"),
        (at_least("a", 200), 1234.5, "1,234", "at least 200", "ok"),
        (at_least("a", 200), 199.9, "200", "at least 200", "**missed**"),
        (at_most("a", 0), 0, "0", "at most 0", "ok"),
        (reported("a", "ms"), 0.0123, "0.012 ms", "none", "–"),
        (
            Growth("a", 12, fixed=40),
            {1: 22, 2: 34, 10: 130},
            "10 + 12 N (N^0.83): 22, 34, 130 for N = 1, 2, 10",
            "at most 40 + 12 N",
            "ok",
        ),
        (
            Growth("a", 12, fixed=40),
            {1: 22, 10: 161},
            "6.56 + 15.4 N (N^0.86): 22, 161 for N = 1, 10",
            "at most 40 + 12 N",
            "**missed**",
        ),
        (
            Growth("a", exponent=1.2),
            {1: 100, 10: 100, 20: 400, 40: 1600},
            "63.9 + 7.99 N (N^2.00): 100, 100, 400, 1,600 for N = 1, 10, 20, 40",
            "at most N^1.2",
            "**missed**",
        ),
    ],
    ids=range(10),
)
def test_a_figure_is_compared_with_its_limit(figure: Figure, value: object, measured: str, limit: str, state: str) -> None:
    assert figure.row(value)[1:] == (measured, limit, state)


def _no_figures(values: int = 1) -> dict[str, float]:
    return {"first": values} if values < 9 else {"first": 1, "second": values}


BENCHMARK = Benchmark("a title", _no_figures, [at_most("first", 5), at_most("second", 10)])


@pytest.mark.parametrize(("arguments", "code"), [([], 1), (["--values", "2"], 0), (["--values", "6"], 1), (["--values", "10"], 0)])
def test_exit_code_is_1_when_a_target_is_missed_or_not_measured(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--json", str(file)])
    with pytest.raises(SystemExit) as exit_:
        BENCHMARK.main()
    assert exit_.value.code == code
    assert "first" in json.loads(file.read_text())


def test_a_value_without_a_declared_figure_is_an_error() -> None:
    with pytest.raises(KeyError, match="third"):
        BENCHMARK.rows({"third": 1})


def test_a_run_of_some_benchmarks_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    other = Benchmark("another title", _no_figures, [at_least("third", 3), Growth("fourth", 2)])
    both = {"one": BENCHMARK, "two": other}
    page.write(both, {"one": (BENCHMARK.rows({"first": 1, "second": 11}), 61)}, file)
    text = file.read_text()
    assert "| one | second | 11 | at most 10 | **missed** |" in text
    assert "| two | third | – | at least 3 | not run |" in text
    page.write(both, {"two": (other.rows({"third": 4, "fourth": {1: 2, 2: 4}}), 1)}, file)
    text = file.read_text()
    assert "| one | second | 11 | at most 10 | **missed** |" in text
    assert "| two | third | 4 | at least 3 | ok |" in text
    assert "| two | fourth | 0 + 2 N (N^1.00): 2, 4 for N = 1, 2 | at most 0 + 2 N | ok |" in text
    assert text.count("61 s |") == 1
    # A limit that has changed since makes the old measurement void; a merge conflict does not.
    changed = Benchmark("a title", _no_figures, [at_most("first", 6), at_most("second", 10)])
    file.write_text(text.replace("| one | second", "<<<<<<< HEAD\n| one | second"))
    page.write({"one": changed, "two": other}, {}, file)
    text = file.read_text()
    assert "| one | first | – | at most 6 | not run |" in text
    assert "| one | second | 11 | at most 10 | **missed** |" in text


def test_a_missed_or_failed_benchmark_does_not_skip_the_later_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    benchmarks = dict.fromkeys(("one", "two", "three"), BENCHMARK)
    rows = {
        "one": BENCHMARK.rows({"first": 1, "second": 11}),
        "two": [figure.absent("**failed**") for figure in BENCHMARK.figures],
        "three": BENCHMARK.rows({"first": 1, "second": 2}),
    }
    ran = []
    monkeypatch.setattr(runner, "find", lambda: benchmarks)
    monkeypatch.setattr(runner, "run", lambda name, benchmark: (ran.append(name), (rows[name], 1))[1])
    assert runner.main([]) == 1
    assert ran == ["one", "two", "three"]
    assert "| two | first | – | at most 5 | **failed** |" in page.PAGE.read_text()
    assert runner.main(["three"]) == 0
    assert ran == ["one", "two", "three", "three"]
