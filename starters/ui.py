"""``cleanroom ui``: open the Temporal Web UI, logged in. Also ``python -m starters.ui``."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_json, print_status

app = typer.Typer()


@app.command()
def ui(
    what: Annotated[
        str | None,
        typer.Argument(help="Workflow ID, or name of a run, query or dataset.", show_default="the list of all workflows"),
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Open a browser.", show_default="only if a desktop is available"),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print a link that opens the Temporal Web UI, logged in, with readable payloads.

    The link works once, within two minutes. Later, the same browser opens pages without it.

    Example: cleanroom ui fabrikam-delays
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.web_ui import login_link, resolve_workflow

        workflow_id, run_id = run_async(resolve_workflow(session, what)) if what else (None, None)
        page = session.ui_link(workflow_id, run_id) if workflow_id else session.ui_list()
        link = login_link(session.settings, page)
        if output is Format.JSON:
            print_json({"url": link["url"], "expires_in": link["expires_in"], "page": page, "workflow_id": workflow_id})
        else:
            # Not with Rich, which would wrap the link at the width of the terminal.
            sys.stdout.write(link["url"] + "\n")
            sys.stdout.flush()
            print_status(f"[dim]The link works once, within {link['expires_in']} seconds. Later, open {page} in the same browser.[/dim]")
        if browser if browser is not None else output is Format.TABLE and _has_desktop():
            webbrowser.open(link["url"])


def _has_desktop() -> bool:
    """Whether this process runs on a desktop, not over SSH or in a pipe."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main(app)
