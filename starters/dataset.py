"""``cleanroom dataset``: encrypted datasets. Also ``python -m starters.dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starters.dataset_files import check, init
from starters.operations.session import Session, run_async
from starters.own_rows import objects, preview, stats
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Plaintext,
    Profile,
    error_boundary,
    print_record,
    print_rows,
    print_status,
    safe,
)

if TYPE_CHECKING:
    from cleanroom.datasets.upload import UploadResult

app = typer.Typer(help="Upload and publish encrypted datasets.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="YAML file of the dataset.", show_default=False)]
app.command()(init)
app.command()(check)
app.command()(objects)
app.command()(preview)
app.command()(stats)


@app.command()
def publish(
    file: File,
    sources: Annotated[list[Path] | None, typer.Argument(help="Files or folders with the rows, to upload first.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until governance holds the accepted document.")] = True,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Publish a dataset to the collaboration.

    On Azure this creates a managed identity, role assignments, a federated credential, and a key with a release policy. On S3 it stores
    the secrets in governance. Then it proposes and accepts the dataset document. A published dataset never changes. The command warns if
    no rows of an input are uploaded yet. With SOURCES, it uploads them first, as `dataset upload` does.

    Example: cleanroom dataset publish demo/contosso-flights.yaml --profile contosso
    """
    with error_boundary(output):
        from cleanroom.documents.specs import load_dataset_spec

        spec = load_dataset_spec(file)
        session = Session.load(profile, config, plaintext=plaintext, needs="collaborator")
        from starters.operations.datasets import publish_dataset, upload_rows
        from starters.operations.own_datasets import upload_warnings

        if sources:
            result = upload_rows(session, spec, sources)
            print_status(f"{safe(spec.name)}: {result.rows:,} rows uploaded, {result.stored_bytes:,} bytes stored")
            _print_remarks(result)
        # A complete upload leaves nothing to warn of.
        warnings = [] if sources else upload_warnings(session, spec)
        for warning in warnings:
            print_status(f"[yellow]warning[/yellow]: {safe(warning)}")
        record = run_async(publish_dataset(session, spec, wait=wait))
        if output is Format.TABLE and "owner_id" in record:
            record["owner"] = session.party_of(record.pop("owner_id"))
        print_record(record | ({"warnings": warnings} if warnings else {}), output, title=f"dataset {spec.name}")


@app.command()
def upload(
    file: File,
    sources: Annotated[list[Path], typer.Argument(help="Files or folders with the rows.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    replace: Annotated[bool, typer.Option(help="Delete stored objects that no source contains.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Validate the rows of a dataset, encrypt them on this machine, and upload them.

    Unchanged files are not uploaded again, so you can repeat an interrupted upload. Files that were uploaded under other names stay and
    belong to the dataset too; --replace deletes them when the new ones are complete.

    Example: cleanroom dataset upload demo/contosso-flights.yaml .cleanroom/demo/data/flights.csv --profile contosso
    """
    with error_boundary(output):
        from cleanroom.documents.specs import load_dataset_spec

        spec = load_dataset_spec(file)
        session = Session.load(profile, config)
        from starters.operations.datasets import upload_rows

        result = upload_rows(session, spec, sources, replace=replace)
        print_record(
            {
                "dataset": spec.name,
                "rows": result.rows,
                "uploaded": list(result.uploaded),
                "unchanged": list(result.unchanged),
                "stored_bytes": result.stored_bytes,
                "earlier": list(result.kept),
                "removed": list(result.removed),
                "unlisted": list(result.unlisted),
            },
            output,
            title=f"dataset {spec.name}",
        )
        _print_remarks(result)


def _print_remarks(result: UploadResult) -> None:
    remarks = []
    if result.kept:
        sources = ", ".join((*result.uploaded, *result.unchanged))
        remarks.append(
            f"the dataset has {', '.join(result.kept)} of an earlier upload and {sources}: a query reads the rows of all of them. "
            "If the new files replace the earlier ones, repeat the command with --replace"
        )
    if result.unlisted:
        remarks.append(
            f"the store has {', '.join(result.unlisted)}, which no upload has listed: runs refuse the dataset. Delete them, or repeat "
            "the command with --replace"
        )
    for text in remarks:
        print_status(f"[yellow]warning[/yellow]: {safe(text, 1000)}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the dataset.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the state of a dataset, and its document as governance holds it: owner, schema, floors, store.

    Example: cleanroom dataset show contosso-flights --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.dataset_states import show_dataset

        print_record(run_async(show_dataset(session, name)), output, title=f"dataset {name}")


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the datasets of the collaboration, also those that are being published or whose publication has ended.

    Example: cleanroom dataset list --profile fabrikam
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.dataset_states import list_datasets

        rows = run_async(list_datasets(session))
        print_rows(rows, output, columns=("dataset", "state", "owner", "access", "format", "version"), title="datasets")


if __name__ == "__main__":
    main(app)
