"""``cleanroom ui``: open the Temporal Web UI, logged in, on what somebody names. Also ``python -m starters.ui``."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.operations.web_ui import find_workflow, login_link
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_json, print_status

app = typer.Typer()


@app.command()
def ui(
    what: Annotated[
        str | None,
        typer.Argument(help="A workflow id, or the name of a run, query or dataset; all workflows without it.", show_default=False),
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Open a browser; where there is a desktop unless told.", show_default=False),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print a link that opens the Temporal Web UI, logged in and readable. It works once, within two minutes.

    Example: cleanroom ui fabrikam-delays
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        workflow_id, run_id = run_async(find_workflow(session, what)) if what else (None, None)
        page = session.ui_link(workflow_id, run_id) if workflow_id else session.ui_list()
        link = login_link(session.settings, page)
        if output is Format.JSON:
            print_json({"url": link["url"], "expires_in": link["expires_in"], "page": page, "workflow_id": workflow_id})
        else:
            # Not through Rich: a link is one line, whatever the width of the terminal.
            sys.stdout.write(link["url"] + "\n")
            sys.stdout.flush()
            print_status(f"[dim]works once, within {link['expires_in']} seconds; later, in the same browser: {page}[/dim]")
        if browser if browser is not None else output is Format.TABLE and _has_desktop():
            webbrowser.open(link["url"])


def _has_desktop() -> bool:
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main(app)
