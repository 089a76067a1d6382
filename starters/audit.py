"""``cleanroom audit``: the ledger's events, a run's evidence as one file, and its verification. Also ``python -m starters.audit``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cleanroom.attestation import TrustStore
from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_file
from cleanroom.errors import InvalidInput, Refused
from cleanroom.governance import Event
from cleanroom.identifiers import require_name
from starters.operations.audit import export_run, list_events
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    error_boundary,
    out,
    print_json,
    print_record,
    print_rows,
    print_status,
    safe,
)

app = typer.Typer(help="Evidence: events, bundles, verification.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run's id.", show_default=False)]
HostData = Annotated[list[str] | None, typer.Option(help="Host data (hex) that you accept; repeatable. Taken from the bundle when absent.")]


@app.command("list")
def list_(
    profile: Profile = None,
    config: ConfigFile = None,
    run: Annotated[str | None, typer.Option(help="Events of this run.")] = None,
    query: Annotated[str | None, typer.Option(help="Starts of this query's runs.")] = None,
    from_seqno: Annotated[int, typer.Option(min=1, help="Begin at this place of the ledger.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Events at most.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List audit events: of a run, of a query, or of the collaboration (run starts of every query).

    Example: cleanroom audit list --run r-20260112-091500-a1b2c3 --profile contosso
    """
    with error_boundary(output):
        if run and query:
            raise InvalidInput("TooManyFilters", "give --run or --query, not both.")
        session = Session.load(profile, config)
        events = run_async(list_events(session, run=run, query=query))
        page = [event for event in events if event.seqno >= from_seqno]
        print_rows(
            [_row(event) for event in page[:limit]], output, columns=("seqno", "time", "event", "run", "source", "message"), title="audit"
        )
        if len(page) > limit:
            print_status(f"[dim]{len(page) - limit} more: --from-seqno {page[limit].seqno}[/dim]")


def _row(event: Event) -> dict[str, Any]:
    data = event.data if isinstance(event.data, dict) else {}
    return {
        "seqno": event.seqno,
        "time": event.at.isoformat(timespec="milliseconds"),
        "event": data.get("name", event.id),
        "run": data.get("runId", ""),
        "source": data.get("source", ""),
        "message": data.get("message", ""),
        "id": event.id,
        "scope": event.scope,
        "queryDigest": data.get("queryDigest"),
        "digests": data.get("digests"),
    }


@app.command()
def export(
    run_id: RunId,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Where to write it: .json or .zip; RUN.zip when not given.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Write a run's evidence into one file: documents, decisions, attestation, grants, receipt, events; hash-chained and signed by you.

    Example: cleanroom audit export r-1 --file r-1.zip --profile contosso
    """
    with error_boundary(output):
        file = file or Path(f"{require_name('run', run_id)}.zip")
        if file.suffix not in (".json", ".zip"):
            raise InvalidInput("BundleFileUnknown", f"{file}: a bundle is a .json or a .zip file.")
        if file.exists() and not force:
            raise InvalidInput("FileExists", f"{file} exists.", hint="Name another file, or give --force.")
        session = Session.load(profile, config)
        print_record(run_async(export_run(session, require_name("run", run_id), file)), output, title=f"evidence of run {run_id}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The bundle.", show_default=False)],
    trust: Annotated[list[Path] | None, typer.Option(help="Further attestation roots (JSON or PEM); AMD's are always trusted.")] = None,
    spark_host_data: HostData = None,
    clean_room_host_data: HostData = None,
    key: Annotated[
        list[str] | None, typer.Option(help="USER=THUMBPRINT: a signing key that you know to be this user's; repeatable.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Verify a bundle without any network: chain, signatures, digests, attestation, completeness. Names the first broken link.

    Exit codes: 0 everything holds, 4 something does not, 3 no such file, 2 wrong usage.

    Example: cleanroom audit verify r-1.zip --trust development-roots.json
    """
    with error_boundary(output):
        store = TrustStore.load(amd=True, root_files=trust or ())
        verdict = verify_file(
            file,
            store,
            spark_host_data=_host_data("--spark-host-data", spark_host_data),
            clean_room_host_data=_host_data("--clean-room-host-data", clean_room_host_data),
            keys=_keys(key or []),
        )
        if output is Format.JSON:
            print_json(verdict)
        else:
            show_verdict(verdict)
        if not verdict.ok:
            raise typer.Exit(Refused.exit_code)


def _host_data(option: str, values: list[str] | None) -> frozenset[str] | None:
    if not values:
        return None
    for value in values:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise InvalidInput("InvalidHostData", f"{option}: {value!r} is not 64 hexadecimal characters.")
    return frozenset(value.lower() for value in values)


def _keys(values: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        user, _, kid = value.partition("=")
        if not user or not kid:
            raise InvalidInput("InvalidKey", f"--key: {value!r} is not USER=THUMBPRINT.", hint="`cleanroom key publish` prints both.")
        found.setdefault(user, []).append(kid)
    return found


def show_verdict(verdict: BundleVerdict) -> None:
    """The verdict for people: a headline, a row a check, the first broken link, what to compare by hand."""
    head = "[bold green]VERIFIED[/bold green]" if verdict.ok else "[bold red]BROKEN[/bold red]"
    sealed = f", signed by {safe(verdict.sealed_by)}" if verdict.sealed_by else ""
    about = f"run {safe(verdict.run_id)} of {safe(verdict.query)}: {safe(verdict.state)}, " if verdict.run_id else ""
    out.print(f"{head}  {about}{verdict.records} records{sealed}")
    if verdict.development:
        out.print("[bold yellow]NOT CONFIDENTIAL: an attestation rests on a development root.[/bold yellow]")
    table = Table()
    for column in ("", "check", "record", "subject", "found"):
        table.add_column(column, overflow="fold")
    for check in verdict.checks:
        mark = "[green]ok[/green]" if check.passed else "[bold red]FAILED[/bold red]"
        table.add_row(mark, check.id, "" if check.index is None else str(check.index), safe(check.subject, 80), safe(check.detail, 300))
    out.print(table)
    for user, kids in verdict.signers.items():
        out.print(f"[dim]signer {safe(user)}: key {safe(', '.join(kids))}[/dim]")
    for note in verdict.notes:
        out.print(f"[dim]note: {safe(note)}[/dim]")
    if verdict.first_broken is not None:
        broken = verdict.first_broken
        where = f"record {broken.index}" if broken.index is not None else "missing"
        what = " ".join(safe(part) for part in (broken.kind, broken.subject) if part)
        out.print(f"[bold red]first broken link[/bold red]: {', '.join(filter(None, (where, what)))}: {safe(broken.detail)}")


if __name__ == "__main__":
    main(app)
