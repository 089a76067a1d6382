"""A result is shown as a table and as a picture: in the terminal (plotext) and as PNG (matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cleanroom.errors import InvalidInput
from starters.terminal.output import out, safe

Rows = Sequence[Mapping[str, Any]]
MAX_BARS = 20


def result_rows(table: Any) -> list[dict[str, Any]]:
    """A pyarrow table as JSON-able rows; dates and times become RFC 3339 text."""
    rows: list[dict[str, Any]] = []
    for row in table.to_pylist():
        rows.append({key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()})
    return rows


def result_table(rows: Rows, *, title: str = "", limit: int = 25) -> Table:
    """The first ``limit`` rows as a Rich table; floats with two decimals."""
    table = Table(title=title or None, title_justify="left")
    columns = list(rows[0]) if rows else []
    for column in columns:
        numeric = all(isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in rows)
        table.add_column(safe(column), justify="right" if numeric else "left")
    for row in rows[:limit]:
        table.add_row(*(_text(row[column]) for column in columns))
    if len(rows) > limit:
        table.caption = f"{limit} of {len(rows)} rows"
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return safe("" if value is None else value)


def series(rows: Rows, value: str | None = None) -> tuple[list[str], list[float], str] | None:
    """What to draw: labels from the text columns, values from ``value`` (else the last numeric column), its name; None when there is
    nothing to draw.

    Raises:
        InvalidInput: ``ChartColumnUnknown``.
    """
    if not rows:
        return None
    columns = list(rows[0])
    labels = [name for name in columns if all(isinstance(row[name], str) for row in rows)]
    numbers = [name for name in columns if all(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)]
    if not labels or not numbers:
        return None
    if value is not None and value not in numbers:
        raise InvalidInput(
            "ChartColumnUnknown", f"--value: {value!r} is no column of numbers of this result.", hint=f"There are: {', '.join(numbers)}."
        )
    value = value or numbers[-1]
    ordered = sorted(rows, key=lambda row: float(row[value]), reverse=True)[:MAX_BARS]
    return [safe(" ".join(str(row[name]) for name in labels), 24) for row in ordered], [float(row[value]) for row in ordered], value


def print_chart(rows: Rows, value: str | None = None) -> None:
    """A bar chart of ``value`` in the terminal."""
    found = series(rows, value)
    if found is None:
        return
    import plotext

    labels, values, name = found
    plotext.clear_figure()
    plotext.simple_bar(labels, values, width=min(out.width, 100), title=name)
    drawn = plotext.build()
    # plotext draws with its own colours, which only a terminal shows.
    out.print(drawn if out.is_terminal else plotext.uncolorize(drawn), markup=False, highlight=False)


def chart_png(rows: Rows, path: Path, *, title: str = "", value: str | None = None) -> bool:
    """Write a horizontal bar chart of ``value`` to ``path``; False when there is nothing to draw.

    Raises:
        InvalidInput: ``ChartColumnUnknown``, ``ChartNotWritten``.
    """
    found = series(rows, value)
    if found is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, values, name = found
    figure, axes = pyplot.subplots(figsize=(10, 0.42 * len(labels) + 1.6), layout="constrained")
    bars = axes.barh(labels, values, color="#31688e")
    axes.bar_label(bars, fmt="{:,.1f}", padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(name)
    axes.set_title(title, loc="left", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whatever the file is called, it is a PNG.
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise InvalidInput("ChartNotWritten", f"--chart: {path} cannot be written.", cause=error.strerror) from error
    finally:
        pyplot.close(figure)
    return True
