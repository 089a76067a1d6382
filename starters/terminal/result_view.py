"""Shows the rows of a result: a table and a bar chart in the terminal (plotext), and a bar chart as PNG (matplotlib)."""

from __future__ import annotations

import math
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
    """Convert a pyarrow table to rows that JSON can represent; dates and times become RFC 3339 text."""
    columns = [_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):
        values = [_scalar(item) for item in column]
    return [value.isoformat() if hasattr(value, "isoformat") else value for value in values]


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


def series(rows: Rows, value: str | None = None) -> tuple[list[str], list[float], str] | None:
    """Select what a chart shows.

    Args:
        rows: Rows of the result.
        value: Numeric column to draw; the last numeric column by default.

    Returns:
        The labels (joined text columns), the values in descending order, and the name of the drawn column. Rows whose value is
        infinite or NaN are left out. None when there are no rows, no text column, or no numeric column.

    Raises:
        InvalidInput: ``ChartColumnUnknown``.
    """
    if not rows:
        return None
    columns = list(rows[0])
    labels = [name for name in columns if all(isinstance(row[name], str) for row in rows)]
    numbers = [name for name in columns if all(_is_number(row[name]) for row in rows)]
    if not labels or not numbers:
        return None
    if value is not None and value not in numbers:
        raise InvalidInput(
            "ChartColumnUnknown",
            f"--value: the result has no numeric column {value!r}.",
            hint=f"Numeric columns: {', '.join(numbers)}.",
        )
    value = value or numbers[-1]
    finite = [row for row in rows if math.isfinite(row[value])]
    if not finite:
        return None
    ordered = sorted(finite, key=lambda row: float(row[value]), reverse=True)[:MAX_BARS]
    return [safe(" ".join(str(row[name]) for name in labels), 24) for row in ordered], [float(row[value]) for row in ordered], value


def print_chart(rows: Rows, value: str | None = None) -> None:
    """Print a bar chart of the column ``value``; see :func:`series`."""
    found = series(rows, value)
    if found is None:
        return
    import plotext

    labels, values, name = found
    plotext.clear_figure()
    plotext.simple_bar(labels, values, width=min(out.width, 100), title=name)
    drawn = plotext.build()
    # plotext always colours its output; a pipe or a file must not receive escape sequences.
    out.print(drawn if out.is_terminal else plotext.uncolorize(drawn), markup=False, highlight=False)


def chart_png(rows: Rows, path: Path, *, title: str = "", value: str | None = None) -> bool:
    """Write a horizontal bar chart of the column ``value`` to ``path``; return False when :func:`series` finds nothing to draw.

    Raises:
        InvalidInput: ``ChartColumnUnknown``, ``ChartNotWritten``.
    """
    found = series(rows, value)
    if found is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    labels, values, name = found
    # Without this, matplotlib reads text between two dollar signs as TeX, and fails for text such as "$^$".
    with matplotlib.rc_context({"text.parse_math": False}):
        _draw_png(labels, values, name, path, title)
    return True


def _draw_png(labels: list[str], values: list[float], name: str, path: Path, title: str) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 0.42 * len(labels) + 1.6), layout="constrained")
    bars = axes.barh(labels, values, color="#31688e")
    axes.bar_label(bars, fmt="{:,.1f}", padding=4, fontsize=9)
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
