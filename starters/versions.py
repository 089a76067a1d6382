"""``cleanroom versions``: roll out a new version of the workers, and retire old ones. Also ``python -m starters.versions``."""

from __future__ import annotations

from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_json, print_rows, print_status, safe

app = typer.Typer(help="Roll out a new version of the workers, and retire old ones.", no_args_is_help=True)

OneDeployment = Annotated[str | None, typer.Option(help="Only this deployment: frontend or clean-room.", show_default="both")]
Build = Annotated[str, typer.Argument(help="Build ID of the version.", show_default=False)]
COLUMNS = ("deployment", "build", "state", "percent", "pinned", "this_code", "created")


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the versions of both deployments, newest first, with the open workflows that are pinned to each.

    Stop the workers of a version when its state is `drained`. The server looks every few minutes; `pinned` is counted now.

    Example: cleanroom versions list --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.worker_versions import list_all

        rows = run_async(list_all(session))
        print_rows(rows, output, columns=COLUMNS, title="versions of the workers")


@app.command("promote")
def promote_(
    build: Annotated[str | None, typer.Argument(help="Build ID of the version.", show_default="the build of this program")] = None,
    deployment: OneDeployment = None,
    percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of the new workflows. Less than 100 ramps the version up; 0 ends a ramp.")
    ] = 100,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Route new workflows and open queries to a version. Runs stay on the version on which they began.

    The workers of the version must be running. Promote the previous version to roll back.

    Example: cleanroom versions promote --percent 10 --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.worker_versions import promote

        rows = run_async(promote(session, build, deployment, percent))
        print_rows(rows, output, columns=COLUMNS, title="versions of the workers")


@app.command("delete")
def delete_(
    build: Build, deployment: OneDeployment = None, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Remove a drained version from the list. Refused while a workflow or a worker needs it.

    Example: cleanroom versions delete 537b26c958cb5e4b --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.worker_versions import delete

        rows = run_async(delete(session, build, deployment))
        print_rows(rows, output, columns=COLUMNS, title="versions of the workers")


@app.command("move")
def move_(
    build: Build,
    to: Annotated[str, typer.Option(help="Build ID of the version that continues the workflows.", show_default=False)],
    deployment: OneDeployment = None,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Move the open runs of a version whose workers cannot be started again.

    A run whose steps differ in the other version does not continue there. Move it back, or cancel it with `cleanroom run cancel`.

    Example: cleanroom versions move 537b26c958cb5e4b --to 9c1d2f60a7be4431 --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.worker_versions import move

        moved = run_async(move(session, build, to, deployment))
        if output is Format.JSON:
            print_json({"moved": moved})
            return
        print_status(f"moved {len(moved)} workflows to {safe(to)}")
        for workflow_id in moved:
            print_status(safe(workflow_id))


if __name__ == "__main__":
    main(app)
