"""Certificate files for connections to governance."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from cleanroom.errors import InvalidInput
from cleanroom.transport import ssl_context


def read_certificate(file: Path) -> bytes:
    """Read a certificate file.

    Raises:
        InvalidInput: ``GovernanceCertificateFileInvalid`` if the file cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise _certificate_file([file], error) from error


def _certificate_file(files: Sequence[Path], error: OSError) -> InvalidInput:
    names = ", ".join(map(str, files))
    message = f"A certificate file of the governance service cannot be read or is not PEM: {names}."
    return InvalidInput("GovernanceCertificateFileInvalid", message, cause=str(error), hint="Check the governance settings of the profile.")


def tls_context(ca_file: Path | None, client_cert: tuple[Path, Path] | None) -> ssl.SSLContext:
    """Return the context of :func:`cleanroom.transport.ssl_context`.

    Raises:
        InvalidInput: ``GovernanceCertificateFileInvalid`` if a file cannot be read, or is not PEM.
    """
    try:
        return ssl_context(ca_file, client_cert=client_cert)
    except OSError as error:  # includes ssl.SSLError
        raise _certificate_file([file for file in (ca_file, *(client_cert or ())) if file is not None], error) from error
