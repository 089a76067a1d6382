"""A pod whose secrets, stores and ledger are folders, for tests of the payload without servers."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom.clients.objects import ObjectStore
from cleanroom.errors import NotFound, Unavailable
from cleanroom.secret import Secret
from cleanroom.spark.consent_receipt import RECEIPT_SECONDS
from cleanroom.spark.job import JobConfig, JobDataset
from tests.folder_store import FolderStore

SOON = "@soon"
"""Stands for the time at which a consent receipt expires that the clean room has just renewed."""
THIS_JOB = "@job"
"""Stands for the digest of the pod's job."""


@dataclass(frozen=True)
class FolderPod:
    """Uses ``secrets/<id>``, ``stores/<dataset>/...`` and ``events.jsonl`` below ``root``.

    It contains only paths, so Spark can pickle it for its workers. Events named in the file ``ledger-is-away`` fail.
    """

    root: Path
    config: str

    def job(self) -> JobConfig:
        return JobConfig.decode(self.config)

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        path = self.root / "secrets" / secret_id
        # Each fresh read returns the next line of <id>.next, so that a test can change consent during a run.
        if fresh and (queue := path.with_suffix(".next")).exists():
            lines = queue.read_text().splitlines()
            queue.write_text("\n".join(lines[1:] or lines))
            return self._renewed(lines[0].encode())
        if not path.exists():
            raise NotFound("SecretNotFound", f"secret {secret_id!r} does not exist.")
        return self._renewed(path.read_bytes())

    def store(self, dataset: JobDataset) -> ObjectStore:
        return FolderStore(self.root / "stores" / dataset.name)

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        if (self.root / "ledger-is-away").exists() and event["name"] in (self.root / "ledger-is-away").read_text().split():
            raise Unavailable("GovernanceUnavailable", "no answer")
        with (self.root / "events.jsonl").open("a") as file:
            file.write(json.dumps({"id": event_id, "event": event}) + "\n")

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        path = self.root / "events.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(row["id"], row["event"]) for row in rows]

    def _renewed(self, value: bytes) -> Secret:
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=RECEIPT_SECONDS)
        return Secret(value.replace(SOON.encode(), soon.isoformat().encode()).replace(THIS_JOB.encode(), self.job().digest().encode()))
