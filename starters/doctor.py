"""``cleanroom doctor``: whether everything that a profile needs works. Also ``python -m starters.doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from cleanroom.errors import PreconditionFailed
from starters.operations.doctor.checks import SECONDS, Finding, run_checks
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, out, print_json, safe

MARKS = {"ok": "[green]✔[/green]", "failed": "[red]✘[/red]", "skipped": "[dim]-[/dim]"}


def doctor(
    profile: Profile = None,
    config: ConfigFile = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=300, help="Time limit of each check. They run at the same time.")] = SECONDS,
    output: Output = Format.TABLE,
) -> None:
    """Check everything that a profile needs, and say how to repair what does not work.

    Settings, files, keys, keyring, clock, sign-in, governance, contract, policies, Temporal, workers, stores, roles, federated
    credentials, evidence, roots, cluster, quota, versions, and what ended runs have left. Nothing is changed.

    Exit codes: 0 all is well, 6 a check failed.

    Example: cleanroom doctor --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.doctor.plan import planned_checks

        findings = run_async(run_checks(planned_checks(session), seconds=seconds))
        failed = [item for item in findings if item.state == "failed"]
        if output is Format.JSON:
            print_json({"profile": session.settings.profile, "ok": not failed, "checks": [item.record() for item in findings]})
        else:
            _print(findings)
        if failed:
            raise typer.Exit(PreconditionFailed.exit_code)


def _print(findings: list[Finding]) -> None:
    area = ""
    for item in findings:
        if item.area != area:
            area = item.area
            out.print(f"[bold]{safe(area)}[/bold]")
        code = f" [dim]{safe(item.code)}[/dim]" if item.code else ""
        out.print(f"  {MARKS[item.state]} {safe(item.check)}: {safe(item.detail)}{code}", highlight=False)
        if item.remedy:
            out.print(f"      [green]remedy:[/green] {safe(item.remedy)}", highlight=False)
    failed = sum(item.state == "failed" for item in findings)
    out.print(f"{sum(item.state == 'ok' for item in findings)} checks are well, {failed} failed.", highlight=False)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(doctor)
    main(app)
