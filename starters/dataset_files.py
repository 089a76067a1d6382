"""The commands of ``cleanroom dataset`` that need no service: they read and write files of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starters.terminal.output import Format, Output, error_boundary, print_record, print_status, safe

if TYPE_CHECKING:
    from cleanroom.documents.specs import DatasetSpec


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
