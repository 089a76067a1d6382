"""The commands of ``cleanroom dataset`` that need no service: they read and write files of datasets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starters.terminal.output import Format, Output, error_boundary, print_record, print_status, safe

if TYPE_CHECKING:
    from cleanroom.documents.specs import DatasetSpec


class StoreChoice(StrEnum):
    """Kind of an owner's store."""

    AZURE = "azure-blob"
    S3 = "aws-s3"


def check(
    file: Annotated[Path, typer.Argument(help="YAML file of the dataset.", show_default=False)], output: Output = Format.TABLE
) -> None:
    """Check the file of a dataset against every rule that its published document has.

    Nothing is uploaded, stored or published, and no service is needed. `dataset upload` and `dataset publish` refuse what this command
    refuses, before they do anything. Use `doctor` to check the profile, its credentials and its stores.

    Example: cleanroom dataset check demo/contosso-flights.yaml
    """
    from cleanroom.documents.specs import load_dataset_spec

    with error_boundary(output):
        from cleanroom.publishing.dataset_advice import remarks

        spec = load_dataset_spec(file)
        found = remarks(spec)
        print_record(describe(spec) | {"remarks": list(found)}, output, title=f"dataset {spec.name}: valid")
        if output is Format.TABLE:
            print_status(f"[green]valid[/green]: {safe(file)} follows every rule of a dataset document")


def init(
    source: Annotated[Path, typer.Argument(help="File with rows of the dataset: CSV, JSON lines or Parquet.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="YAML file to write.", show_default="NAME.yaml")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset.", show_default="from the file's name")] = None,
    store: Annotated[StoreChoice, typer.Option(help="Kind of your store.")] = StoreChoice.AZURE,
    header: Annotated[bool, typer.Option("--header/--no-header", help="Whether the first line of a CSV file names the columns.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Write the YAML file of a dataset from one of its files, with suggested rules and their reasons as comments.

    The schema is inferred from a sample: the first 4 MiB of CSV or JSON lines, or 50,000 rows of Parquet. Identity, floor, dimensions and
    measures are suggestions; read and correct them. The file passes `dataset check` as it is. It contains no value of a row.

    Example: cleanroom dataset init flights.csv --store aws-s3
    """
    with error_boundary(output):
        from starters.operations.dataset_init import write_dataset_file

        written = write_dataset_file(source, to, name=name, store=store.value, header=header, force=force)
        found, rules = written.found, written.rules
        record = {
            "file": str(written.file),
            "dataset": written.spec.name,
            "sampled_rows": found.rows,
            "whole_file": found.whole,
            "columns": {column.name: column.type for column in found.columns},
            "identity": rules.identity,
            "reason": rules.why,
            "min_group_size": rules.floor,
            "dimensions": list(rules.dimensions),
            "measures": list(rules.measures),
            "left_out": dict(rules.hidden),
            "notes": {column.name: column.note for column in found.columns if column.note},
        }
        print_record(record, output, title=f"dataset {written.spec.name}: suggested")
        if output is Format.TABLE:
            if not found.whole:
                print_status(f"[yellow]sample[/yellow]: only the first {found.rows} rows were read; `dataset upload` checks all of them")
            if rules.identity is None:
                print_status("[yellow]no floor[/yellow]: no column looks like an identifier of a person; set privacy in the file")
            print_status(f"read and correct {safe(written.file)}, then: cleanroom dataset check {safe(written.file)}")


def describe(spec: DatasetSpec) -> dict[str, object]:
    """Return what the file of a dataset says, with the defaults of absent members."""
    from cleanroom.documents.specs import BlobStoreSpec

    store = spec.store
    place = f"container {store.container}" if isinstance(store, BlobStoreSpec) else f"bucket {store.bucket}"
    floors = spec.privacy
    return {
        "dataset": spec.name,
        "format": spec.format,
        "access": spec.access,
        "columns": dict(spec.columns),
        "allowed_columns": list(spec.allowed_columns or spec.columns),
        "min_group_size": floors.min_group_size,
        "identity": floors.identity_column,
        "dimensions": None if floors.allowed_output_columns is None else list(floors.allowed_output_columns),
        "measures": None if floors.measures is None else list(floors.measures),
        "unique_columns": None if spec.unique_columns is None else list(spec.unique_columns),
        "partitioned_by": spec.partitioned_by,
        "encryption": spec.encryption,
        "manifest": spec.manifest_rule(),
        "store": place + (f", {store.subdirectory}" if store.subdirectory else ""),
    }
