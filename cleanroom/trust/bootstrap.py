"""The bootstrap file: where an attested worker finds governance. Its digest stands in the worker's measured command line."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput, NotFound, Refused
from cleanroom.identifiers import canonical_json
from cleanroom.models import FrozenModel
from cleanroom.settings import Settings
from cleanroom.transport import pem_file

MAX_BOOTSTRAP = 256 * 1024
"""Bytes of a bootstrap file. Of a longer one, the digest never matches."""
ROOT_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "SSLKEYLOGFILE")
"""Variables with which an operator could replace TLS roots, or read TLS keys."""


class Bootstrap(FrozenModel):
    """Where governance is, which contract the worker serves, and whether the contract's trust document may be for development."""

    schema_version: Literal[1] = 1
    contract_id: str = Field(min_length=1, max_length=128)
    governance_url: str
    """URL of the CCF application."""
    governance_roots: str
    """PEM: the CCF network's service certificates, which are the TLS roots for ``governance_url``."""
    development: bool = False
    """Whether a trust document that names development roots is accepted."""

    @field_validator("governance_url")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("not an https URL without user information, query and fragment")
        return value

    @field_validator("governance_roots")
    @classmethod
    def _certificates(cls, value: str) -> str:
        if "-----BEGIN CERTIFICATE-----" not in value:
            raise ValueError("contains no PEM certificate")
        return value

    def to_data(self) -> bytes:
        """Return the content of the file: canonical JSON."""
        return canonical_json(self.model_dump())

    def digest(self) -> str:
        """Return the command-line argument that admits :meth:`to_data`."""
        return bootstrap_digest(self.to_data())


def bootstrap_digest(content: bytes) -> str:
    """Return ``sha256:`` and the SHA-256 of a bootstrap file's content, in hex."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_bootstrap(content: bytes, *, source: str) -> Bootstrap:
    """Parse a bootstrap file.

    Raises:
        InvalidInput: ``BootstrapInvalid``.
    """
    try:
        return Bootstrap.model_validate(json.loads(content))
    except (ValueError, RecursionError) as error:
        cause = describe_validation(error) if isinstance(error, ValidationError) else str(error)
        raise InvalidInput("BootstrapInvalid", f"bootstrap file {source}: {cause}.", party="operator") from error


def read_bootstrap(path: Path, digest: str) -> Bootstrap:
    """Read the bootstrap file if it is the one that the measured command line names.

    Args:
        path: The file. Its place is the operator's choice.
        digest: ``sha256:`` and 64 hex digits, from the command line.

    Raises:
        Refused: ``BootstrapMismatch`` for another file.
        NotFound: ``FileNotFound``.
        InvalidInput: ``BootstrapDigestInvalid``, ``BootstrapInvalid``.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise InvalidInput("BootstrapDigestInvalid", f"--bootstrap-digest: {digest[:100]!r} is not sha256: and 64 hex digits.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BOOTSTRAP)
    except OSError as error:
        raise NotFound("FileNotFound", f"bootstrap file {path} cannot be read.", cause=error.strerror) from error
    found = bootstrap_digest(content)
    if not hmac.compare_digest(found, digest):
        raise Refused(
            "BootstrapMismatch",
            f"bootstrap file {path}: its digest is {found}, and the measured command line names {digest}.",
            hint="Restore the file that the container policy was generated for, or deploy a new policy, which the members must accept.",
            party="operator",
        )
    return parse_bootstrap(content, source=str(path))


def attested_settings(settings: Settings, bootstrap: Bootstrap) -> Settings:
    """Return the settings of an attested worker: what reaches governance comes from ``bootstrap``, whatever the settings say.

    Raises:
        Refused: ``AttestationUrlNotLocal`` for a sidecar that is not in this guest.
    """
    if urlsplit(settings.attestation.url).hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Refused(
            "AttestationUrlNotLocal",
            f"settings: attestation.url {settings.attestation.url!r} is not in this guest.",
            hint="Use the sidecar at http://localhost:8284.",
            party="operator",
        )
    governance = settings.governance.model_copy(
        update={
            "url": bootstrap.governance_url,
            "mode": "app",
            "service_cert_file": pem_file(bootstrap.governance_roots),
            "ccf_endpoint": None,
        }
    )
    return settings.model_copy(update={"collaboration": bootstrap.contract_id, "governance": governance})


def drop_root_variables() -> tuple[str, ...]:
    """Remove the variables that replace TLS roots from this process's environment; return the names of those that were set.

    An attested worker takes TLS roots from its measured image, its bootstrap file and the trust document only.
    """
    return tuple(name for name in ROOT_VARIABLES if os.environ.pop(name, None) is not None)
