"""Checks the storage URLs that documents contain against an allowlist of hosts.

A document's author chooses the URL, and the clean room connects to it with credentials. An unchecked URL allows server-side request
forgery, token theft and reads from the wrong place. Therefore only https is allowed, with a host of the named service or one that the
operator declared (emulators, private S3), and without user information, port, query, fragment, IP literal or path tricks. The clients
never follow redirects. :func:`refuse_private_addresses` also checks the addresses of the host name. If its DNS record changes later, TLS
protects the connection, because the certificate must match the allowed host.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cleanroom.errors import InvalidInput, Refused, Unavailable

StorageKind = Literal["azure-blob", "s3", "key-vault", "maa"]
"""Services that documents name by URL: two kinds of storage, the vault with a key, and the attestation service."""

_AZURE_SUFFIX = r"core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)"
_REGION = r"[a-z]{2}(-[a-z]+)+-\d"
_HOSTS = {
    "azure-blob": re.compile(
        rf"[a-z0-9]{{3,24}}\.(blob|dfs)\.{_AZURE_SUFFIX}|[a-z0-9]{{3,24}}\.z\d{{1,2}}\.(blob|dfs)\.storage\.azure\.net"
    ),
    "s3": re.compile(
        rf"([a-z0-9][a-z0-9-]{{1,61}}[a-z0-9]\.)?s3(-fips)?(\.dualstack)?\.({_REGION})\.amazonaws\.com(\.cn)?|s3\.amazonaws\.com"
    ),
    "key-vault": re.compile(r"[a-z0-9][a-z0-9-]{1,22}[a-z0-9]\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net)"),
    "maa": re.compile(r"[a-z0-9-]+(\.[a-z0-9]+)?\.attest\.azure\.(net|cn|us)"),
}
_EXPECTED = {
    "azure-blob": "<account>.blob.core.windows.net or <account>.dfs.core.windows.net",
    "s3": "s3.<region>.amazonaws.com",
    "key-vault": "<name>.vault.azure.net or <name>.managedhsm.azure.net",
    "maa": "<name>.<region>.attest.azure.net",
}
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_SEGMENT = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")

Resolver = Callable[[str, int], Iterable[str]]
"""Resolves ``(host, port)`` to addresses."""


@dataclass(frozen=True)
class StorageUrl:
    """A checked URL. ``url`` is normalised (lower-case host, no trailing slash), ``path`` has its segments."""

    kind: StorageKind
    url: str
    host: str
    port: int
    path: tuple[str, ...]
    declared: bool


@dataclass(frozen=True)
class _Parts:
    """A URL that is well-formed, with the host in lower case."""

    host: str
    port: int | None
    netloc: str
    path: str


def check_storage_url(url: str, kind: StorageKind, *, declared: Collection[str] = (), field: str = "url") -> StorageUrl:
    """Check the URL of a service against the hosts of its kind, in three steps: syntax, host, path.

    Args:
        url: The URL.
        kind: The kind of service.
        declared: Additional hosts (``host`` or ``host:port``) from the operator's settings (``Settings.storage_hosts``).
        field: Name of the field in error messages.

    Raises:
        Refused: ``StorageUrlNotHttps``, ``StorageUrlUserInfo``, ``StorageUrlIpLiteral``, ``StorageHostNotAllowed``, ``StorageUrlPort``.
        InvalidInput: ``StorageUrlMalformed`` for anything else that is not a plain URL of a service (query, fragment, ``..``).
    """
    parts = _check_syntax(url, field)
    with_port = parts.host if parts.port is None else f"{parts.host}:{parts.port}"
    is_declared = not {parts.host, with_port}.isdisjoint(item.lower() for item in declared)
    _check_host(parts, kind, is_declared, url, field)
    segments = _check_path(parts, url, field)
    netloc = parts.netloc.removesuffix(":443") if parts.port == 443 else parts.netloc
    path = "".join(f"/{segment}" for segment in segments)
    return StorageUrl(kind, f"https://{netloc}{path}", parts.host, parts.port or 443, segments, is_declared)


def _check_syntax(url: str, field: str) -> _Parts:
    """Require an ``https`` URL of host, optional port and path, written so that every parser reads the same host."""
    if not url or len(url) > 2048 or not url.isascii() or re.search(r"[\s\\\x00-\x20\x7f]", url):
        raise _malformed(field, url, "it must be plain ASCII without spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _malformed(field, url, str(error)) from error
    if parts.scheme != "https":
        raise Refused("StorageUrlNotHttps", f"{field}: {url!r} is not an https URL.", hint="Use https: storage requires TLS.")
    if "@" in parts.netloc:
        raise Refused("StorageUrlUserInfo", f"{field}: the URL contains user information.", hint="Remove the credentials from the URL.")
    if "?" in url or "#" in url:
        raise _malformed(field, url.partition("?")[0].partition("#")[0], "a query (such as a SAS token) or a fragment is not allowed")
    host = (parts.hostname or "").lower()
    bracketed = f"[{host}]" if f"[{host}]" in parts.netloc.lower() else host
    netloc = bracketed if port is None else f"{bracketed}:{port}"
    if not host or parts.netloc.lower() != netloc:
        raise _malformed(field, url, "the host is malformed")
    return _Parts(host, port, netloc, parts.path)


def _check_host(parts: _Parts, kind: StorageKind, declared: bool, url: str, field: str) -> None:
    """Require a host of the service, on its port. A declared host may have any port, and may be an IP address."""
    if declared:
        if not (_is_ip_literal(parts.host) or _HOSTNAME.fullmatch(parts.host)):
            raise _malformed(field, url, "the host is malformed")
        return
    if _is_ip_literal(parts.host):
        raise Refused(
            "StorageUrlIpLiteral",
            f"{field}: {parts.host!r} is an IP address.",
            hint="Use a storage host name, or declare this address in storage_hosts.",
        )
    if not _HOSTS[kind].fullmatch(parts.host):
        raise Refused(
            "StorageHostNotAllowed",
            f"{field}: {parts.host!r} is not a {kind} host.",
            hint=f"Expected {_EXPECTED[kind]}. The operator must declare other hosts in storage_hosts.",
        )
    if parts.port not in (None, 443):
        raise Refused("StorageUrlPort", f"{field}: port {parts.port} is not allowed.", hint="Storage services use port 443.")


def _check_path(parts: _Parts, url: str, field: str) -> tuple[str, ...]:
    """Require a path of plain segments, which no server normalises to another path."""
    segments = tuple(parts.path.removesuffix("/").split("/")[1:])
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or ".." in segment:
            raise _malformed(field, url, f"the path segment {segment!r} is not allowed")
    return segments


def refuse_private_addresses(url: StorageUrl, *, resolve: Resolver | None = None) -> None:
    """Refuse a host that resolves to an address that is not public (private, loopback, link-local, metadata …), unless it is declared.

    Args:
        url: The checked URL.
        resolve: Replaces the system's resolver.

    Raises:
        Refused: ``StorageAddressNotPublic``.
        Unavailable: ``StorageHostUnresolved``.
    """
    if url.declared:
        return
    try:
        addresses = list((resolve or _resolve)(url.host, url.port))
    except OSError as error:
        raise Unavailable(
            "StorageHostUnresolved",
            f"The host name {url.host} cannot be resolved.",
            cause=str(error),
            hint="Check the name and the DNS server.",
        ) from error
    if not addresses:
        raise Unavailable("StorageHostUnresolved", f"The host name {url.host} has no address.", hint="Check the name and the DNS server.")
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        if not address.is_global or address.is_multicast or (mapped is not None and not mapped.is_global):
            raise Refused(
                "StorageAddressNotPublic",
                f"{url.host} resolves to {text}, which is not a public address.",
                hint="If this is a private endpoint, declare the host in storage_hosts.",
            )


def check_region(region: str, *, field: str = "region") -> str:
    """Return ``region`` if it can be part of an AWS host name.

    Raises:
        InvalidInput: ``InvalidRegion``.
    """
    if not re.fullmatch(_REGION, region):
        raise InvalidInput("InvalidRegion", f"{field}: {region!r} is not an AWS region.", hint="For example eu-west-1.")
    return region


def _is_ip_literal(host: str) -> bool:
    """Whether a resolver reads the host as an address: dotted, short, decimal, octal, hexadecimal or IPv6."""
    if ":" in host:
        return True
    try:
        socket.inet_aton(host)
    except OSError:
        return bool(re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?", host))
    return True


def _resolve(host: str, port: int) -> list[str]:
    return sorted({str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})


def _malformed(field: str, url: str, why: str) -> InvalidInput:
    return InvalidInput(
        "StorageUrlMalformed", f"{field}: {url!r} is not a storage URL: {why}.", hint="For example https://<account>.blob.core.windows.net."
    )
