"""Says in which Temporal namespace a run begins."""

from __future__ import annotations

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Unavailable
from cleanroom.temporal.run_states import namespace_id

_DENIED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED)


class RunOrigin:
    """Returns the ID of the namespace of the current activity, which a worker asks for once.

    The pin of a run names it, so that a cleanup in another namespace leaves the run alone. A worker that may not describe its
    namespace gives an unknown origin: its runs are left alone until their requests have expired.
    """

    def __init__(self) -> None:
        self._id: str | None = None

    async def __call__(self) -> str:
        """Return the ID, or the empty string.

        Raises:
            Unavailable: ``TemporalUnavailable``.
        """
        if self._id is None:
            try:
                self._id = await namespace_id(activity.client())
            except Unavailable as error:
                cause = error.__cause__
                if not isinstance(cause, RPCError) or cause.status not in _DENIED:
                    raise
                activity.logger.warning("the pin of a run names no namespace: %s", error.cause)
                self._id = ""
        return self._id
