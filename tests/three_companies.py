"""The section "Three companies of your own" of docs/getting-started.md: its files, its commands, and the data that it needs."""

from __future__ import annotations

import csv
import random
import re
import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs/getting-started.md"
CITIES = ("Lyon", "Oslo", "Porto")


@dataclass(frozen=True)
class Section:
    """What a user types and writes."""

    commands: tuple[tuple[str, ...], ...]
    files: dict[str, str]


def section() -> Section:
    """Read the section."""
    text = PAGE.read_text("utf-8").partition("## Three companies of your own\n")[2].partition("\n## ")[0]
    consoles = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in consoles for line in block.splitlines()]
    files = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return Section(tuple(tuple(shlex.split(line, comments=True)) for line in lines), dict(files))


def write_data(folder: Path) -> list[dict[str, Any]]:
    """Write the retailers' files, and return the result that the query must have, ordered by city."""
    numbers = random.Random(1)
    rows: dict[str, dict[str, tuple[str, float]]] = {"north": {}, "south": {}}
    for shop, ids in (("north", range(900)), ("south", range(300, 1200))):
        with open(folder / f"{shop}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["customer_id", "city", "spend"])
            for number in ids:
                row = rows[shop][f"c{number:05d}"] = (CITIES[number % 3], round(numbers.uniform(5, 300), 2))
                writer.writerow([f"c{number:05d}", *row])
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for customer, (city, spend) in rows["north"].items():
        if customer in rows["south"]:
            groups[city].append((spend, rows["south"][customer][1]))
    return [
        {
            "city": city,
            "customers": len(pairs),
            "spend_north": sum(north for north, _ in pairs) / len(pairs),
            "spend_south": sum(south for _, south in pairs) / len(pairs),
        }
        for city, pairs in sorted(groups.items())
    ]
