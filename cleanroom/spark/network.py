"""How a run's driver and executors authenticate each other.

They use Spark's own protocol with a secret that only attested pods of this run can read. Spark reads the secret
from a file. The other properties stand here, the same for the custom resource, the driver's session and an
executor's command line. See docs/decisions/007 and https://spark.apache.org/docs/latest/security.html.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType

from cleanroom.secret import Secret

NETWORK_CONF: Mapping[str, str] = MappingProxyType(
    {
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        # Version 2 derives session keys from the whole handshake, and GCM authenticates every frame. Spark's defaults do neither.
        "spark.network.crypto.authEngineVersion": "2",
        "spark.network.crypto.cipher": "AES/GCM/NoPadding",
        # Otherwise a man in the middle could request SASL, which authenticates and then sends plain text.
        "spark.network.crypto.saslFallback": "false",
    }
)
SECRET_FILE = "spark.authenticate.secret.file"  # noqa: S105 - the name of a setting
"""Property for both roles. ``spark.authenticate.secret.executor.file`` is not enough: in Spark 4.3, the component
that opens an executor's first connection to its driver reads only this property."""

NETWORK_SECRET = re.compile(rb"[A-Za-z0-9_-]{22,}")
"""Format of a network secret: at least 128 random bits in base64url. A pod accepts no other text."""


def new_network_secret() -> Secret:
    """Return a new random network secret."""
    return Secret(secrets.token_urlsafe(32).encode())
