"""Posts notifications to a webhook of the profile, such as the incoming webhook of a chat or a mail gateway.

The URL is a secret, because such URLs usually contain a token. It is in no error and no log. The answer of the server is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cleanroom.errors import Refused, Unavailable
from cleanroom.secret import Secret, read_secret_file
from cleanroom.transport import async_http_client, is_loopback, ssl_context
from cleanroom.upstream import from_status

SECONDS = 10.0
"""Timeout of each phase of a request."""


def read_webhook_url(file: Path) -> Secret:
    """Read the URL of a webhook from a file of mode 0600.

    Raises:
        Refused: ``WebhookUrlRefused`` unless it is HTTPS, or plain HTTP to this machine; ``SecretFileTooOpen``.
        NotFound: ``SecretFileNotFound``.
    """
    text = read_secret_file(file, what="webhook URL").reveal().decode("utf-8", "replace").strip()
    try:
        parts = urlsplit(text)
        accepted = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        accepted = accepted and bool(parts.hostname)
    except ValueError:
        accepted = False
    if not accepted:
        raise Refused("WebhookUrlRefused", f"webhook: the URL in {file} is not an https:// URL.", hint="Write one line: the URL.")
    return Secret(text.encode())


async def post(url: Secret, body: Mapping[str, Any], *, id: str, ca_file: Path | None = None) -> None:
    """Post ``body`` as JSON.

    Args:
        url: From :func:`read_webhook_url`.
        body: The notification.
        id: Identifies the notification. It is sent as ``webhook-id`` (https://www.standardwebhooks.com) and ``Idempotency-Key``, and
            retries have the same one.
        ca_file: PEM roots to trust in addition to the operating system's.

    Raises:
        Unavailable: ``WebhookUnreachable``; ``WebhookFailed`` for a status that may be temporary.
        CleanRoomError: ``WebhookFailed`` of another category for any other status, which includes redirects.
    """
    import httpx

    headers = {"webhook-id": id, "Idempotency-Key": id}
    try:
        async with (
            async_http_client(ssl_context(ca_file, system_roots=True), timeout=SECONDS) as http,
            http.stream("POST", url.reveal().decode(), json=body, headers=headers) as answer,
        ):
            status, retry_after = answer.status_code, answer.headers.get("retry-after")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # The text of these errors can contain the URL.
        raise Unavailable("WebhookUnreachable", f"webhook: the request failed ({type(error).__name__}).") from None
    if not 200 <= status < 300:
        raise from_status(status, "WebhookFailed", f"webhook: the server answered {status}.", retry_after=retry_after)
