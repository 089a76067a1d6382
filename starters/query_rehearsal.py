"""``cleanroom query rehearse``: a query on synthetic rows in a local Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from starters.operations.session import Session, run_async
from starters.terminal.output import ConfigFile, Format, Output, Profile, err, error_boundary, print_json, print_record, print_status, safe

MAX_ROWS = 100_000


def rehearse(
    file: Annotated[Path, typer.Argument(help="YAML file of the query.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Synthetic rows of each input dataset.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic rows. The same seed gives the same rows.")] = 1,
    start_date: Annotated[str | None, typer.Option(help="First day (yyyy-MM-dd) of the run, if the draft has a date range.")] = None,
    end_date: Annotated[str | None, typer.Option(help="Last day (yyyy-MM-dd) of the run, if the draft has a date range.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Execute a draft on synthetic rows in a local Spark, and show what a result looks like.

    The rows are made from the published schemas, the privacy floors and the literals of the query; no dataset is read. The steps are those
    of the pods. Shown are columns, types and number of rows of the result, the groups that floors leave out, and the stored bytes that the
    real run reads. Numbers of rows and groups are those of synthetic rows. Days are refused as `run start` refuses them; of your own
    datasets with `partitionedBy: day`, the bytes are those of these days. It needs Java and pyspark; `query check` needs neither.

    Example: cleanroom query rehearse demo/fabrikam-delays.yaml --profile fabrikam
    """
    with error_boundary(output):
        from cleanroom.documents.specs import load_query_spec
        from starters.operations.rehearsal import rehearse_query, require_spark
        from starters.operations.run_parameters import parse_parameters

        parameters = parse_parameters(start_date, end_date)
        spec = load_query_spec(file)
        require_spark()
        session = Session.load(profile, config, needs="collaborator")
        with err.status("rehearsal", spinner="dots") as status:

            def show_step(text: str) -> None:
                status.update(f"rehearsal: {safe(text)}")
                if not err.is_terminal:
                    print_status(f"[dim]{safe(text)}[/dim]")

            record = run_async(rehearse_query(session, spec, rows=rows, seed=seed, on_step=show_step, parameters=parameters))
        if output is Format.JSON:
            print_json(record)
            return
        print_record(_table(record), output, title=f"query {spec.name}: rehearsed on synthetic rows")
        if record["bytes_to_read"] is None:
            print_status("[dim]stored bytes are known from an owner's manifest, or after the first run that reads the dataset[/dim]")


def _table(record: dict[str, Any]) -> dict[str, Any]:
    shown = {key: record[key] for key in ("columns", "rows")}
    if record["start_date"]:
        shown["days"] = f"{record['start_date']} to {record['end_date']}"
    if record["groups"] is None:
        shown["suppressed"] = "no privacy floor applies"
    else:
        share = f"{record['suppressed_share']:.0%}" if record["suppressed_share"] is not None else "none"
        shown["suppressed"] = f"{record['suppressed_groups']} of {record['groups']} groups ({share})"
    for item in record["inputs"]:
        size = (
            f"{item['stored_bytes']:,} bytes ({item['stored_bytes_from']})"
            if item["stored_bytes"] is not None
            else item["stored_bytes_from"]
        )
        text = f"{item['synthetic_rows']} synthetic rows; columns {', '.join(item['columns_read'])}; to read: {size}"
        shown[f"{item['view']} ({item['dataset']})"] = text
    total = record["bytes_to_read"]
    return shown | {"bytes_to_read": f"{total:,}" if total is not None else "unknown", "seconds": record["seconds"]}
