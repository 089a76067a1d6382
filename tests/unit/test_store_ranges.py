"""Ranges, versions, parts and error codes of both stores, before a server that follows a script."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import BLOCK_BYTES, ObjectStore, UploadLimits, source_size
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.datasets.plain import PlainObject
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.secret import Secret
from localcloud.tls import LocalAuthority
from sparkapp.listing import list_objects
from sparkapp.splits import InputSplit, open_object, plan_splits
from tests.folder_store import FolderStore
from tests.hostile_server import HostileServer, hostile_server, http_response
from tests.unit.sparkapp_dataset import DatasetWorld
from tests.unit.test_hostile_answers import Token

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(local_authority: LocalAuthority) -> Iterator[HostileServer]:
    with hostile_server(local_authority.issue("ranges")) as running:
        yield running


@pytest.fixture(scope="module")
def stores(server: HostileServer, local_authority: LocalAuthority) -> dict[str, ObjectStore]:
    host, ca_file = [server.url.removeprefix("https://")], local_authority.ca_file
    account = check_storage_url(f"{server.url}/account", "azure-blob", declared=host)
    endpoint = check_storage_url(server.url, "s3", declared=host)
    keys = S3Credentials(Secret(b"a"), Secret(b"b"))
    return {
        "blob": BlobStore(account, "c", Token(), ca_file=ca_file),
        "S3": S3Store("b", region="eu-west-1", endpoint=endpoint, credentials=keys, ca_file=ca_file),
    }


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(params=["blob", "S3"])
def store(request: pytest.FixtureRequest, stores: dict[str, ObjectStore]) -> ObjectStore:
    return stores[request.param]


def piece(body: bytes, content_range: str = "bytes 10-19/100", *, status: str = "206 Partial Content", etag: str = '"one"') -> bytes:
    headers = {"content_range": content_range} if content_range else {}
    return http_response(status, body, content_type="application/octet-stream", etag=etag, **headers)


DATA = b"0123456789"


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (piece(DATA * 10, "", status="200 OK"), PreconditionFailed, "RangeIgnored"),
        (piece(DATA, "", status="200 OK"), PreconditionFailed, "RangeIgnored"),
        (piece(DATA, ""), PreconditionFailed, "RangeIgnored"),
        (piece(DATA, "items 10-19/100"), PreconditionFailed, "RangeIgnored"),
        (piece(DATA, "bytes 0-9/100"), Unavailable, "RangeAnswerWrong"),
        (piece(DATA, "bytes 10-14/100"), Unavailable, "RangeAnswerWrong"),
        (piece(DATA, "bytes 10-29/100"), Unavailable, "RangeAnswerWrong"),
        (piece(DATA[:4]), Unavailable, "RangeAnswerWrong"),
        (piece(DATA, etag='"two"'), Conflict, "ObjectChanged"),
    ],
    ids=["whole object", "200", "no Content-Range", "malformed", "another range", "shorter", "longer", "short body", "another version"],
)
def test_answer_that_is_not_the_requested_range_is_a_named_error(
    store: ObjectStore, server: HostileServer, answer: bytes, kind: type[CleanRoomError], code: str
) -> None:
    server.answer = answer
    with pytest.raises(CleanRoomError) as caught:
        store.read_range("k", 10, 10, etag="one")
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert "/k" in caught.value.message


def test_requested_range_is_returned(store: ObjectStore, server: HostileServer) -> None:
    server.answer = piece(DATA)
    assert store.read_range("k", 10, 10, etag="one") == DATA
    server.answer = piece(DATA[:5], "bytes 95-99/100", etag='W/"one"')
    assert store.read_range("k", 95, 10, etag="one") == DATA[:5]
    assert store.read_range("k", 95, 10) == DATA[:5]


def failure(store: ObjectStore, status: int, code: str, *, message: str = "m") -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    headers = {"x_ms_error_code": code} if isinstance(store, BlobStore) else {}
    return http_response(f"{status} x", body, content_type="application/xml", **headers)


BLOB_ROWS = [
    (409, "BlobArchived", PreconditionFailed, "archive tier", "set-tier"),
    (409, "BlobBeingRehydrated", PreconditionFailed, "being rehydrated", "15 hours"),
    (409, "BlobUsesCustomerSpecifiedEncryption", Conflict, "customer-provided key", "CPK"),
    (409, "BlobCustomerSpecifiedEncryptionMismatch", Conflict, "another customer-provided key", "CPK"),
    (409, "ContainerBeingDeleted", Unavailable, "being deleted", "another container"),
    (412, "LeaseIdMissing", Conflict, "lease", "break"),
    (409, "LeaseAlreadyPresent", Conflict, "lease", "break"),
    (409, "BlobImmutableDueToPolicy", PreconditionFailed, "immutability", "policy"),
    (409, "PublicAccessNotPermitted", PreconditionFailed, "anonymous", "credential"),
    (403, "AuthenticationFailed", PreconditionFailed, "clock", "NTP"),
    (401, "InvalidAuthenticationInfo", PreconditionFailed, "clock", "NTP"),
    (403, "AuthorizationPermissionMismatch", PreconditionFailed, "no data role", "Storage Blob Data Reader"),
    (403, "AuthorizationFailure", PreconditionFailed, "network rule", "firewall"),
    (403, "KeyVaultEncryptionKeyNotFound", PreconditionFailed, "customer-managed key", "Restore"),
    (409, "SomethingNew", Conflict, "present state", "Compare"),
    (412, "ConditionNotMet", Conflict, "replaced while it was read", "upload"),
    (404, "BlobNotFound", NotFound, "does not exist", ""),
    (404, "ContainerNotFound", NotFound, "does not exist", ""),
    (503, "ServerBusy", Unavailable, "busy", ""),
    (501, "NotImplemented", InvalidInput, "rejected", ""),
]
S3_ROWS = [
    (403, "RequestTimeTooSkewed", PreconditionFailed, "clock", "NTP"),
    (403, "InvalidObjectState", PreconditionFailed, "archived", "restore-object"),
    (503, "SlowDown", Unavailable, "throttles", ""),
    (400, "ExpiredToken", PreconditionFailed, "session token", "awsSessionToken"),
    (403, "InvalidAccessKeyId", PreconditionFailed, "access key does not exist", "connection secret"),
    (403, "SignatureDoesNotMatch", PreconditionFailed, "does not belong", "connection secret"),
    (403, "AccessDenied", PreconditionFailed, "no permission", "s3:GetObject"),
    (400, "KMS.DisabledException", PreconditionFailed, "KMS key is disabled", "owner of the KMS key"),
    (400, "KMS.NotFoundException", PreconditionFailed, "KMS key does not exist", "owner of the KMS key"),
    (400, "KMS.ThrottlingException", Unavailable, "KMS throttles", ""),
    (400, "KMS.NewException", PreconditionFailed, "KMS key cannot be used", "owner of the KMS key"),
    (301, "PermanentRedirect", Refused, "another region", "s3.region"),
    (400, "AuthorizationHeaderMalformed", PreconditionFailed, "another region", "s3.region"),
    (307, "TemporaryRedirect", Unavailable, "is new", ""),
    (404, "NoSuchBucket", NotFound, "bucket does not exist", "s3.endpoint_url"),
    (404, "NoSuchKey", NotFound, "it does not exist", ""),
    (409, "OperationAborted", Unavailable, "another operation", ""),
    (409, "SomethingNew", Conflict, "present state", ""),
    (412, "PreconditionFailed", Conflict, "replaced while it was read", "upload"),
    (400, "InvalidRequest", InvalidInput, "rejected", ""),
    (501, "NotImplemented", InvalidInput, "does not implement", "S3 API"),
]


@pytest.mark.parametrize("row", [*BLOB_ROWS, *S3_ROWS], ids=lambda row: f"{row[0]} {row[1]}")
def test_error_code_has_its_own_words_and_remedy(stores: dict[str, ObjectStore], server: HostileServer, row: Any) -> None:
    status, code, kind, words, remedy = row
    place = stores["blob" if row in BLOB_ROWS else "S3"]
    server.answer = failure(place, status, code)
    with pytest.raises(CleanRoomError) as caught:
        place.read_range("k", 0, 10, etag="one")
    error = caught.value
    assert type(error) is kind
    renamed = {"ConditionNotMet": "ObjectChanged", "PreconditionFailed": "ObjectChanged", "PermanentRedirect": "RedirectRefused"}
    assert error.code == renamed.get(code, code)
    assert words in error.message
    assert remedy in str(error.hint)
    assert error.retryable is (kind is Unavailable or code == "AuthorizationPermissionMismatch")


def test_object_with_a_customer_key_names_the_key(store: ObjectStore, server: HostileServer) -> None:
    if isinstance(store, BlobStore):
        pytest.skip("S3 has no code of its own for it")
    server.answer = failure(store, 400, "InvalidRequest", message="The object was stored using a form of Server Side Encryption.")
    with pytest.raises(PreconditionFailed, match="customer-provided key"):
        store.read_range("k", 0, 10)


def test_size_of_an_s3_object_reports_the_code_that_head_hides(store: ObjectStore, server: HostileServer) -> None:
    if isinstance(store, BlobStore):
        pytest.skip("Blob sends the code in a header")
    server.answer = failure(store, 403, "RequestTimeTooSkewed")
    with pytest.raises(PreconditionFailed, match="RequestTimeTooSkewed"):
        store.size("k")
    assert [line.split()[0] for line in server.requests[-2:]] == ["HEAD", "GET"]


# --- parts of an upload

S3_LIMITS = UploadLimits(parts=10_000, largest_part=5 << 30, largest_object=5 << 40)


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, BLOCK_BYTES),
        (10_000 * BLOCK_BYTES, BLOCK_BYTES),
        (10_000 * BLOCK_BYTES + 1, BLOCK_BYTES + MIB),
        (1 << 40, 105 * MIB),
        (5 << 40, 525 * MIB),
    ],
)
def test_parts_grow_with_the_object(size: int, part: int) -> None:
    assert S3_LIMITS.part_bytes(size, "k") == part
    assert part * 10_000 >= size


@pytest.mark.parametrize("excess", [1, 1 << 40])
def test_object_above_the_limit_is_refused_before_the_first_byte(store: ObjectStore, server: HostileServer, excess: int) -> None:
    limit = 50_000 * 4000 * MIB if isinstance(store, BlobStore) else 5 << 40

    class Sized(io.BytesIO):
        total_size = limit + excess

        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("read")

    sent = len(server.requests)
    with pytest.raises(InvalidInput, match=str(limit)) as caught:
        store.put("k", Sized())
    assert caught.value.code == "ObjectTooLarge"
    assert len(server.requests) == sent


def test_size_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    with (tmp_path / "a").open("rb") as file:
        file.read(2)
        assert source_size(file) == 4
        assert file.read() == b"cdef"
    assert source_size(b"abc") == 3
    assert source_size(iter([b"abc"])) is None


# --- the pod reads one version of an object


class Versioned(FolderStore):
    """Lists every object as version ``one`` and notes the versions that reads demand."""

    demanded: list[str] = []

    def list(self, prefix: str = "") -> Iterator[Any]:
        for item in super().list(prefix):
            yield type(item)(item.key, item.size, "one", None)

    def read_range(self, key: str, offset: int, length: int, *, etag: str = "") -> bytes:
        self.demanded.append(etag)
        return super().read_range(key, offset, length)


@pytest.mark.parametrize("encryption", ["SSE", "CSE"])
def test_pod_demands_the_listed_version_of_every_range(tmp_path: Path, encryption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = DatasetWorld(tmp_path / "w", encryption=encryption, manifest="optional")
    if encryption == "CSE":
        world.put_sealed("x.csv", b"1,one,h\n")
    else:
        world.store.put("x.csv", b"1,one,h\n")
    pod = world.pod()
    monkeypatch.setattr(type(pod), "store", lambda self, dataset: Versioned(self.root / "stores" / dataset.name))
    monkeypatch.setattr(Versioned, "demanded", [])
    ((split,),) = plan_splits(pod, list_objects(pod, world.dataset, pod.job().parameters), parallelism=1)
    assert isinstance(split, InputSplit)
    opened = open_object(pod, world.dataset, split)
    assert isinstance(opened, PlainObject) is (encryption == "SSE")
    assert opened.read_at(0, 8) == b"1,one,h\n"
    assert set(Versioned.demanded) == {"one"}
