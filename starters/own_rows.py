"""``cleanroom dataset objects``, ``preview`` and ``stats``: what the store has of an own dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    error_boundary,
    print_json,
    print_record,
    print_rows,
    print_status,
)

if TYPE_CHECKING:
    from cleanroom.documents.specs import DatasetSpec

Name = Annotated[str, typer.Argument(help="Name of your dataset.", show_default=False)]
File = Annotated[
    Path | None, typer.Option("--file", help="Its YAML file.", show_default="the copy of the last upload or publication on this machine")
]
PREVIEW_ROWS = 20
MAX_PREVIEW_ROWS = 1000


def _own(name: str, file: Path | None, profile: str | None, config: str | None) -> tuple[Session, DatasetSpec]:
    session = Session.load(profile, config, needs="collaborator")
    from starters.operations.own_datasets import own_spec, require_owner

    spec = own_spec(session, name, file) if file is not None else None
    run_async(require_owner(session, name))
    return session, spec or own_spec(session, name)


def objects(name: Name, file: File = None, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the stored objects of your dataset: rows, bytes, and whether the manifest lists them.

    Example: cleanroom dataset objects contosso-flights --profile contosso
    """
    with error_boundary(output):
        session, spec = _own(name, file, profile, config)
        from starters.operations.own_datasets import list_objects

        print_rows(list_objects(session, spec), output, columns=("object", "rows", "stored_bytes", "state"), title=f"dataset {name}")


def preview(
    name: Name,
    rows: Annotated[int, typer.Option(min=1, max=MAX_PREVIEW_ROWS, help="Number of rows.")] = PREVIEW_ROWS,
    file: File = None,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the first rows of your dataset as they are stored, decrypted with your key on this machine.

    Example: cleanroom dataset preview contosso-flights --profile contosso
    """
    with error_boundary(output):
        session, spec = _own(name, file, profile, config)
        from starters.operations.own_datasets import preview as read
        from starters.terminal.result_view import result_rows

        table, total = read(session, spec, rows)
        found = result_rows(table)
        if output is Format.JSON:
            print_json({"dataset": name, "total_rows": total, "shown_rows": len(found), "rows": found})
            return
        numbered = [{"#": number, **values} for number, values in enumerate(found, 1)]
        print_rows(numbered, output, columns=["#", *table.column_names], title=f"dataset {name}")
        more = f"; --rows shows up to {MAX_PREVIEW_ROWS}" if total > len(found) else ""
        print_status(f"the first {len(found)} of {total} rows, decrypted with your key on this machine{more}")


def stats(name: Name, file: File = None, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show how much your dataset contains: objects, rows, bytes, and the empty and different values of each column.

    Columns are examined in the first 100,000 rows. With a privacy floor, the number of persons in them is compared with it.

    Example: cleanroom dataset stats contosso-flights --profile contosso
    """
    with error_boundary(output):
        session, spec = _own(name, file, profile, config)
        from starters.operations.own_datasets import statistics

        record = statistics(session, spec)
        if output is Format.TABLE:
            columns = record["columns"]
            record["columns"] = [
                f"{key}: {item['type']}, {item['empty']} empty, {item['different']} different" for key, item in columns.items()
            ]
        print_record(record, output, title=f"dataset {name}")
