"""What the payload needs of the pod that it runs in. The real one is :class:`sparkapp.identity.AttestedPod`."""

from __future__ import annotations

from typing import Any, Protocol

from cleanroom.clients.objects import ObjectStore
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset


class Pod(Protocol):
    """Identity, secrets and stores of this process. Pickled into Spark tasks, so it holds no secret itself: each process of each pod
    gets its own, by its own attestation."""

    def job(self) -> JobConfig:
        """The job that this pod is measured for."""
        ...

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        """A secret of this run; ``fresh`` asks governance again although this process has it."""
        ...

    def store(self, dataset: JobDataset) -> ObjectStore:
        """The place of a dataset's objects."""
        ...

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        """Write an audit event and return when the ledger has committed it."""
        ...
