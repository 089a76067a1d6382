"""Accepted datasets in :mod:`tests.unit.activities.governance`."""

from __future__ import annotations

from typing import Any

from cleanroom.documents.specs import DatasetSpec
from cleanroom.messages.publish import DescriptorRequest, StoredSecret
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.user_documents import UserDocuments
from tests.unit.activities.governance import COLLABORATION, Caller, Governance


async def publish_datasets(governance: Governance) -> None:
    """Publish ``orders`` of Contosso and the output ``out`` of Litware."""
    await publish_dataset(governance, "orders", "u-contosso", "read")
    await publish_dataset(governance, "out", "u-litware", "write")


async def publish_dataset(governance: Governance, name: str, owner: str, access: str) -> None:
    """Publish one dataset."""
    store = {"kind": "aws-s3", "bucket": "rows", "subdirectory": name, "connectionSecret": "secret:s3"}
    columns = {"region": "string", "total": "long"}
    spec = DatasetSpec.model_validate({"name": name, "format": "csv", "access": access, "schema": columns, "store": store})
    secrets = tuple(StoredSecret(kind=kind, secret_id=f"{owner}-{name}-{kind}") for kind in ("connection", "key"))
    made = generate_descriptor(
        DescriptorRequest(
            collaboration=COLLABORATION, owner_id=owner, spec=spec, store_url="https://s3.us-east-1.amazonaws.com", region="us-east-1",
            secrets=secrets,
        )
    )  # fmt: skip
    client: Any = Caller(governance, owner)
    await UserDocuments(client, COLLABORATION).publish_own(name, made.data, made.labels, owner)
