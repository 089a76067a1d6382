"""Finds workflows and login links for the Temporal Web UI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.identifiers import dataset_workflow_id, prepare_workflow_id, query_workflow_id, run_workflow_id
from cleanroom.secret import read_secret_file
from cleanroom.settings import Settings
from cleanroom.transport import http_client, ssl_context
from cleanroom.webui.gateway import is_loopback
from starters.operations.session import Session


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
