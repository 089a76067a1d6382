"""A dataset in a folder, and the pod that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key, seal_bytes
from cleanroom.datasets.upload import upload_dataset
from cleanroom.documents.dataset import DatasetSchema, FieldType, SchemaField
from cleanroom.identifiers import object_context
from cleanroom.spark.job import JobConfig, JobDataset, JobGovernance, JobParameters, JobSegment, S3Access
from sparkapp.listing import list_objects
from sparkapp.views import read_table
from tests.folder_pod import FolderPod
from tests.folder_store import FolderStore

DIGEST = "ab" * 32
TYPES: dict[str, FieldType] = {"id": "long", "text": "string", "hidden": "string"}


class DatasetWorld:
    """One dataset in a folder with its key. Keyword arguments replace members of the :class:`JobDataset`."""

    def __init__(self, root: Path, **dataset: object) -> None:
        self.root = root
        self.key = generate_dataset_key()
        (root / "secrets").mkdir(parents=True)
        (root / "secrets" / "cleanroom_key").write_bytes(encode_dataset_key(self.key).reveal())
        values: dict[str, object] = {
            "name": "things",
            "view_name": "things",
            "owner_id": "u-1",
            "document_version": "1.1",
            "document_digest": DIGEST,
            "format": "csv",
            "schema_fields": TYPES,
            "allowed_fields": ("id", "text"),
            "access": S3Access(region="eu-west-1", bucket="b", connection_secret_id="x"),
            "key_secret_id": "cleanroom_key",
        }
        self.dataset = JobDataset.model_validate({**values, **dataset})
        self.store = FolderStore(root / "stores" / "things")

    def pod(self, sql: str = "SELECT id, text FROM things") -> FolderPod:
        job = JobConfig(
            contract_id="c",
            run_id="r-1",
            query_id="q",
            query_version="1.1",
            query_digest=DIGEST,
            segments=(JobSegment(execution_sequence=1, sql=sql, source_digest=DIGEST),),
            datasets=(self.dataset,),
            datasink=self.dataset,
            consent_secret_id="cleanroom_consent",
            event_scope="s",
            governance=JobGovernance(url="https://cgs.invalid"),
        )
        return FolderPod(self.root, job.encode())

    def upload(self, folder: Path) -> None:
        upload_dataset(self.store, self.key, collaboration="c", dataset="things", schema=self.schema(), sources=[folder])

    def schema(self) -> DatasetSchema:
        fields = tuple(SchemaField(field_name=name, field_type=kind) for name, kind in self.dataset.schema_fields.items())
        return DatasetSchema(
            format=self.dataset.format,
            fields=fields,
            partitioned_by=self.dataset.partitioned_by,
            csv_header=self.dataset.csv_header,
            csv_dialect=self.dataset.csv_dialect,
        )

    def put_sealed(self, name: str, data: bytes) -> None:
        """Store a sealed object without a manifest, as another tool does."""
        self.store.put(name, seal_bytes(data, self.key, object_context("c", "things", name)))

    def read(self, columns: Sequence[str] = ("id", "text"), parameters: JobParameters = JobParameters()) -> pa.Table:
        pod = self.pod()
        return read_table(pod, list_objects(pod, self.dataset, parameters), columns)


def make_rows(count: int, width: int = 900) -> list[dict[str, object]]:
    return [{"id": number, "text": f"{number}:" + "é" * (number % width), "hidden": "h" * 50} for number in range(count)]
