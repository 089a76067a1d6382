"""Says in which Temporal namespace a run begins."""

from __future__ import annotations

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Unavailable
from cleanroom.temporal.run_states import namespace_id

_DENIED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED)


async def run_origin() -> str:
    """Return the ID of the namespace of the current activity, or the empty string if the worker may not describe its namespace.

    The pin of a run names it, so that a cleanup in another namespace leaves the run alone. Runs of an unknown origin are left alone
    until their requests have expired. The ID is read for each run: a worker outlives its namespace, and connects again when that was
    created again.

    Raises:
        Unavailable: ``TemporalUnavailable``.
    """
    try:
        return await namespace_id(activity.client())
    except Unavailable as error:
        cause = error.__cause__
        if not isinstance(cause, RPCError) or cause.status not in _DENIED:
            raise
        activity.logger.warning("the pin of a run names no namespace: %s", error.cause)
        return ""
