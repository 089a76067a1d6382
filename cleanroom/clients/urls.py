"""Storage URLs that documents may name: an allow-list of hosts, so that a dataset document cannot point the clean room elsewhere.

A document's author chooses the URL, the clean room connects to it with credentials: server-side request forgery, token theft and reading
the wrong place are one slip away (spec/users-and-threats.md, section 3). So: https only; hosts of the named service only, or hosts that
the operator declared (emulators, private S3); no user info, port, query or fragment; no IP literal; no path tricks. Redirects are never
followed by our clients. :func:`refuse_private_addresses` adds a check of what the name resolves to; what keeps a later change of the DNS
answer harmless is TLS, because the certificate must name the host that was allowed.
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
"""Kinds of services that documents name by URL: two storages, the vault that holds a key, the authority that attests."""

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
"""``(host, port) -> addresses``."""


@dataclass(frozen=True)
class StorageUrl:
    """A storage URL that passed: ``url`` is normalised (lower-case host, no trailing slash), ``path`` its segments."""

    kind: StorageKind
    url: str
    host: str
    port: int
    path: tuple[str, ...]
    declared: bool


def check_storage_url(url: str, kind: StorageKind, *, declared: Collection[str] = (), field: str = "url") -> StorageUrl:
    """The URL of a storage service, checked against the hosts of its kind.

    Args:
        declared: Hosts (``host`` or ``host:port``) that the operator's settings declare as storage (``Settings.storage_hosts``).
        field: Name of the field in error messages.

    Raises:
        Refused: ``StorageUrlNotHttps``, ``StorageUrlUserInfo``, ``StorageUrlIpLiteral``, ``StorageHostNotAllowed``, ``StorageUrlPort``.
        InvalidInput: ``StorageUrlMalformed`` for anything else that is no plain URL of a service (query, fragment, ``..``).
    """
    if not url or len(url) > 2048 or not url.isascii() or re.search(r"[\s\\\x00-\x20\x7f]", url):
        raise _malformed(field, url, "it must be plain ASCII without spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _malformed(field, url, str(error)) from error
    if parts.scheme != "https":
        raise Refused("StorageUrlNotHttps", f"{field}: {url!r} is not an https URL.", hint="Storage is reached over TLS only.")
    if "@" in parts.netloc:
        raise Refused("StorageUrlUserInfo", f"{field}: the URL holds user information.", hint="Credentials never go into a URL.")
    if "?" in url or "#" in url:
        raise _malformed(field, url.partition("?")[0].partition("#")[0], "a query (such as a SAS token) or a fragment is not allowed")
    host = (parts.hostname or "").lower()
    expected_netloc = host if port is None else f"{host}:{port}"
    if f"[{host}]" in parts.netloc.lower():
        expected_netloc = expected_netloc.replace(host, f"[{host}]", 1)
    if not host or parts.netloc.lower() != expected_netloc:
        raise _malformed(field, url, "the host is malformed")
    is_declared = (host if port is None else f"{host}:{port}") in {item.lower() for item in declared} or host in {
        d.lower() for d in declared
    }
    if not is_declared:
        if _is_ip_literal(host):
            raise Refused(
                "StorageUrlIpLiteral",
                f"{field}: {host!r} is an IP address.",
                hint="Name a storage host, or declare this one in storage_hosts.",
            )
        if not _HOSTS[kind].fullmatch(host):
            raise Refused(
                "StorageHostNotAllowed",
                f"{field}: {host!r} is not a {kind} host.",
                hint=f"Expected {_EXPECTED[kind]}; other hosts must be declared in storage_hosts by the operator.",
            )
        if port not in (None, 443):
            raise Refused("StorageUrlPort", f"{field}: port {port} is not allowed.", hint="Storage services listen on 443.")
    elif not (_is_ip_literal(host) or _HOSTNAME.fullmatch(host)):
        raise _malformed(field, url, "the host is malformed")
    segments = parts.path.removesuffix("/").split("/")[1:]
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or ".." in segment:
            raise _malformed(field, url, f"path part {segment!r} is not allowed")
    netloc = expected_netloc if port not in (None, 443) else expected_netloc.removesuffix(":443")
    path = "".join(f"/{segment}" for segment in segments)
    return StorageUrl(kind, f"https://{netloc}{path}", host, port or 443, tuple(segments), is_declared)


def refuse_private_addresses(url: StorageUrl, *, resolve: Resolver | None = None) -> None:
    """Refuse a host that resolves to an address inside some network (private, loopback, link-local, metadata …), unless it is declared.

    Raises:
        Refused: ``StorageAddressNotPublic``.
        Unavailable: ``StorageHostUnresolved``.
    """
    if url.declared:
        return
    try:
        addresses = list((resolve or _resolve)(url.host, url.port))
    except OSError as error:
        raise Unavailable("StorageHostUnresolved", f"{url.host} could not be resolved.", cause=str(error)) from error
    if not addresses:
        raise Unavailable("StorageHostUnresolved", f"{url.host} resolves to nothing.")
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        if not address.is_global or address.is_multicast or (mapped is not None and not mapped.is_global):
            raise Refused(
                "StorageAddressNotPublic",
                f"{url.host} resolves to {text}, which is not a public address.",
                hint="Declare the host in storage_hosts if it is meant to be reached inside this network (a private endpoint).",
            )


def check_region(region: str, *, field: str = "region") -> str:
    """``region`` if it can be part of an AWS host name.

    Raises:
        InvalidInput: ``InvalidRegion``.
    """
    if not re.fullmatch(_REGION, region):
        raise InvalidInput("InvalidRegion", f"{field}: {region!r} is not an AWS region.", hint="For example eu-west-1.")
    return region


def _is_ip_literal(host: str) -> bool:
    """Whether a resolver would read the host as an address: dotted, short, decimal, octal, hexadecimal, IPv6."""
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
    return InvalidInput("StorageUrlMalformed", f"{field}: {url!r} is not a storage URL: {why}.")
