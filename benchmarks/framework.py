"""What a benchmark measures, what its figures must reach, and the table that it prints.

A module ``benchmarks/bench_<name>.py`` ends with

    BENCHMARK = Benchmark("title", measure, [at_most("wall, against a no-op", 3, "x"), ...])

    if __name__ == "__main__":
        BENCHMARK.main()

``measure`` returns the value of each figure by its name; it may be asynchronous. Its parameters, all with defaults, are the options of
``python -m benchmarks.bench_<name>``. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Value = float | dict[int, float]
"""A figure, or its values by N."""


class Row(NamedTuple):
    """One row of the table, as text."""

    figure: str
    measured: str
    limit: str
    state: str


@dataclass(frozen=True)
class Figure:
    """A number, and its limit if it is a target."""

    name: str
    limit: float | None = None
    unit: str = ""
    least: bool = False
    """Whether the limit is the least allowed value instead of the largest."""

    def met(self, value: Any) -> bool:
        """Return whether the value keeps the limit. NaN does not."""
        return self.limit is None or bool(value >= self.limit if self.least else value <= self.limit)

    def limit_text(self) -> str:
        """Describe the limit."""
        return "none" if self.limit is None else f"{'at least' if self.least else 'at most'} {self.limit:,g}{_suffix(self.unit)}"

    def measured_text(self, value: Any) -> str:
        """Describe a value."""
        return _text(value, self.unit)

    def row(self, value: Any) -> Row:
        """Return the row of a value."""
        state = ("–" if self.limit is None else "ok") if self.met(value) else "**missed**"
        return Row(self.name, self.measured_text(value), self.limit_text(), state)

    def absent(self, state: str = "not run") -> Row:
        """Return the row without a value."""
        return Row(self.name, "–", self.limit_text(), state)


@dataclass(frozen=True)
class Growth(Figure):
    """A figure measured for several N. The limit is a line: ``fixed + limit * N``, which every value must keep."""

    fixed: float = 0
    exponent: float = math.inf
    """Largest exponent of N that is fitted over the upper half of the measured N."""

    def met(self, value: Any) -> bool:
        """Return whether every value and the exponent keep their limits."""
        if self.limit is not None and any(not each <= self.fixed + self.limit * n for n, each in value.items()):
            return False
        return _exponent(value) <= self.exponent

    def limit_text(self) -> str:
        """Describe the limit."""
        line = [] if self.limit is None else [f"at most {self.fixed:,g} + {self.limit:,g} N{_suffix(self.unit)}"]
        return " and ".join(line + ([] if math.isinf(self.exponent) else [f"at most N^{self.exponent:g}"])) or "none"

    def measured_text(self, value: Any) -> str:
        """Describe the values and the line through them."""
        fixed, each = _line(value)
        values = ", ".join(_text(item, "") for item in value.values())
        law = f"{_text(fixed, '')} + {_text(each, '')} N{_suffix(self.unit)} (N^{_exponent(value):.2f})"
        return f"{law}: {values} for N = {', '.join(map(str, value))}"


def at_most(name: str, limit: float, unit: str = "") -> Figure:
    """Declare a target whose figure may not be larger than ``limit``. The unit ``x`` is a ratio."""
    return Figure(name, limit, unit)


def at_least(name: str, limit: float, unit: str = "") -> Figure:
    """Declare a target whose figure may not be smaller than ``limit``."""
    return Figure(name, limit, unit, least=True)


def reported(name: str, unit: str = "") -> Figure:
    """Declare a figure without a limit."""
    return Figure(name, None, unit)


@dataclass(frozen=True)
class Benchmark:
    """A function that measures, and the figures that it returns.

    Args:
        title: What is compared with what.
        measure: Returns the figures.
        figures: The figures, at least one with a limit.
    """

    title: str
    measure: Callable[..., Any]
    figures: Sequence[Figure]

    def rows(self, found: Mapping[str, Value]) -> list[Row]:
        """Return the rows of the table.

        Raises:
            KeyError: A value has no declared figure.
        """
        if unknown := found.keys() - {figure.name for figure in self.figures}:
            raise KeyError(f"figures that {self.measure.__module__} does not declare: {sorted(unknown)}")
        return [figure.row(found[figure.name]) if figure.name in found else figure.absent("not measured") for figure in self.figures]

    def main(self) -> None:
        """Run the command line, print the table, and exit."""
        parser = argparse.ArgumentParser(
            description=inspect.getmodule(self.measure).__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for name, parameter in inspect.signature(self.measure).parameters.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(parameter.default), default=parameter.default, help="%(default)s")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
        options = vars(parser.parse_args())
        file = options.pop("json")
        whole = options == {name: parser.get_default(name) for name in options}
        found = self.measure(**options)
        if inspect.isawaitable(found):
            found = asyncio.run(_awaited(found))
        rows = self.rows(found)
        print(table(rows), flush=True)
        if file:
            file.write_text(json.dumps(found))
        # Options can select a part of the figures.
        sys.exit(int(any(row.state == "**missed**" or (whole and row.state == "not measured") for row in rows)))


async def _awaited(found: Any) -> Any:
    return await found


def table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text."""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row.state.strip("*")]) for row in rows
    )


def _suffix(unit: str) -> str:
    return unit if unit in ("x", "%", "") else f" {unit}"


def _text(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return f"{value}{_suffix(unit)}"
    digits = 0 if abs(value) >= 100 or round(value, 2) == round(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{_suffix(unit)}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}{_suffix(unit)}"


def _line(values: Mapping[int, float]) -> tuple[float, float]:
    """Fit ``fixed + each * N``, with relative residuals."""
    weights = {n: 1 / max(value, 1e-12) ** 2 for n, value in values.items()}
    total = sum(weights.values())
    mean_n, mean = (sum(weights[n] * item(n) for n in values) / total for item in (float, values.__getitem__))
    spread = sum(weights[n] * (n - mean_n) ** 2 for n in values)
    each = sum(weights[n] * (n - mean_n) * (values[n] - mean) for n in values) / spread if spread else 0.0
    return mean - each * mean_n, each


def _exponent(values: Mapping[int, float]) -> float:
    """Fit the exponent of N over the upper half, where constants matter least."""
    known = sorted(n for n in values if n > 0)
    upper = known[min(len(known) // 2, max(len(known) - 2, 0)) :]
    logs = [(math.log(n), math.log(max(values[n], 1e-12))) for n in upper]
    mean_n, mean = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    spread = sum((n - mean_n) ** 2 for n, _ in logs)
    return sum((n - mean_n) * (value - mean) for n, value in logs) / spread if spread else 0.0
