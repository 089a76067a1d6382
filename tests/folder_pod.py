"""A pod whose secrets, stores and ledger are folders: runs the whole payload where no server is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom.clients.objects import ObjectStore
from cleanroom.errors import NotFound, Unavailable
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset
from tests.folder_store import FolderStore


@dataclass(frozen=True)
class FolderPod:
    """``secrets/<id>``, ``stores/<dataset>/…`` and ``events.jsonl`` below ``root``. Holds paths only, so it travels to Spark's workers."""

    root: Path
    config: str

    def job(self) -> JobConfig:
        return JobConfig.decode(self.config)

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        path = self.root / "secrets" / secret_id
        # A file with numbered lines answers one line a time: how a consent that changes under way is played.
        if fresh and (queue := path.with_suffix(".next")).exists():
            lines = queue.read_text().splitlines()
            queue.write_text("\n".join(lines[1:] or lines))
            return Secret(lines[0].encode())
        if not path.exists():
            raise NotFound("SecretNotFound", f"there is no secret {secret_id!r}.")
        return Secret(path.read_bytes())

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
