"""Blob storage (Azurite, with a token of the Entra ID stand-in) and S3 (SeaweedFS) behave alike."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cleanroom.clients.azure import credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import BLOCK_BYTES, ObjectStore, require_key, require_prefix
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.secret import Secret
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.servers import AzureWorld, BlobServer, S3Server


@pytest.fixture(params=["azure-blob", "s3"])
def make_store(request: pytest.FixtureRequest) -> Callable[..., ObjectStore]:
    """Return a function that opens a store of either kind; each test has its own prefix."""
    folder = uuid.uuid4().hex
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("seaweedfs")
        return lambda prefix="": server.store(prefix=f"{folder}/{prefix}")
    world: AzureWorld = request.getfixturevalue("azure_world")
    azurite: BlobServer = request.getfixturevalue("azurite")
    user = credential(world.credential("contosso"), ca_file=world.ca_file)

    def make(prefix: str = "") -> BlobStore:
        store = BlobStore(azurite.checked_url(), "flights", user, prefix=f"{folder}/{prefix}", ca_file=azurite.ca_file)
        store.create_container()
        return store

    return make


@pytest.fixture
def store(make_store: Callable[..., ObjectStore]) -> ObjectStore:
    return make_store()


class TestBothStores:
    def test_both_stores_implement_the_protocol(self, store: ObjectStore):
        assert isinstance(store, ObjectStore)

    @pytest.mark.parametrize("kind", ["bytes", "file", "pieces"])
    def test_written_content_is_read_back(self, store: ObjectStore, kind: str):
        data = os.urandom(100_000)
        source = {"bytes": data, "file": io.BytesIO(data), "pieces": (data[i : i + 777] for i in range(0, len(data), 777))}[kind]
        stored = store.put("2013-01-01/part-0.csv", source)
        assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert store.read("2013-01-01/part-0.csv") == data
        assert store.size("2013-01-01/part-0.csv") == len(data)
        assert store.exists("2013-01-01/part-0.csv")

    def test_ranges_end_at_the_end_of_the_object(self, store: ObjectStore):
        data = bytes(range(256)) * 10
        store.put("a", data)
        assert store.read_range("a", 0, 10) == data[:10]
        assert store.read_range("a", 100, 1000) == data[100:1100]
        assert store.read_range("a", 2550, 100) == data[2550:]
        assert store.read_range("a", 2560, 10) == b""
        assert store.read_range("a", 9999, 10) == b""
        assert store.read_range("a", 5, 0) == b""
        with pytest.raises(InvalidInput):
            store.read_range("a", -1, 10)

    @pytest.mark.parametrize("size", [1000, BLOCK_BYTES + 1])
    def test_a_range_of_a_replaced_object_is_refused(self, store: ObjectStore, size: int):
        store.put("a", bytes(size))
        (listed,) = store.list()
        assert store.read_range("a", 10, 20, etag=listed.etag) == bytes(20)
        store.put("a", b"b" * size)
        with pytest.raises(Conflict) as caught:
            store.read_range("a", 10, 20, etag=listed.etag)
        assert caught.value.code == "ObjectChanged"

    def test_an_upload_of_several_parts_reports_progress(self, store: ObjectStore):
        data = os.urandom(2 * BLOCK_BYTES + 12_345)
        seen: list[int] = []
        stored = store.put("big", io.BytesIO(data), on_progress=seen.append)
        assert stored.size == len(data) == seen[-1]
        assert seen == sorted(seen)
        assert len(seen) == 3
        assert store.read_range("big", BLOCK_BYTES - 5, 10) == data[BLOCK_BYTES - 5 : BLOCK_BYTES + 5]
        assert hashlib.sha256(store.read("big")).hexdigest() == stored.sha256

    def test_objects_of_one_block_and_of_zero_bytes(self, store: ObjectStore):
        assert store.put("block", bytes(BLOCK_BYTES)).size == BLOCK_BYTES
        assert store.size("block") == BLOCK_BYTES
        assert store.put("empty", b"").sha256 == hashlib.sha256(b"").hexdigest()
        assert store.read("empty") == b""

    def test_a_broken_upload_leaves_the_old_content(self, store: ObjectStore):
        store.put("a", b"old")

        def broken():
            yield bytes(BLOCK_BYTES)
            yield bytes(BLOCK_BYTES)
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError):
            store.put("a", broken())
        assert store.read("a") == b"old"

    def test_a_staged_upload_is_visible_when_it_is_committed(self, store: ObjectStore):
        data = os.urandom(BLOCK_BYTES + 5)
        with store.stage("dropped", len(data)) as dropped, store.stage("kept", len(data)) as kept:
            for upload in (dropped, kept):
                upload.write(data)
                upload.flush()
            assert list(store.list()) == []
            kept.commit()
        assert [item.key for item in store.list()] == ["kept"]
        assert hashlib.sha256(store.read("kept")).digest() == hashlib.sha256(data).digest()

    def test_overwriting_can_be_disallowed(self, store: ObjectStore):
        store.put("a", b"one")
        with pytest.raises(Conflict):
            store.put("a", b"two", overwrite=False)
        assert store.read("a") == b"one"
        store.put("a", b"two")
        assert store.read("a") == b"two"
        store.put("new", b"x", overwrite=False)

    def test_a_listing_is_ordered_and_stays_below_the_prefix(self, make_store: Callable[..., ObjectStore]):
        outer, inner = make_store(), make_store("in")
        for key in ("2013-01-02/b", "2013-01-01/a", "2013-01-01/c"):
            inner.put(key, key.encode())
        outer.put("other", b"x")
        assert [item.key for item in inner.list()] == ["2013-01-01/a", "2013-01-01/c", "2013-01-02/b"]
        assert [(item.key, item.size) for item in inner.list("2013-01-02/")] == [("2013-01-02/b", 12)]
        assert [item.key for item in outer.list()] == ["in/2013-01-01/a", "in/2013-01-01/c", "in/2013-01-02/b", "other"]
        assert all(item.etag and item.last_modified for item in inner.list())
        with pytest.raises(InvalidInput):
            list(inner.list("../"))

    def test_a_missing_object_is_not_found(self, store: ObjectStore):
        assert not store.exists("nothing")
        for act in (lambda: store.size("nothing"), lambda: store.read("nothing"), lambda: store.read_range("nothing", 0, 1)):
            with pytest.raises(NotFound):
                act()

    def test_deleting_is_idempotent(self, store: ObjectStore):
        store.put("a", b"x")
        store.delete("a")
        store.delete("a")
        assert not store.exists("a")

    @pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\x00b", "a/"])
    def test_keys_outside_the_prefix_are_rejected(self, store: ObjectStore, key: str):
        for act in (store.read, store.delete, store.exists, lambda k: store.put(k, b"")):
            with pytest.raises(InvalidInput, match="InvalidObjectKey"):
                act(key)


class TestBlob:
    def test_a_token_for_another_resource_is_refused(self, azure_world: AzureWorld, azurite: BlobServer):
        class Wrong:
            def get_token(self, *scopes: str, **kwargs):
                return credential(azure_world.credential("contosso"), ca_file=azure_world.ca_file).get_token(
                    "https://vault.azure.net/.default"
                )

        store = BlobStore(azurite.checked_url(), "flights", Wrong(), ca_file=azurite.ca_file)
        with pytest.raises(PreconditionFailed) as caught:
            list(store.list())
        assert caught.value.code in ("AuthenticationFailed", "InvalidAuthenticationInfo", "AuthorizationFailure")

    def test_a_missing_container_is_not_found(self, azure_world: AzureWorld, azurite: BlobServer):
        user = credential(azure_world.credential("contosso"), ca_file=azure_world.ca_file)
        store = BlobStore(azurite.checked_url(), "no-container", user, ca_file=azurite.ca_file)
        with pytest.raises(NotFound) as caught:
            list(store.list())
        assert caught.value.code == "ContainerNotFound"

    def test_an_untrusted_certificate_is_unavailable(self, azure_world: AzureWorld, azurite: BlobServer):
        user = credential(azure_world.credential("contosso"), ca_file=azure_world.ca_file)
        with pytest.raises(Unavailable) as caught:
            BlobStore(azurite.checked_url(), "flights", user).exists("a")
        assert caught.value.code == "AzureUnreachable"

    def test_a_sign_in_failure_keeps_its_aadsts_code(self, azure_world: AzureWorld, azurite: BlobServer):
        stranger = azure_world.credential("contosso").model_copy(update={"client_id": str(uuid.UUID(int=5))})
        store = BlobStore(azurite.checked_url(), "flights", credential(stranger, ca_file=azure_world.ca_file), ca_file=azurite.ca_file)
        with pytest.raises(PreconditionFailed) as caught:
            store.read("a")
        assert caught.value.code == "AADSTS700016"


class TestS3:
    def test_a_wrong_secret_and_an_unknown_access_key_are_rejected(self, seaweedfs: S3Server):
        wrong = S3Credentials(seaweedfs.litware.access_key_id, Secret(b"wrong"))
        unknown = S3Credentials(Secret(b"UNKNOWN"), Secret(b"wrong"))
        for credentials, code in ((wrong, "SignatureDoesNotMatch"), (unknown, "InvalidAccessKeyId")):
            with pytest.raises(PreconditionFailed) as caught:
                seaweedfs.store(credentials=credentials).check()
            assert caught.value.code == code
            with pytest.raises(PreconditionFailed):
                seaweedfs.store(credentials=credentials).put("a", b"x")

    def test_another_owners_bucket_is_denied(self, seaweedfs: S3Server):
        seaweedfs.store("private", seaweedfs.admin).put("a", b"x")
        for act in (lambda s: s.read("a"), lambda s: s.put("b", b"x"), lambda s: list(s.list()), lambda s: s.check()):
            with pytest.raises(PreconditionFailed) as caught:
                act(seaweedfs.store("private"))
            assert caught.value.code == "AccessDenied"

    def test_a_missing_bucket_is_not_found(self, seaweedfs: S3Server):
        with pytest.raises(NotFound) as caught:
            seaweedfs.store("no-bucket", seaweedfs.admin).check()
        assert caught.value.code == "NoSuchBucket"

    def test_reading_needs_the_same_customer_key(self, seaweedfs: S3Server):
        key = Secret(os.urandom(32))
        sealed = seaweedfs.store(customer_key=key, prefix="cpk")
        sealed.put("a", b"rows")
        assert sealed.read("a") == b"rows"
        assert sealed.read_range("a", 1, 2) == b"ow"
        with pytest.raises(CleanRoomError):
            seaweedfs.store(prefix="cpk").read("a")
        with pytest.raises(CleanRoomError):
            seaweedfs.store(customer_key=Secret(os.urandom(32)), prefix="cpk").read("a")

    def test_an_unreachable_server_is_unavailable(self, seaweedfs: S3Server):
        gone = check_storage_url("https://localhost:9", "s3", declared=["localhost:9"])
        with pytest.raises(Unavailable) as caught:
            S3Store("litware", region="us-east-1", endpoint=gone, credentials=seaweedfs.litware).check()
        assert caught.value.code == "S3Unreachable"

    @pytest.mark.parametrize("encoded", [False, True])
    def test_a_connection_secret_is_json_or_base64_of_json(self, encoded: bool):
        text = json.dumps({"awsAccessKeyId": "AKIA", "awsSecretAccessKey": "hunter2"}).encode()
        parsed = S3Credentials.parse(Secret(base64.b64encode(text) if encoded else text))
        assert parsed.secret_access_key.reveal() == b"hunter2"
        assert parsed.session_token is None
        assert "hunter2" not in repr(parsed)

    @pytest.mark.parametrize("text", [b"hunter2", b"{}", b'{"awsAccessKeyId": "AKIA", "awsSecretAccessKey": ""}', b"[1]", b'{"hunter2"'])
    def test_malformed_connection_secrets_are_not_quoted(self, text: bytes):
        with pytest.raises(InvalidInput) as caught:
            S3Credentials.parse(Secret(text))
        assert "hunter2" not in str(caught.value.to_dict())
        assert caught.value.__cause__ is None


@pytest.fixture(scope="module")
def redirector(local_authority: LocalAuthority):
    """A server that redirects every request, as both clouds do; yields its URL and the requests to the redirect target."""
    elsewhere: list[str] = []

    async def away(request: Request) -> Response:
        if request.url.path.startswith("/elsewhere"):
            elsewhere.append(request.url.path)
            return Response(b"stolen")
        body = b"<Error><Code>PermanentRedirect</Code><Message>away</Message><Endpoint>localhost</Endpoint></Error>"
        headers = {"Location": str(request.url.replace(path="/elsewhere")), "x-amz-bucket-region": "eu-west-1"}
        return Response(body, 301, headers=headers, media_type="application/xml")

    app = Starlette(routes=[Route("/{path:path}", away, methods=["GET", "HEAD", "PUT", "POST"])])
    with serving(app, "redirector", local_authority.issue("redirector")) as url:
        yield url, elsewhere


def test_storage_redirects_are_not_followed(redirector, azure_world: AzureWorld, local_authority: LocalAuthority):
    url, elsewhere = redirector
    declared = [url.removeprefix("https://")]
    user = credential(azure_world.credential("contosso"), ca_file=azure_world.ca_file)
    blob = BlobStore(
        check_storage_url(f"{url}/contosso", "azure-blob", declared=declared), "flights", user, ca_file=local_authority.ca_file
    )
    s3 = S3Store(
        "litware",
        region="us-east-1",
        endpoint=check_storage_url(url, "s3", declared=declared),
        credentials=S3Credentials(Secret(b"a"), Secret(b"b")),
        ca_file=local_authority.ca_file,
    )
    for store in (blob, s3):
        with pytest.raises(Refused) as caught:
            store.read("a")
        assert caught.value.code == "RedirectRefused"
    assert elsewhere == []


def test_the_customer_key_is_sent_with_every_blob_request(azure_world: AzureWorld, local_authority: LocalAuthority):
    """Azurite rejects the headers of customer-provided keys, so this service requires them."""
    key = Secret(os.urandom(32))
    wanted = {
        "x-ms-encryption-key": base64.b64encode(key.reveal()).decode(),
        "x-ms-encryption-key-sha256": base64.b64encode(hashlib.sha256(key.reveal()).digest()).decode(),
        "x-ms-encryption-algorithm": "AES256",
    }
    blobs: dict[str, bytes] = {}
    asked: list[str] = []

    async def service(request: Request) -> Response:
        if any(request.headers.get(name) != value for name, value in wanted.items()):
            body = b"<Error><Code>BlobUsesCustomerSpecifiedEncryption</Code><Message>It has a key.</Message></Error>"
            return Response(body, 409, headers={"x-ms-error-code": "BlobUsesCustomerSpecifiedEncryption"}, media_type="application/xml")
        name, part = request.url.path, request.query_params.get("comp", "")
        asked.append(f"{request.method} {part}".strip())
        headers = {"etag": '"1"', "last-modified": "Sat, 28 Nov 2026 10:00:00 GMT", "x-ms-blob-type": "BlockBlob"}
        if request.method == "PUT":
            if part == "block":
                name += request.query_params["blockid"]
            if part == "blocklist":
                # In the order of the list, because the block IDs are random.
                listed = re.findall(r"<Latest>([^<]+)</Latest>", (await request.body()).decode())
                blobs[name] = b"".join(blobs.pop(name + block) for block in listed)
            else:
                blobs[name] = await request.body()
            return Response(status_code=201, headers=headers)
        data = blobs[name]
        if request.method == "HEAD":
            return Response(headers=headers | {"content-length": str(len(data))})
        first, last = (int(bound) for bound in request.headers["x-ms-range"].removeprefix("bytes=").split("-"))
        piece = data[first : last + 1]
        return Response(piece, 206, headers=headers | {"content-range": f"bytes {first}-{first + len(piece) - 1}/{len(data)}"})

    app = Starlette(routes=[Route("/{path:path}", service, methods=["GET", "HEAD", "PUT"])])
    with serving(app, "customer-keys", local_authority.issue("customer-keys")) as url:
        account = check_storage_url(f"{url}/contosso", "azure-blob", declared=[url.removeprefix("https://")])
        user = credential(azure_world.credential("contosso"), ca_file=azure_world.ca_file)

        def store(customer_key: Secret | None) -> BlobStore:
            return BlobStore(account, "flights", user, ca_file=local_authority.ca_file, customer_key=customer_key)

        ours, long = store(key), os.urandom(BLOCK_BYTES + 10)
        ours.put("a", b"rows")
        ours.put("b", io.BytesIO(long))
        assert (ours.read("a"), ours.read_range("a", 1, 2), ours.size("a"), ours.exists("a")) == (b"rows", b"ow", 4, True)
        # Digests, because pytest would take minutes to explain a difference in eight million bytes.
        assert hashlib.sha256(ours.read("b")).hexdigest() == hashlib.sha256(long).hexdigest()
        assert {"PUT block", "PUT blocklist", "GET", "HEAD"} <= set(asked)
        for other in (None, Secret(os.urandom(32))):
            with pytest.raises(Conflict) as caught:
                store(other).read("a")
            assert caught.value.code == "BlobUsesCustomerSpecifiedEncryption"
    with pytest.raises(InvalidInput, match="InvalidCustomerKey"):
        BlobStore(account, "flights", user, ca_file=local_authority.ca_file, customer_key=Secret(b"short"))


def test_prefixes_are_normalised_and_validated():
    assert require_prefix("") == ""
    assert require_prefix("a/b") == require_prefix("a/b/") == "a/b/"
    assert require_key("a/b.csv") == "a/b.csv"
    for bad in ("/", "..", "a//", "/a"):
        with pytest.raises(InvalidInput):
            require_prefix(bad)
