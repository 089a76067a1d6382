"""Shows the rows of a result: a table and a bar chart in the terminal (plotext), and a bar chart as PNG (matplotlib)."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cleanroom.errors import InvalidInput
from starters.terminal.output import out, safe

Rows = Sequence[Mapping[str, Any]]
MAX_BARS = 20


def result_rows(table: Any) -> list[dict[str, Any]]:
    """Convert a table (:mod:`cleanroom.datasets.readers`) to rows that JSON can represent; dates and times become RFC 3339 text."""
    columns = [[_text_of_time(value) for value in result_values(column)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def result_values(column: Any) -> list[Any]:
    """Convert a column of a table to values of Python; a time that Python cannot represent becomes text."""
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [_scalar(item) for item in column]


def _text_of_time(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _scalar(item: Any) -> Any:
    """Return a date or time. Spark and Parquet have such beyond the years 1 to 9999, which neither Python nor Arrow can write as text."""
    try:
        return item.as_py()
    except (OverflowError, ValueError):
        unit = getattr(item.type, "unit", "days")
        return f"{item.value} {unit} since 1970-01-01"


def result_table(rows: Rows, *, title: str = "", limit: int = 25) -> Table:
    """Render the first ``limit`` rows as a Rich table; floats have two decimals."""
    table = Table(title=title or None, title_justify="left")
    columns = list(rows[0]) if rows else []
    for column in columns:
        numeric = all(_is_number(row[column]) for row in rows)
        table.add_column(safe(column), justify="right" if numeric else "left")
    for row in rows[:limit]:
        table.add_row(*(_text(row[column]) for column in columns))
    if len(rows) > limit:
        table.caption = f"{limit} of {len(rows)} rows"
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    if _is_number(value):
        return f"{value:,}"
    return safe("" if value is None else value)


def series(rows: Rows, value: str | None = None) -> tuple[list[str], list[int | float], str] | None:
    """Select what a chart shows.

    Args:
        rows: Rows of the result.
        value: Numeric column to draw; the last numeric column by default.

    Returns:
        The labels, the values in descending order, and the name of the drawn column. Labels are the joined text columns; without
        any, the joined other columns, else the numbers of the rows. Rows whose value is infinite or NaN are left out. None when there
        are no rows or no numeric column.

    Raises:
        InvalidInput: ``ChartColumnUnknown``.
    """
    if not rows:
        return None
    columns = list(rows[0])
    numbers = [name for name in columns if all(_is_number(row[name]) for row in rows)]
    if value is not None and value not in numbers:
        raise InvalidInput(
            "ChartColumnUnknown",
            f"--value: the result has no numeric column {value!r}.",
            hint=f"Numeric columns: {', '.join(numbers) or 'none'}.",
        )
    if not numbers:
        return None
    value = value or numbers[-1]
    texts = [name for name in columns if all(isinstance(row[name], str) for row in rows)]
    labels = texts or [name for name in columns if name != value]
    numbered = [(row, " ".join(_text(row[name]) for name in labels) or str(number)) for number, row in enumerate(rows, 1)]
    finite = [(row[value], label) for row, label in numbered if math.isfinite(row[value])]
    if not finite:
        return None
    ordered = sorted(finite, key=lambda item: float(item[0]), reverse=True)[:MAX_BARS]
    return [safe(label, 24) for _, label in ordered], [number for number, _ in ordered], value


def print_chart(rows: Rows, value: str | None = None) -> None:
    """Print a bar chart of the column ``value``; see :func:`series`."""
    found = series(rows, value)
    if found is None:
        return
    import plotext

    labels, values, name = found
    plotext.clear_figure()
    plotext.simple_bar(labels, [float(number) for number in values], width=min(out.width, 100), title=name)
    drawn = plotext.build()
    if _are_counts(values):
        # plotext writes every number with two decimals.
        drawn = re.sub(r"(\d+)\.00(?=(?:\x1b\[[0-9;]*m)*\s*$)", r"\1", drawn, flags=re.MULTILINE)
    # plotext always colours its output; a pipe or a file must not receive escape sequences.
    out.print(drawn if out.is_terminal else plotext.uncolorize(drawn), markup=False, highlight=False)


def _are_counts(values: Sequence[int | float]) -> bool:
    return all(isinstance(number, int) for number in values)


def chart_png(rows: Rows, path: Path, *, title: str = "", value: str | None = None) -> None:
    """Write a horizontal bar chart of the column ``value`` to ``path``.

    Raises:
        InvalidInput: ``ChartColumnUnknown``, ``ChartNotWritten``; ``ChartEmpty`` when :func:`series` finds nothing to draw.
    """
    found = series(rows, value)
    if found is None:
        raise InvalidInput(
            "ChartEmpty",
            f"--chart: {path} was not written, because the result has no {'finite number' if rows else 'rows'} to draw.",
            hint="Repeat the command without --chart.",
        )
    import matplotlib

    matplotlib.use("Agg")
    labels, values, name = found
    # Without this, matplotlib reads text between two dollar signs as TeX, and fails for text such as "$^$".
    with matplotlib.rc_context({"text.parse_math": False}):
        _draw_png(labels, values, name, path, title)


def _draw_png(labels: list[str], values: list[int | float], name: str, path: Path, title: str) -> None:
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(10, 0.42 * len(labels) + 1.6), layout="constrained")
    # By position, because bars with equal labels would be drawn over each other.
    bars = axes.barh(range(len(labels)), values, color="#31688e", tick_label=labels)
    axes.bar_label(bars, fmt="{:,.0f}" if _are_counts(values) else "{:,.1f}", padding=4, fontsize=9)
    if _are_counts(values):
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.invert_yaxis()
    axes.set_xlabel(name)
    # Wrapped, because matplotlib cuts a longer line at the edge of the picture.
    figure.suptitle(textwrap.fill(title, 80), x=0.01, horizontalalignment="left", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Explicit, because savefig() would derive the format from the file's suffix.
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise InvalidInput("ChartNotWritten", f"--chart: cannot write {path}.", cause=error.strerror) from error
    finally:
        pyplot.close(figure)
