"""``cleanroom audit``: ledger events and audit bundles. Also ``python -m starters.audit``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cleanroom.errors import InvalidInput, Refused
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
    with_names,
)

if TYPE_CHECKING:
    from cleanroom.audit.chain import Bundle
    from cleanroom.audit.verdict import BundleVerdict
    from cleanroom.governance import Event


app = typer.Typer(help="List audit events; export and verify audit bundles.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="ID of the run.", show_default=False)]


@app.command("list")
def list_(
    profile: Profile = None,
    config: ConfigFile = None,
    run: Annotated[str | None, typer.Option(help="Show the events of this run.")] = None,
    query: Annotated[str | None, typer.Option(help="Show the starts of this query's runs.")] = None,
    from_seqno: Annotated[int, typer.Option(min=1, help="Start at this sequence number of the ledger.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of events.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List audit events of governance's ledger.

    Without --run and --query, the command lists the events of the collaboration and the run starts of every query.

    Example: cleanroom audit list --run r-1 --profile contosso
    """
    from starters.operations.audit import list_events

    with error_boundary(output):
        if run and query:
            raise InvalidInput("TooManyFilters", "--run and --query exclude each other.", hint="Give one of them.")
        session = Session.load(profile, config)
        events = run_async(list_events(session, run=run, query=query))
        page = [event for event in events if event.seqno >= from_seqno]
        rows = [_row(event) for event in page[:limit]]
        print_rows(rows, output, columns=("seqno", "time", "event", "run", "source", "message"), title="audit events")
        if len(page) > limit:
            print_status(f"[dim]{len(page) - limit} more events: --from-seqno {page[limit].seqno}[/dim]")


def _row(event: Event) -> dict[str, Any]:
    data = event.data if isinstance(event.data, dict) else {}
    return {
        "seqno": event.seqno,
        "time": event.at.isoformat(timespec="milliseconds"),
        "event": data.get("name", event.id),
        "run": data.get("runId", ""),
        "source": data.get("source", ""),
        "message": with_names(str(data.get("message", ""))),
        "id": event.id,
        "scope": event.scope,
        "queryDigest": data.get("queryDigest"),
        "digests": data.get("digests"),
    }


