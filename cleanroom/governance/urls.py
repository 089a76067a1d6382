"""URLs of governance: path segments, queries, and which addresses need encryption."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from cleanroom.errors import InvalidInput
from cleanroom.transport import is_loopback


def segment(name: str, value: str) -> str:
    """Percent-encode an ID as one path segment.

    Raises:
        InvalidInput: ``InvalidIdentifier`` if the ID is empty, or if URL handling would change it.
    """
    try:
        encoded = quote(value, safe="")
    except UnicodeEncodeError:
        encoded = ""
    if encoded in ("", ".", ".."):
        raise InvalidInput("InvalidIdentifier", f"{name} {value!r} cannot be part of a URL.", hint="Use letters, digits, '.', '_' and '-'.")
    return encoded


def query_string(parameters: Mapping[str, str | int | None]) -> str:
    """Build ``?a=b&...`` without the parameters that are ``None``.

    The service decodes the whole query before it splits it (docs/facts/governance-service.md#requests-and-errors).

    Raises:
        InvalidInput: ``InvalidQueryValue`` if a value contains ``&``, ``=`` or ``+``, which the service would misread.
    """
    parts = []
    for name, value in parameters.items():
        if value is None:
            continue
        text = str(value)
        if re.search(r"[&=+]", text):
            raise InvalidInput(
                "InvalidQueryValue",
                f"{name} {text!r} has '&', '=' or '+', which the governance service would misread.",
                hint="Use a value without them.",
            )
        parts.append(f"{name}={quote(text, safe=':/,~@')}")
    return "?" + "&".join(parts) if parts else ""


def application_url(base_url: str) -> str:
    """Return a CCF node's URL without the application prefix ``/app``, which some tools append."""
    return base_url.rstrip("/").removesuffix("/app")


def require_encrypted(base_url: str) -> None:
    """Refuse plain HTTP to another machine: everyone on the way could read bearer tokens and secrets, and change answers."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        return  # The first request reports it.
    if url.scheme == "http" and not is_loopback(url.host):
        raise InvalidInput(
            "GovernanceUrlInsecure",
            f"governance: {url.scheme}://{url.host} is another machine, and the connection is not encrypted. No token was sent.",
            hint="Use an https URL, or a cgs-client on a loopback address.",
        )
