"""Tombstones: random texts that overwrite a run's secrets in governance, and that no reader accepts as a secret.

Governance cannot delete a secret. A constant in its place would be a secret that everybody knows, for example as the network
secret of a closed run.
"""

from __future__ import annotations

import secrets

from cleanroom.errors import Refused
from cleanroom.secret import Secret

_MARK = "tombstone:"
_EARLIER = b"revoked"
"""What earlier versions wrote."""


def new_tombstone() -> Secret:
    """Return a new random tombstone. Its colon is in no base64 text and at no place of a JSON object's start."""
    return Secret((_MARK + secrets.token_urlsafe(32)).encode())


def is_tombstone(value: Secret) -> bool:
    """Return whether ``value`` overwrote a secret."""
    content = value.reveal()
    return content.startswith(_MARK.encode()) or content == _EARLIER


def require_secret(value: Secret, secret_id: str) -> Secret:
    """Return ``value``.

    Raises:
        Refused: ``SecretRevoked`` when it is a tombstone.
    """
    if is_tombstone(value):
        raise Refused(
            "SecretRevoked", f"secret {secret_id!r} was overwritten: its run has ended or lost its consent.", hint="Start another run."
        )
    return value