@app.command()
def export(
    run_id: RunId,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="File to write, .json or .zip.", show_default="RUN_ID.zip")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Export the evidence of an ended run as an audit bundle: one hash-chained file, signed with your key.

    The bundle contains the documents, decisions, attestation evidence, grants, result receipt and ledger events. It contains no rows and
    no secrets.

    Example: cleanroom audit export r-1 --file r-1.zip --profile contosso
    """
    from cleanroom.identifiers import require_name
    from starters.operations.audit import export_run

    with error_boundary(output):
        file = file or Path(f"{require_name('run', run_id)}.zip")
        if file.suffix not in (".json", ".zip"):
            raise InvalidInput("BundleFileUnknown", f"--file: {file} is neither a .json nor a .zip file.", hint="Choose one of the two.")
        _require_new(file, force=force)
        session = Session.load(profile, config, needs="collaborator")
        record = run_async(export_run(session, require_name("run", run_id), file))
        if output is Format.TABLE:
            record["sealedBy"] = with_names(str(record["sealedBy"]))
        print_record(record, output, title=f"evidence of run {run_id}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The audit bundle.", show_default=False)],
    trust: Annotated[
        list[Path] | None, typer.Option(help="File with more attestation roots, JSON or PEM; repeatable. AMD's roots are always trusted.")
    ] = None,
    spark_host_data: Annotated[
        list[str] | None, typer.Option(help="Host data (hex) to accept for the Spark service; repeatable.", show_default="from the bundle")
    ] = None,
    clean_room_host_data: Annotated[
        list[str] | None, typer.Option(help="Host data (hex) to accept for the clean room; repeatable.", show_default="from the bundle")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="USER=THUMBPRINT of a signing key that you know to be this user's; repeatable.")
    ] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="AMD certificate revocation list, DER or PEM; repeatable.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Verify an audit bundle offline: hash chain, signatures, digests, attestation, completeness.

    The command needs no network and no settings. It names the first broken link.

    Exit codes: 0 all checks passed, 2 wrong usage, 3 file not found, 4 a check failed.

    Example: cleanroom audit verify r-1.zip --trust .cleanroom/demo/state/snp/attestation-trust.json
    """
    with error_boundary(output):
        spark = _host_data("--spark-host-data", spark_host_data)
        clean_room = _host_data("--clean-room-host-data", clean_room_host_data)
        _, verdict = _verify(file, trust, key, crl, spark_host_data=spark, clean_room_host_data=clean_room)
        if output is Format.JSON:
            print_json(verdict)
        else:
            show_verdict(verdict)
        _print_root_hint(verdict)
        if not verdict.ok:
            raise typer.Exit(Refused.exit_code)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="The audit bundle.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="HTML file to write.", show_default="the bundle's name with .html")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="File with more attestation roots, JSON or PEM; repeatable.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="USER=NAME of a user; repeatable.", show_default="from cleanroom.toml")] = None,
    key: Annotated[list[str] | None, typer.Option(help="USER=THUMBPRINT of a signing key that you know; repeatable.")] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="AMD certificate revocation list, DER or PEM; repeatable.")] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Verify an audit bundle, and write a page about it for people: what happened, who decided, and every check. It can be printed.

    The page has no scripts and loads nothing. It names users by their names in cleanroom.toml, if there is one. The exit code is 4 when a
    check failed; the page then says which, and that its facts are not verified.

    Example: cleanroom audit report r-1.zip --trust .cleanroom/demo/state/snp/attestation-trust.json
    """
    from cleanroom.audit.report import render_report

    with error_boundary(output):
        target = to or file.with_suffix(".html")
        _require_new(target, force=force)
        bundle, verdict = _verify(file, trust, key, crl)
        target.write_text(render_report(bundle, verdict, _names(name or [], profile, config), source=file.name), "utf-8")
        record = {"file": str(target), "ok": verdict.ok, "run": verdict.run_id, "query": verdict.query}
        if (broken := verdict.first_broken) is not None:
            record["first_broken"] = f"{broken.id}{f' of {broken.subject}' if broken.subject else ''}: {broken.detail}"
        print_record(record, output, title="audit report")
        _print_root_hint(verdict)
        if not verdict.ok:
            raise typer.Exit(Refused.exit_code)


def _require_new(file: Path, *, force: bool) -> None:
    if file.exists() and not force:
        raise InvalidInput("FileExists", f"{file} already exists.", hint="Name another file, or overwrite it with --force.")


def _verify(
    file: Path, trust: list[Path] | None, key: list[str] | None, crl: list[Path] | None, **host_data: frozenset[str] | None
) -> tuple[Bundle | None, BundleVerdict]:
    """Read and verify a bundle with the options of the command."""
    from cleanroom.attestation import TrustStore
    from cleanroom.audit.verify import read_and_verify

    store = TrustStore.load(amd=True, root_files=trust or ())
    crls = tuple(path.read_bytes() for path in crl or ())
    bundle, verdict = read_and_verify(file, store, keys=_keys(key or []), crls=crls, **host_data)
    if verdict.records == 0 and verdict.first_broken is not None:
        print_status(f"{safe(file)} is not an audit bundle. Export one with [bold]cleanroom audit export RUN[/bold].")
    return bundle, verdict


def _print_root_hint(verdict: BundleVerdict) -> None:
    """Say how to name roots. Evidence of a local cloud and of development hardware has roots that are not AMD's."""
    if verdict.first_broken is not None and "RootNotTrusted" in verdict.first_broken.detail:
        known = "The local cloud's are in state/snp/attestation-trust.json of its folder, such as .cleanroom."
        print_status(f"  [green]hint:[/green] If you trust other roots than AMD's, name their file with --trust. {known}")


def _names(given: list[str], profile: str | None, config: str | None) -> dict[str, str]:
    """Return names of users by user ID: those of the settings, if there are any, and the given ones."""
    from cleanroom.config_file import config_path
    from cleanroom.settings import load_settings

    file = config_path(Path(config) if config else None)
    names = load_settings(profile, path=file).user_names if file is not None else {}
    for value in given:
        user, _, name = value.partition("=")
        if not user or not name:
            raise InvalidInput("InvalidName", f"--name: {value!r} is not USER=NAME.", hint="`cleanroom members` lists users.")
        names[user] = name
    return names


def _host_data(option: str, values: list[str] | None) -> frozenset[str] | None:
    if not values:
        return None
    for value in values:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise InvalidInput(
                "InvalidHostData", f"{option}: {value!r} is not 64 hexadecimal digits.", hint="Host data is a SHA-256 digest in hex."
            )
    return frozenset(value.lower() for value in values)


def _keys(values: list[str]) -> dict[str, list[str]]:
    """Parse the values of ``--key`` to user ID and thumbprints."""
    found: dict[str, list[str]] = {}
    for value in values:
        user, _, kid = value.partition("=")
        if not user or not kid:
            raise InvalidInput("InvalidKey", f"--key: {value!r} is not USER=THUMBPRINT.", hint="`cleanroom key publish` prints both.")
        found.setdefault(user, []).append(kid)
    return found


def show_verdict(verdict: BundleVerdict) -> None:
    """Print a verdict: a headline, one row per check, the signers, notes, and the first broken link."""
    head = "[bold green]VERIFIED[/bold green]" if verdict.ok else "[bold red]BROKEN[/bold red]"
    signed = f", signed by {safe(verdict.sealed_by)}" if verdict.sealed_by else ""
    about = f"run {safe(verdict.run_id)} of {safe(verdict.query)}: {safe(verdict.state)}, " if verdict.run_id else ""
    out.print(f"{head}  {about}{verdict.records} records{signed}")
    if verdict.development:
        out.print("[bold yellow]NOT CONFIDENTIAL: the attestation chains to a development root.[/bold yellow]")
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
