"""Reads the job from the pod's measured environment."""

from __future__ import annotations

import os

from cleanroom.errors import PreconditionFailed
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig


def job_from_environment() -> JobConfig:
    """Return the job in this pod's measured environment.

    Raises:
        PreconditionFailed: ``JobConfigMissing``.
        InvalidInput: ``JobConfigInvalid``.
    """
    value = os.environ.get(JOB_CONFIG_VARIABLE)
    if not value:
        raise PreconditionFailed("JobConfigMissing", f"{JOB_CONFIG_VARIABLE} is not set. This program runs only in the pods of a run.")
    return JobConfig.decode(value)
