"""``cleanroom cleanup``: what ended runs have left. Also ``python -m starters.cleanup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cleanroom.errors import InvalidInput, PreconditionFailed, Unavailable
from starters.operations.intervals import parse_interval
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Plaintext,
    Profile,
    error_boundary,
    out,
    print_json,
    print_record,
    print_rows,
    print_status,
    safe,
)

if TYPE_CHECKING:
    from cleanroom.messages.cleanup import CleanupReport


DEFAULT_INTERVAL = "1h"
COLUMNS = ("run", "collaboration", "query", "what", "age", "reason")


def cleanup(
    every: Annotated[str | None, typer.Argument(help="With --schedule: the interval, such as 15m, 1h or 1d.", show_default="1h")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what is left, and undo nothing. This is the default.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Undo what is left.")] = False,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Undo what is left at an interval. Repeat the command to change the interval.")
    ] = False,
    show: Annotated[bool, typer.Option("--show-schedule", help="Show the schedule, its next start and its latest cleanups.")] = False,
    unschedule: Annotated[bool, typer.Option("--unschedule", help="Delete the schedule.")] = False,
    grace: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seconds for which a run that Temporal does not know is left alone, from its first ledger entry.",
            show_default="600",
        ),
    ] = None,
    lost: Annotated[
        list[str] | None,
        typer.Option(help="ID of a Temporal namespace that no longer exists; its runs count as ended. Repeatable.", show_default=False),
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    plaintext: Plaintext = False,
    output: Output = Format.TABLE,
) -> None:
    """Find and undo what ended runs have left: grants, secrets, Spark jobs.

    A run cleans up when it ends. A run that was terminated, or whose Temporal namespace was lost, cannot. The command compares
    governance and Kubernetes with the open runs in Temporal, twice. It leaves runs of other Temporal namespaces alone until their
    requests have expired.

    Exit codes: 0 nothing is left or all of it was undone, 6 something is left, 7 a part could not be looked at.

    Example: cleanroom cleanup --apply --profile litware
    """
    with error_boundary(output):
        modes = {"--dry-run": dry_run, "--apply": apply, "--schedule": schedule, "--show-schedule": show, "--unschedule": unschedule}
        chosen = [name for name, given in modes.items() if given]
        if len(chosen) > 1:
            raise InvalidInput("OptionsExclude", f"{' and '.join(chosen)} exclude each other.", hint="Choose one of them.")
        if every is not None and not schedule:
            raise InvalidInput("IntervalNotUsed", f"{every!r} is an interval, and only --schedule takes one.")
        interval = parse_interval(every or DEFAULT_INTERVAL)
        session = Session.load(profile, config, plaintext=None if show or unschedule else plaintext)
        from cleanroom.messages.cleanup import DEFAULT_GRACE_SECONDS
        from starters.operations.cleanup import run_cleanup, schedule_cleanup, show_schedule, unschedule_cleanup

        grace_seconds = DEFAULT_GRACE_SECONDS if grace is None else grace
        if schedule:
            print_record(run_async(schedule_cleanup(session, interval, grace_seconds=grace_seconds)), output, title="scheduled cleanup")
        elif show:
            print_record(run_async(show_schedule(session)), output, title="scheduled cleanup")
        elif unschedule:
            print_record({"deleted": run_async(unschedule_cleanup(session))}, output)
        else:
            report = run_async(run_cleanup(session, apply=apply, grace_seconds=grace_seconds, lost=lost or ()))
            _print(report, output)
            if code := _exit_code(report):
                raise typer.Exit(code)


def _print(report: CleanupReport, output: Format) -> None:
    from starters.operations.cleanup import leftover_rows

    if output is Format.JSON:
        print_json(report.model_dump(mode="json", exclude={"seen"}))
        return
    if not report.left:
        out.print(f"Nothing is left of ended runs; {report.open_runs} open runs hold secrets or grants.")
    else:
        columns = (*COLUMNS, "outcome") if report.applied else COLUMNS
        # Not as the tables' titles, which a narrow terminal does not show.
        out.print("[bold]left of ended runs[/bold]")
        print_rows(leftover_rows(report, report.left), output, columns=columns)
    if report.kept:
        out.print("[bold]left alone[/bold]")
        print_rows(leftover_rows(report, report.kept), output, columns=COLUMNS)
    if report.unattributed:
        print_status(f"[yellow]{report.unattributed} grants[/yellow] belong to no known run. They are left alone.")
    if report.more:
        print_status("[yellow]incomplete[/yellow]: there are more runs. Repeat the command.")
    for what, code in report.unchecked.items():
        print_status(f"[yellow]incomplete[/yellow]: {safe(what)} could not be looked at ({safe(code)})")
    if report.left and not report.applied:
        print_status("  [green]hint:[/green] Undo it with `cleanroom cleanup --apply`.")


def _exit_code(report: CleanupReport) -> int:
    """Return the exit code that says whether something is left."""
    if any(item.outcome != "undone" for item in report.left):
        return PreconditionFailed.exit_code
    return Unavailable.exit_code if report.unchecked or report.more else 0


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(cleanup)
    main(app)
