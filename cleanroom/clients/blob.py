"""Azure Blob Storage as an :class:`~cleanroom.clients.objects.ObjectStore`, through ``azure-storage-blob``.

The SDK takes most of a second to import, and is imported when a store is created.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azure.core import MatchConditions
from azure.core.credentials import TokenCredential

from cleanroom.clients.azure_credentials import client_options
from cleanroom.clients.azure_faults import azure_errors, unexpected_answer
from cleanroom.clients.objects import (
    BLOCK_BYTES,
    ObjectInfo,
    Progress,
    StoreBase,
    UploadLimits,
    check_range,
    object_changed,
    plain_etag,
    require_key,
    require_length,
    require_list_prefix,
    require_prefix,
)
from cleanroom.clients.uploads import PartedUpload
from cleanroom.clients.urls import StorageUrl, refuse_private_addresses
from cleanroom.errors import Conflict, InvalidInput, NotFound
from cleanroom.secret import Secret

if TYPE_CHECKING:
    from azure.storage.blob import CustomerProvidedEncryptionKey

_LIMITS: Final = UploadLimits(parts=50_000, largest_part=4000 << 20, largest_object=50_000 * (4000 << 20))
"""https://learn.microsoft.com/rest/api/storageservices/put-block-list"""
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


class BlobStore(StoreBase):
    """The blobs of one container below ``prefix``.

    Args:
        account: Checked account URL (:func:`cleanroom.clients.urls.check_storage_url`). For a ``dfs`` host, the ``blob`` host is used.
        container: Name of the container.
        credential: Entra ID credential.
        prefix: Prefix of all keys.
        ca_file: PEM roots for TLS.
        customer_key: 32 bytes with which the service encrypts and which it does not store (customer-provided key, CPK).
    """

    def __init__(
        self,
        account: StorageUrl,
        container: str,
        credential: TokenCredential,
        *,
        prefix: str = "",
        ca_file: Path | None = None,
        customer_key: Secret | None = None,
    ) -> None:
        from azure.storage.blob import BlobServiceClient, ExponentialRetry

        refuse_private_addresses(account)
        self._prefix = require_prefix(prefix)
        self._name = f"{account.url}/{container}"
        url = account.url.replace(".dfs.", ".blob.", 1) if account.host.find(".dfs.") > 0 else account.url
        options = client_options(ca_file) | {"max_single_put_size": BLOCK_BYTES, "max_block_size": BLOCK_BYTES}
        # The SDK's default retry policy waits for most of a minute. Here the workflow retries.
        options["retry_policy"] = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=2)

        self._service = BlobServiceClient(url, credential=credential, **options)
        self._container = self._service.get_container_client(container)
        self._cpk = {} if customer_key is None else {"cpk": _customer_key(customer_key)}

    def create_container(self) -> None:
        """Create the container. An existing one is not an error."""
        try:
            with azure_errors(f"create container {self._name}"):
                self._container.create_container()
        except Conflict as conflict:
            if conflict.code != "ContainerAlreadyExists":
                raise

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List objects; see :class:`ObjectStore`."""
        start = self._prefix + require_list_prefix(prefix)
        with azure_errors(f"list {self._name}/{start}"):
            for item in self._container.list_blobs(name_starts_with=start or None):
                yield ObjectInfo(item.name.removeprefix(self._prefix), int(item.size), plain_etag(item.etag), item.last_modified)

    def size(self, key: str) -> int:
        """Return the size in bytes."""
        with azure_errors(f"read {self._where(key)}"):
            properties = self._blob(key).get_blob_properties(**self._cpk)
        if not properties.etag:
            raise unexpected_answer(f"read {self._where(key)}", "The answer has no ETag.")
        return int(properties.size)

    def _read_within(self, key: str, offset: int, length: int, etag: str) -> bytes:
        return self._download(key, offset, length, etag)

    def read(self, key: str) -> bytes:
        """Read the whole object."""
        return self._download(key, None, None, "")

    def _download(self, key: str, offset: int | None, length: int | None, etag: str) -> bytes:
        where = self._where(key)

        def check(response: Any) -> None:
            # The SDK checks neither the bounds of a range nor its ETag.
            answer = response.http_response
            asked = _RANGE.fullmatch(response.http_request.headers.get("x-ms-range", ""))
            if asked and answer.status_code < 300:
                if not answer.headers.get("etag"):
                    raise unexpected_answer(f"read {where}", "The answer has no ETag.")
                headers = {name.lower(): value for name, value in answer.headers.items()}
                check_range(where, answer.status_code, headers, int(asked[1]), int(asked[2]), etag)

        condition = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        try:
            with azure_errors(f"read {where}"):
                blob = self._blob(key)
                stream = blob.download_blob(offset, length, max_concurrency=1, raw_response_hook=check, **condition, **self._cpk)
                return require_length(where, bytes(stream.readall()), stream.size)
        except Conflict as error:
            if error.code == "ConditionNotMet":
                raise object_changed(where, error.cause) from error
            raise

    def stage(self, key: str, size: int | None = None, *, overwrite: bool = True, on_progress: Progress | None = None) -> PartedUpload:
        """Begin to write an object; see :class:`ObjectStore`."""
        where = self._where(key)
        return _BlobUpload(self._blob(key), self._cpk, overwrite, where=where, limits=_LIMITS, size=size, on_progress=on_progress)

    def delete(self, key: str) -> None:
        """Delete an object. A missing one is not an error."""
        try:
            with azure_errors(f"delete {self._where(key)}"):
                self._blob(key).delete_blob(delete_snapshots="include")
        except NotFound as missing:
            if missing.code != "BlobNotFound":
                raise

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def _where(self, key: str) -> str:
        return f"{self._name}/{self._prefix}{key}"

    def _blob(self, key: str) -> Any:
        return self._container.get_blob_client(self._prefix + require_key(key))


class _BlobUpload(PartedUpload):
    def __init__(self, blob: Any, cpk: dict[str, Any], overwrite: bool, **upload: Any) -> None:
        super().__init__(**upload)
        self._blob, self._cpk = blob, cpk
        self._condition = {} if overwrite else {"match_condition": MatchConditions.IfMissing}

    def _put_whole(self, data: bytes) -> None:
        with azure_errors(f"write {self._where}"):
            self._require_etag(self._blob.upload_blob(data, overwrite=not self._condition, **self._cpk))

    def _begin(self) -> None:
        """Do nothing: the first block begins the blob."""

    def _send(self, number: int, data: bytes) -> str:
        # As many characters as the SDK's own IDs have, because all blocks of a blob need IDs of one length.
        block = base64.b64encode(base64.b64encode(f"{number:032d}".encode())).decode()
        with azure_errors(f"write {self._where}"):
            self._blob.stage_block(block, data, length=len(data), **self._cpk)
        return block

    def _complete(self, receipts: list[str]) -> None:
        from azure.storage.blob import BlobBlock

        with azure_errors(f"write {self._where}"):
            blocks = [BlobBlock(block_id=block) for block in receipts]
            self._require_etag(self._blob.commit_block_list(blocks, **self._condition, **self._cpk))

    def _discard(self) -> None:
        """Do nothing: the service drops blocks that no list names."""

    def _require_etag(self, answer: dict[str, Any]) -> None:
        if not answer.get("etag"):
            raise unexpected_answer(f"write {self._where}", "The answer has no ETag.")


def _customer_key(key: Secret) -> CustomerProvidedEncryptionKey:
    from azure.storage.blob import CustomerProvidedEncryptionKey

    raw = key.reveal()
    if len(raw) != 32:
        raise InvalidInput(
            "InvalidCustomerKey",
            f"customer-provided key: it has {len(raw)} bytes, and AES-256 needs 32.",
            hint="Use a dataset key of this project.",
        )
    return CustomerProvidedEncryptionKey(base64.b64encode(raw).decode(), base64.b64encode(hashlib.sha256(raw).digest()).decode())
