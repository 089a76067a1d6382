"""``cleanroom ui``: open the Temporal Web UI, logged in, on what somebody names. Also ``python -m starters.ui``."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import httpx
import typer
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import dataset_workflow_id, prepare_workflow_id, query_workflow_id, run_workflow_id
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings
from cleanroom.transport import http_client, ssl_context
from cleanroom.webui.gateway import is_loopback
from starters.entry import command_line
from starters.output import ConfigFile, Format, Output, Profile, print_json, reported, say
from starters.session import Session, run_async

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
    with reported(output):
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
            say(f"[dim]works once, within {link['expires_in']} seconds; later, in the same browser: {page}[/dim]")
        if browser if browser is not None else output is Format.TABLE and _has_desktop():
            webbrowser.open(link["url"])


async def find_workflow(session: Session, what: str) -> tuple[str, str | None]:
    """Workflow id and run id of the workflow that ``what`` names: itself, or a query, run, dataset or preparation of that name.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    collaboration = session.collaboration
    candidates = [what] if what.startswith("cr/") else [
        query_workflow_id(collaboration, what), run_workflow_id(collaboration, what), dataset_workflow_id(collaboration, what), what,
    ]  # fmt: skip
    if what.endswith("/prepare") and not what.startswith("cr/"):
        candidates.insert(0, prepare_workflow_id(collaboration, what.removesuffix("/prepare")))
    for workflow_id in candidates:
        try:
            found = await client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        else:
            return workflow_id, found.run_id
    raise NotFound(
        "WorkflowNotFound",
        f"There is no query, run, dataset or workflow {what!r} in collaboration {collaboration!r}.",
        hint="`cleanroom query list`, `cleanroom run list` and `cleanroom dataset list` show what there is.",
    )


def login_link(settings: Settings, page: str) -> dict[str, Any]:
    """``{url, expires_in}``: a link with a single-use login code that leads on to ``page``, got with the profile's codec token.

    Raises:
        PreconditionFailed: ``CodecTokenMissing``, ``UiIsNoGateway``.
        Refused: ``CodecUnauthenticated``: the gateway does not know the token.
        Unavailable: ``UiUnavailable``.
        InvalidInput: ``UiUrlInsecure``.
    """
    gateway = settings.temporal.ui_url.rstrip("/")
    parts = urlsplit(gateway)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise InvalidInput(
            "UiUrlInsecure", f"settings: temporal.ui_url {gateway} must be https, or on this machine: a token is sent there."
        )
    if settings.temporal.codec_token_file is None:
        raise PreconditionFailed(
            "CodecTokenMissing",
            f"profile {settings.profile!r} has no codec token, which the gateway of the Web UI asks for.",
            hint="Set temporal.codec_token_file in cleanroom.toml.",
        )
    token = read_secret_file(settings.temporal.codec_token_file, what="codec token").reveal_text().strip()
    tls = ssl_context(settings.ca_file, system_roots=True)
    try:
        with http_client(tls, timeout=20) as http:
            answer = http.post(f"{gateway}/codec/login-codes", headers={"Authorization": f"Bearer {token}"})
    except httpx.TransportError as error:
        raise Unavailable(
            "UiUnavailable",
            f"The gateway of the Temporal Web UI at {gateway} does not answer ({type(error).__name__}).",
            hint="Locally: `cleanroom up` starts it, `cleanroom ps` shows it.",
            party="operator",
        ) from None
    if answer.status_code == 401:
        raise Refused(
            "CodecUnauthenticated", f"The gateway at {gateway} does not know this profile's codec token.", hint="Ask its operator for one."
        )
    try:
        issued = answer.json() if answer.status_code == 200 else {}
        code, lifetime = str(issued["code"]), int(issued["expiresIn"])
    except (ValueError, KeyError, TypeError):
        raise PreconditionFailed(
            "UiIsNoGateway",
            f"What answers at {gateway} gives no login codes ({answer.status_code}); it is not `cleanroom codec-server --ui-upstream`.",
            hint="Set temporal.ui_url in cleanroom.toml to the gateway.",
        ) from None
    fragment = urlencode({"code": code, "next": page.removeprefix(gateway) or "/"})
    return {"url": f"{gateway}/codec/login#{fragment}", "expires_in": lifetime}


def _has_desktop() -> bool:
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    command_line(app)
