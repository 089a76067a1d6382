"""How a run's driver and executors know each other: Spark's own protocol, under a secret that attested pods of this run alone can read.

docs/decisions/007. Spark takes the secret from a file; what is set here is the rest, the same in the custom resource, in the driver's
session and on an executor's command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NETWORK_CONF: Mapping[str, str] = MappingProxyType(
    {
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        # Session keys from the whole handshake, and frames that cannot be changed on the way; Spark's defaults are older than both.
        "spark.network.crypto.authEngineVersion": "2",
        "spark.network.crypto.cipher": "AES/GCM/NoPadding",
        # Else whoever is in between could ask for the old protocol, which authenticates and then sends plain text.
        "spark.network.crypto.saslFallback": "false",
    }
)
SECRET_FILE = "spark.authenticate.secret.file"  # noqa: S105 - the name of a setting
"""For both roles, each with a file of its own. ``….executor.file`` is not enough: an executor's first question to its driver is asked by a
part of Spark 4.3 that reads this setting alone."""
