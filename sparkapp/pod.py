"""The interface between the payload and its pod. :class:`sparkapp.identity.AttestedPod` implements it."""

from __future__ import annotations

from typing import Any, Protocol

from cleanroom.clients.objects import ObjectStore
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset


class Pod(Protocol):
    """Identity, secrets and stores of this process.

    It is pickled into Spark tasks, so it must not contain a secret. Each process of each pod reads its secrets by
    its own attestation.
    """

    def job(self) -> JobConfig:
        """Return the job in the pod's measured environment."""
        ...

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        """Return a secret of this run. ``fresh`` reads it from governance again instead of from the process's cache."""
        ...

    def store(self, dataset: JobDataset) -> ObjectStore:
        """Return the store with a dataset's objects."""
        ...

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        """Write an audit event; return after the ledger has committed it."""
        ...
