"""Connects to Temporal. :mod:`temporalio.envconfig` alone decides where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from temporalio.client import Client, Interceptor
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import GrpcCompression

from cleanroom import tracing
from cleanroom.errors import InvalidInput, Unavailable
from cleanroom.redaction import redact
from cleanroom.settings import TemporalSettings
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.failures import SERVER
from cleanroom.temporal.keyring import Keyring


async def connect(
    settings: TemporalSettings,
    *,
    interceptors: Sequence[Interceptor] = (),
    identity: str | None = None,
    accept_unbound: bool = False,
    scope: Literal["workflow", "schedule"] = "workflow",
    lazy: bool = False,
    runtime: Runtime | None = None,
) -> Client:
    """Create a client.

    With a keyring, gRPC compression is off: ciphertext does not compress, and compressing it costs more than a fifth of the throughput.

    Args:
        settings: The file and profile with address, namespace and credentials, and the keyring file. ``TEMPORAL_ADDRESS``,
            ``TEMPORAL_NAMESPACE``, ``TEMPORAL_API_KEY`` and ``TEMPORAL_TLS_*`` override the file, as in every Temporal tool.
        interceptors: Client interceptors. Those that are worker interceptors too apply to workers of this client.
        identity: Shown in event histories. Use the trust boundary's name.
        accept_unbound: See :class:`~cleanroom.temporal.codec.PayloadCodec`.
        scope: ``schedule`` for a client that creates schedules.
        lazy: Connect at first use.
        runtime: The SDK's runtime, which has the metrics; by default the one of the process.

    Raises:
        InvalidInput: ``TemporalProfileInvalid``.
        Unavailable: ``TemporalUnavailable``.
        NotFound, Refused, InvalidInput: From the keyring file, see :meth:`Keyring.load`.
    """
    keyring = Keyring.load(settings.keyring_file) if settings.keyring_file else None
    try:
        config = ClientConfig.load_client_connect_config(
            profile=settings.profile, config_file=str(settings.config_file) if settings.config_file else None
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidInput(
            "TemporalProfileInvalid",
            f"The Temporal profile {settings.profile or 'default'!r} in {settings.config_file or 'the default file'} cannot be used.",
            cause=redact(str(error)),
            hint="Check temporal.profile and temporal.config_file.",
        ) from None
    SERVER.set(config.setdefault("target_host", "localhost:7233"))
    try:
        return await Client.connect(
            **config,
            data_converter=data_converter(keyring, accept_unbound=accept_unbound, scope=scope),
            interceptors=[*_trace_interceptors(), *interceptors],
            grpc_compression=GrpcCompression.NONE if keyring else GrpcCompression.GZIP,
            lazy=lazy,
            runtime=runtime,
            identity=identity,
        )
    except RuntimeError as error:
        raise Unavailable(
            "TemporalUnavailable",
            f"Temporal at {config['target_host']} cannot be reached.",
            cause=redact(str(error)),
            hint="Start the server (on one machine: `cleanroom up`), or set another address in the Temporal profile or TEMPORAL_ADDRESS.",
            party="operator",
        ) from None


def _trace_interceptors() -> list[Interceptor]:
    """Return the interceptors of a process that traces. Without tracing, OpenTelemetry is not imported."""
    if not tracing.active():
        return []
    from cleanroom.temporal.trace_interceptors import trace_interceptors

    return trace_interceptors()
