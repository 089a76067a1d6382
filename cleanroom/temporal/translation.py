"""Worker interceptor: errors of activities become Temporal failures, by the one translator (:mod:`cleanroom.temporal.failures`).

A module of its own because the command line translates too, and has no use for the SDK's workers.
"""

from __future__ import annotations

from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from cleanroom.temporal.failures import UNEXPECTED, translated


class ErrorTranslation(Interceptor):
    """Every activity's error becomes an :class:`ApplicationError`, by :func:`~cleanroom.temporal.failures.translated`."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Translate(next)


class _Translate(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await self.next.execute_activity(input)
        except Exception as error:
            failure = translated(error, attempt=activity.info().attempt)
            if failure is error:
                raise
            if failure.type == UNEXPECTED:
                # The traceback's frames, not the exception's text, which may quote a secret.
                activity.logger.error(failure.message, exc_info=(type(failure), failure, error.__traceback__))
            raise failure.with_traceback(error.__traceback__) from None
