"""The worker interceptor that turns errors of activities into Temporal failures (:mod:`cleanroom.temporal.failures`).

It is a separate module because the command line translates errors too, but does not import the SDK's workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from cleanroom.temporal.failures import UNEXPECTED, translated
from cleanroom.temporal.metrics import ACTIVITY_FAILURES, bounded
from cleanroom.tracing import note_code


class ErrorTranslation(Interceptor):
    """Translates every activity's error with :func:`~cleanroom.temporal.failures.translated`.

    Args:
        names: Names of collaborators by user ID. The Web UI shows the errors as they are, and people know names.
    """

    def __init__(self, names: Mapping[str, str] = MappingProxyType({})) -> None:
        self._names = names

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the activity; called by the SDK."""
        return _Translate(next, self._names)


class _Translate(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, names: Mapping[str, str]) -> None:
        super().__init__(next)
        self._names = names

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await self.next.execute_activity(input)
        except Exception as error:
            failure = translated(error, attempt=activity.info().attempt, names=self._names)
            count_failure(failure)
            if failure is error:
                raise
            if failure.type == UNEXPECTED:
                # Log the frames of the traceback, but not the exception's text, which may quote a secret.
                activity.logger.error(failure.message, exc_info=(type(failure), failure, error.__traceback__))
            raise failure.with_traceback(error.__traceback__) from None


def count_failure(failure: Any) -> None:
    """Count a failed attempt by its code. A condition that does not hold yet is no failure."""
    if isinstance(failure, ApplicationError):
        note_code(bounded("code", failure.type or UNEXPECTED))
    if isinstance(failure, ApplicationError) and failure.category is not ApplicationErrorCategory.BENIGN:
        ACTIVITY_FAILURES.add(activity.metric_meter(), code=bounded("code", failure.type or UNEXPECTED))
