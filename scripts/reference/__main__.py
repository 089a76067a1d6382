"""Write the generated pages, or check that they are current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.reference import commands, configuration, errors, lifecycle, metrics, schemas, search_attributes, yaml_files

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[str, Callable[[], str]] = {
    "docs/query-life.md": lifecycle.render,
    "docs/reference/commands.md": commands.render,
    "docs/reference/configuration.md": configuration.render,
    "docs/reference/errors.md": errors.render,
    "docs/reference/metrics.md": metrics.render,
    "docs/reference/search-attributes.md": search_attributes.render,
    "docs/reference/schemas.md": schemas.render,
    "docs/reference/yaml.md": yaml_files.render,
    **schemas.files(),
}


def main() -> int:
    """Run the command; returns 1 when ``--check`` finds a stale page."""
    parser = argparse.ArgumentParser(prog="python -m scripts.reference", description="Generate the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, render in PAGES.items():
        path, text = ROOT / name, render()
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"wrote {name}")
    if check and stale:
        print(f"stale: {', '.join(stale)}. Run `make reference` and commit the result.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
