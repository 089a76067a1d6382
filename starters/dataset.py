"""``cleanroom dataset``: publish, upload, show, list. Also ``python -m starters.dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanroom.documents.specs import load_dataset_spec
from starters.operations.datasets import list_datasets, publish_dataset, show_dataset, upload_rows
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record, print_rows

# Stores and their SDKs are imported by who opens one.
if TYPE_CHECKING:
    pass

app = typer.Typer(help="Publish encrypted datasets.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="The dataset's YAML.", show_default=False)]


@app.command()
def publish(
    file: File,
    profile: Profile = None,
    config: ConfigFile = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the document is accepted.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Publish a dataset: identity, roles, federation, key with release policy, document.

    Example: cleanroom dataset publish demo/contosso-flights.yaml --profile contosso
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        spec = load_dataset_spec(file)
        print_record(run_async(publish_dataset(session, spec, wait=wait)), output, title=f"dataset {spec.name}")


@app.command()
def upload(
    file: File,
    sources: Annotated[list[Path], typer.Argument(help="Files or folders with the rows.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    replace: Annotated[bool, typer.Option(help="Delete stored objects that the sources no longer have.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Encrypt rows on this machine and upload them; nothing readable leaves it.

    Example: cleanroom dataset upload demo/contosso-flights.yaml .cleanroom/demo/data/flights.csv --profile contosso
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        spec = load_dataset_spec(file)
        result = upload_rows(session, spec, sources, replace=replace)
        print_record(
            {
                "dataset": spec.name,
                "rows": result.rows,
                "uploaded": list(result.uploaded),
                "unchanged": list(result.unchanged),
                "stored_bytes": result.stored_bytes,
            },
            output,
            title=f"dataset {spec.name}",
        )


@app.command()
def show(name: str, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show a dataset's document as governance holds it.

    Example: cleanroom dataset show contosso-flights --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        print_record(run_async(show_dataset(session, name)), output, title=f"dataset {name}")


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the collaboration's datasets.

    Example: cleanroom dataset list --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        rows = run_async(list_datasets(session))
        print_rows(rows, output, columns=("dataset", "state", "owner", "access", "format", "version"), title="datasets")


if __name__ == "__main__":
    main(app)
