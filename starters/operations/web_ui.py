"""Finds workflows by name and gets login links for the Temporal Web UI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import dataset_workflow_id, prepare_workflow_id, query_workflow_id, run_workflow_id
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings
from cleanroom.transport import http_client, is_loopback, ssl_context
from starters.operations.session import Session


async def resolve_workflow(session: Session, name: str) -> tuple[str, str | None]:
    """Find a workflow by name.

    Args:
        session: Session of the command.
        name: Workflow ID, or the name of a query, run or dataset. ``<run>/prepare`` is the preparation of a run.

    Returns:
        Workflow ID and Temporal run ID.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    client = await session.temporal()
    collaboration = session.collaboration
    candidates = [name]
    if not name.startswith("cr/"):
        candidates = [workflow_id(collaboration, name) for workflow_id in (query_workflow_id, run_workflow_id, dataset_workflow_id)]
        candidates.append(name)
        if name.endswith("/prepare"):
            candidates.insert(0, prepare_workflow_id(collaboration, name.removesuffix("/prepare")))
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
        f"Collaboration {collaboration!r} has no query, run, dataset or workflow named {name!r}.",
        hint="List the names with `cleanroom query list`, `cleanroom run list` and `cleanroom dataset list`.",
    )


def login_link(settings: Settings, page: str) -> dict[str, Any]:
    """Request a single-use login code from the gateway of the Web UI, with the profile's codec token.

    Args:
        settings: Settings of the profile.
        page: URL of the page that follows the login.

    Returns:
        ``{url, expires_in}``: the login link, and the seconds until it expires.

    Raises:
        PreconditionFailed: ``CodecTokenMissing``, ``UiIsNoGateway``.
        Refused: ``CodecUnauthenticated``.
        Unavailable: ``UiUnavailable``.
        InvalidInput: ``UiUrlInsecure``.
    """
    gateway = settings.temporal.ui_url.rstrip("/")
    parts = urlsplit(gateway)
    # Resolvers of some systems do not know names below localhost, which are loopback (RFC 6761).
    private = parts.scheme == "http" and (parts.hostname or "").endswith(".localhost")
    address = f"http://127.0.0.1:{parts.port or 80}" if private else gateway
    if parts.scheme != "https" and not private and not is_loopback(parts.hostname or ""):
        raise InvalidInput(
            "UiUrlInsecure",
            f"settings: temporal.ui_url {gateway} is not https. The codec token would be sent in plain text.",
            hint="Use an https URL, or a loopback address.",
        )
    if settings.temporal.codec_token_file is None:
        raise PreconditionFailed(
            "CodecTokenMissing",
            f"profile {settings.profile!r} has no codec token, which the gateway of the Web UI requires.",
            hint="Set temporal.codec_token_file in cleanroom.toml.",
        )
    token = read_secret_file(settings.temporal.codec_token_file, what="codec token").reveal_text().strip()
    tls = ssl_context(settings.ca_file, system_roots=True)
    try:
        with http_client(tls, timeout=20) as http:
            headers = {"Authorization": f"Bearer {token}", **({"Host": parts.netloc} if private else {})}
            answer = http.post(f"{address}/codec/login-codes", headers=headers)
    except httpx.TransportError as error:
        raise Unavailable(
            "UiUnavailable",
            f"The gateway of the Temporal Web UI at {gateway} does not respond ({type(error).__name__}).",
            hint="On one machine, `cleanroom up` starts it and `cleanroom ps` shows its state.",
            party="operator",
        ) from None
    if answer.status_code == 401:
        raise Refused(
            "CodecUnauthenticated",
            f"The gateway at {gateway} does not accept this profile's codec token.",
            hint="Ask the gateway's operator for a token.",
        )
    try:
        issued = answer.json() if answer.status_code == 200 else {}
        code, lifetime = str(issued["code"]), int(issued["expiresIn"])
        origin = str(issued.get("origin", gateway))
    except (ValueError, KeyError, TypeError):
        raise PreconditionFailed(
            "UiIsNoGateway",
            f"The server at {gateway} issues no login codes (status {answer.status_code}); it is not a gateway.",
            hint="Set temporal.ui_url in cleanroom.toml to the URL of `cleanroom codec-server --keyring FILE --ui-upstream URL`.",
        ) from None
    fragment = urlencode({"code": code, "next": page.removeprefix(gateway) or "/"})
    # A gateway on this machine has a private host name, which it tells only to holders of a token.
    if (is_loopback(parts.hostname or "") or private) and (urlsplit(origin).hostname or "").endswith(".localhost"):
        gateway = origin
    return {"url": f"{gateway}/codec/login#{fragment}", "expires_in": lifetime}
