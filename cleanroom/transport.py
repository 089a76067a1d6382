"""TLS contexts and HTTP clients: every client that this project writes itself is created here.

One rule applies to all of them: environment variables do not change where traffic goes. httpx and ``urllib.request`` read
``HTTPS_PROXY``, ``ALL_PROXY`` and ``~/.netrc`` by default, so a variable in a worker's environment could redirect attestation evidence,
governance calls or bearer tokens. Clients that are created here ignore them, and they do not follow redirects.

The SDKs of Azure, AWS and Kubernetes make their own clients and keep their vendors' documented proxy handling, because access to a
public cloud often requires a proxy. A released key is encrypted for the guest that requested it (docs/facts/key-release.md), and
datasets are encrypted before they reach a store, so such a proxy sees neither.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import re
import ssl
import tempfile
import time
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import httpx
    import jwt

Timeout: TypeAlias = "float | tuple[float, float, float, float] | httpx.Timeout"
"""Seconds for every phase, or for (connect, read, write, wait for a pooled connection) each."""

# httpx and PyJWT are imported inside the functions: together they cost a process about 100 ms at start, and many processes (the
# command line, the pods of a run) import modules that only sometimes create a client.


def ssl_context(ca_file: Path | None = None, *, client_cert: tuple[Path, Path] | None = None, system_roots: bool = False) -> ssl.SSLContext:
    """Return a client's TLS context, which verifies certificates and host names. With the operating system's roots alone it is shared.

    Args:
        ca_file: PEM roots to trust. Without it, the operating system's.
        client_cert: (certificate, key) PEM files for mutual TLS.
        system_roots: Trust the operating system's roots in addition to ``ca_file``.

    Raises:
        OSError: A file cannot be read, or is not PEM (``ssl.SSLError``).
    """
    if ca_file is None and client_cert is None:
        return _system_context()
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    if ca_file is not None and system_roots:
        context.load_default_certs()
    if client_cert is not None:
        context.load_cert_chain(*map(str, client_cert))
    return context


@cache
def _system_context() -> ssl.SSLContext:
    # Reading the operating system's roots takes 20 ms.
    return ssl.create_default_context()


@cache
def pem_file(pem: str) -> Path:
    """Write certificates to a private file, for libraries that only read files.

    The same text returns the same file. The process removes it when it exits.
    """
    handle, name = tempfile.mkstemp(prefix="cleanroom-roots-", suffix=".pem")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(pem)
    atexit.register(_remove, Path(name), os.getpid())
    return Path(name)


def _remove(file: Path, owner: int) -> None:
    if os.getpid() == owner:  # A forked child inherits the registration, and its parent still reads the file.
        file.unlink(missing_ok=True)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds of a header ``Retry-After``, which is a number or a date (RFC 9110, section 10.2.3), or ``None``."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def http_client(tls: ssl.SSLContext | None = None, *, timeout: Timeout, **options: Any) -> httpx.Client:
    """Create a blocking HTTP client.

    Args:
        tls: From :func:`ssl_context`; by default one with the operating system's roots.
        timeout: See :data:`Timeout`.
        options: ``base_url``, ``headers`` and ``limits`` of ``httpx.Client``.
    """
    import httpx

    return httpx.Client(verify=tls or ssl_context(), timeout=timeout, trust_env=False, follow_redirects=False, **options)


def async_http_client(tls: ssl.SSLContext | None = None, *, timeout: Timeout, **options: Any) -> httpx.AsyncClient:
    """Create an ``asyncio`` HTTP client; the arguments are those of :func:`http_client`."""
    import httpx

    return httpx.AsyncClient(verify=tls or ssl_context(), timeout=timeout, trust_env=False, follow_redirects=False, **options)


def jwks_client(uri: str, ca_file: Path | None = None, **options: Any) -> jwt.PyJWKClient:
    """Create a client that fetches and caches a token issuer's signing keys (RFC 7517).

    Args:
        uri: The issuer's ``jwks_uri``.
        ca_file: PEM roots to trust. Without it, the operating system's.
        options: ``lifespan``, ``cache_keys`` and ``timeout`` of ``jwt.PyJWKClient``.
    """
    import httpx
    import jwt

    class DirectJwksClient(jwt.PyJWKClient):
        """PyJWT's client with this module's HTTP client: its own uses ``urllib.request``, which follows proxy variables."""

        def fetch_data(self) -> Any:
            try:
                with http_client(self.ssl_context, timeout=self.timeout) as http:
                    keys = http.get(self.uri).raise_for_status().json()
            except (httpx.HTTPError, ValueError) as error:
                raise jwt.PyJWKClientConnectionError(f"cannot fetch {self.uri}: {error}") from error
            if not isinstance(keys, dict):
                raise jwt.PyJWKClientError(f"{self.uri} did not return a JSON object")
            if self.jwk_set_cache is not None:
                self.jwk_set_cache.put(keys)
            # PyJWT measures the pause between two fetches for an unknown key ID from here.
            self._last_successful_fetch = time.monotonic()
            return keys

    return DirectJwksClient(uri, ssl_context=ssl_context(ca_file), **options)
