"""S3 as an :class:`~cleanroom.clients.objects.ObjectStore`, through ``botocore``."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from cleanroom.clients.objects import (
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
from cleanroom.clients.storage_codes import KMS_CODE, S3_CODES, storage_error
from cleanroom.clients.uploads import PartedUpload
from cleanroom.clients.urls import StorageUrl, check_region, refuse_private_addresses
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.secret import Secret
from cleanroom.transport import retry_after_seconds

_LIMITS: Final = UploadLimits(parts=10_000, largest_part=5 << 30, largest_object=5 << 40)
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""


@dataclass(frozen=True)
class S3Credentials:
    """An access key. A connection secret is the JSON ``{"awsAccessKeyId", "awsSecretAccessKey"}``, or base64 of it."""

    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None = None

    @staticmethod
    def parse(value: Secret) -> S3Credentials:
        """Parse a connection secret.

        Raises:
            InvalidInput: ``ConnectionSecretMalformed``. The message never quotes the value.
        """
        text = value.reveal().strip()
        try:
            if not text.startswith(b"{"):
                text = base64.b64decode(text, validate=True)
            content = json.loads(text)
            names = ("awsAccessKeyId", "awsSecretAccessKey", "awsSessionToken")
            parts = [content[name] for name in names[:2]] + ([content[names[2]]] if content.get(names[2]) else [])
            if not all(isinstance(part, str) and part for part in parts):
                raise ValueError("empty")
        except (binascii.Error, ValueError, KeyError, TypeError, AttributeError):
            # Without the cause, because a JSON error quotes the text.
            raise InvalidInput(
                "ConnectionSecretMalformed",
                "connection secret: it is not JSON (or base64 of JSON) with awsAccessKeyId and awsSecretAccessKey.",
                hint='{"awsAccessKeyId": "…", "awsSecretAccessKey": "…"}',
            ) from None
        secrets = [Secret(part.encode()) for part in parts]
        return S3Credentials(*secrets)


@cache
def _models() -> Any:
    """Return the loader of botocore's service models. It keeps what it has read, for which each session would take 0.1 s."""
    from botocore.session import Session

    return Session().get_component("data_loader")


class S3Store(StoreBase):
    """The objects of one bucket below ``prefix``.

    Args:
        bucket: Name of the bucket.
        region: AWS region.
        endpoint: Checked endpoint (:func:`cleanroom.clients.urls.check_storage_url`). Without it, AWS in ``region``.
        credentials: The access key. Without it, the SDK's standard chain (``AWS_PROFILE`` …).
        prefix: Prefix of all keys.
        ca_file: PEM roots for TLS.
        customer_key: 32 bytes with which the service encrypts and which it does not store (SSE-C).
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str,
        endpoint: StorageUrl | None = None,
        credentials: S3Credentials | None = None,
        prefix: str = "",
        ca_file: Path | None = None,
        customer_key: Secret | None = None,
    ) -> None:
        # botocore takes long to import.
        from botocore.config import Config
        from botocore.session import Session

        if endpoint is None or not endpoint.declared:
            check_region(region)
        if endpoint is not None:
            refuse_private_addresses(endpoint)
        self._prefix = require_prefix(prefix)
        self._bucket = bucket
        self._name = f"{endpoint.url if endpoint else f's3.{region}'}/{bucket}"
        session = Session()
        session.register_component("data_loader", _models())
        keys: dict[str, Any] = {}
        if credentials is not None:
            keys = {
                "aws_access_key_id": credentials.access_key_id.reveal_text(),
                "aws_secret_access_key": credentials.secret_access_key.reveal_text(),
                "aws_session_token": credentials.session_token.reveal_text() if credentials.session_token else None,
            }
        self._client: Any = session.create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint.url if endpoint else None,
            verify=str(ca_file) if ca_file else None,
            config=Config(
                # Endpoints have TLS, which protects the body. A digest of it in the signature would cost as much as the encryption.
                s3={"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": False},
                retries={"total_max_attempts": 3, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                # Only if an operation requires one, because other S3 servers reject trailing checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
            **keys,
        )
        _never_redirect(self._client)
        self._sse: dict[str, Any] = {}
        if customer_key is not None:
            if len(customer_key) != 32:
                raise InvalidInput(
                    "InvalidCustomerKey",
                    f"customer-provided key: it has {len(customer_key)} bytes, and AES-256 needs 32.",
                    hint="Use a dataset key of this project.",
                )
            self._sse = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": customer_key.reveal()}

    def create_bucket(self) -> None:
        """Create the bucket. One that this account owns already is not an error."""
        try:
            with _errors(f"create bucket {self._name}"):
                self._client.create_bucket(Bucket=self._bucket)
        except Conflict as conflict:
            if conflict.code != "BucketAlreadyOwnedByYou":
                raise

    def check(self) -> None:
        """Check that the credential can list the bucket.

        Raises:
            NotFound: ``NoSuchBucket``.
            PreconditionFailed: ``InvalidAccessKeyId``, ``SignatureDoesNotMatch``, ``AccessDenied``.
        """
        with _errors(f"open {self._name}"):
            # Not HEAD, whose response has no body and thus no error code.
            _require_members(
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1), f"open {self._name}", "Name"
            )

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List objects; see :class:`ObjectStore`."""
        start = self._prefix + require_list_prefix(prefix)
        with _errors(f"list {self._name}/{start}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start):
                _require_members(page, f"list {self._name}/{start}", "Name")
                for item in page.get("Contents", ()):
                    yield ObjectInfo(
                        item["Key"].removeprefix(self._prefix), int(item["Size"]), plain_etag(item["ETag"]), item["LastModified"]
                    )

    def size(self, key: str) -> int:
        """Return the size in bytes."""
        with _errors(f"read {self._where(key)}"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key(key), **self._sse)
            except ClientError as error:
                if _status(error) not in (400, 403):
                    raise
                # The answer to HEAD has no body and thus no error code. The same error of GET has one.
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), Range="bytes=0-0", **self._sse)
                answer["Body"].close()
                answer["ContentLength"] = answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"]
            _require_members(answer, "read " + self._where(key), "ETag", "ContentLength")
            return int(answer["ContentLength"])

    def _read_within(self, key: str, offset: int, length: int, etag: str) -> bytes:
        last = offset + length - 1
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        where = self._where(key)
        with _errors(f"read {where}"):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key(key), Range=f"bytes={offset}-{last}", **condition, **self._sse
            )
            body = answer["Body"]
            with closing(body):
                _require_members(answer, f"read {where}", "ETag")
                meta = answer["ResponseMetadata"]
                expected = check_range(where, meta["HTTPStatusCode"], meta["HTTPHeaders"], offset, last, etag)
                return require_length(where, body.read(), expected)

    def read(self, key: str) -> bytes:
        """Read the whole object."""
        with _errors(f"read {self._where(key)}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **self._sse)
            body = answer["Body"]
            with closing(body):
                _require_members(answer, f"read {self._where(key)}", "ETag")
                data: bytes = body.read()
            return data

    def stage(self, key: str, size: int | None = None, *, overwrite: bool = True, on_progress: Progress | None = None) -> PartedUpload:
        """Begin to write an object; see :class:`ObjectStore`."""
        where = self._where(key)
        place = {"Bucket": self._bucket, "Key": self._key(key)}
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        upload = _S3Upload(self._client, place, self._sse, condition, where=where, limits=_LIMITS, size=size, on_progress=on_progress)
        with _errors(f"write {where}"):
            if not overwrite and self.exists(key):
                # Checked here too, because some S3 servers ignore If-None-Match on a write.
                raise Conflict("ObjectExists", f"{where} already exists.")
        return upload

    def delete(self, key: str) -> None:
        """Delete an object. A missing one is not an error."""
        with _errors(f"delete {self._where(key)}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _where(self, key: str) -> str:
        return f"{self._name}/{self._prefix}{key}"

    def _key(self, key: str) -> str:
        return self._prefix + require_key(key)


class _S3Upload(PartedUpload):
    def __init__(self, client: Any, place: dict[str, str], sse: dict[str, Any], condition: dict[str, str], **upload: Any) -> None:
        super().__init__(**upload)
        self._client, self._place, self._sse, self._condition = client, place, sse, condition
        self._doing = f"write {self._where}"

    def _put_whole(self, data: bytes) -> None:
        with _errors(self._doing):
            answer = self._client.put_object(Body=data, **self._place, **self._condition, **self._sse)
            _require_members(answer, self._doing, "ETag")

    def _begin(self) -> None:
        with _errors(self._doing):
            created = self._client.create_multipart_upload(**self._place, **self._sse)
            _require_members(created, self._doing, "UploadId")
            self._place["UploadId"] = created["UploadId"]

    def _send(self, number: int, data: bytes) -> dict[str, Any]:
        with _errors(self._doing):
            part = self._client.upload_part(PartNumber=number, Body=data, **self._place, **self._sse)
            _require_members(part, self._doing, "ETag")
            return {"PartNumber": number, "ETag": part["ETag"]}

    def _complete(self, receipts: list[dict[str, Any]]) -> None:
        with _errors(self._doing):
            done = self._client.complete_multipart_upload(MultipartUpload={"Parts": receipts}, **self._place, **self._condition)
            _require_members(done, self._doing, "ETag")

    def _discard(self) -> None:
        self._client.abort_multipart_upload(**self._place)


def _never_redirect(client: Any) -> None:
    """Keep botocore from following a bucket to the region in a response, by marking every call as already redirected."""

    def mark(params: dict[str, Any], context: dict[str, Any], **ignored: Any) -> None:
        context.setdefault("s3_redirect", {})["redirected"] = True

    client.meta.events.register_last("before-parameter-build.s3", mark)


def _require_members(answer: dict[str, Any], doing: str, *members: str) -> None:
    """Require members that S3 always sends. botocore reads any page with status 200 as an answer without members."""
    if missing := [member for member in members if answer.get(member) in (None, "")]:
        raise _unexpected_answer(doing, f"The answer has no {', '.join(missing)}.")


def _unexpected_answer(doing: str, cause: str) -> Unavailable:
    return Unavailable("S3AnswerUnexpected", f"Could not {doing}: the answer is not from S3.", cause=cause[:500], hint=_PROXY_HINT)


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _client_error(error, doing) from error
    except ResponseParserError as error:
        raise _unexpected_answer(doing, str(error)) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PreconditionFailed(
            "S3CredentialsMissing",
            f"Could not {doing}: no access key is configured.",
            cause=str(error),
            hint="Set AWS_PROFILE, or use a connection secret.",
        ) from error
    except (ConnectionError, HTTPClientError) as error:
        raise Unavailable(
            "S3Unreachable",
            f"Could not {doing}: the service cannot be reached, or the connection broke.",
            cause=str(error),
            hint="Check s3.endpoint_url and the network.",
        ) from error
    except BotoCoreError as error:
        raise Internal("S3ProtocolError", f"Could not {doing}.", cause=str(error)) from error


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


_PROXY_HINT: Final = "If this lasts, check s3.endpoint_url and any proxy in between."
_HEAD_CODES: Final = {404: "NoSuchKey", 403: "AccessDenied", 412: "PreconditionFailed"}
"""Codes of answers to HEAD, which have no body."""


def _client_error(error: ClientError, doing: str) -> CleanRoomError:
    answer: Any = error.response
    reading = error.operation_name in ("GetObject", "HeadObject")
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    status, cause = _status(error), str(error)
    code = str(answer.get("Error", {}).get("Code", ""))
    # Without a body that is an error of S3, botocore reports the status as code, or no code.
    bare = not code or code.isdigit()
    if bare and error.operation_name.startswith("Head") and "html" not in headers.get("content-type", ""):
        code = _HEAD_CODES.get(status, "")
        bare = not code
    if known := S3_CODES.get(_refined_code(code, answer)):
        return storage_error(known, code, doing, cause, _details(headers))
    if code.startswith("KMS."):
        return storage_error(KMS_CODE, code, doing, cause)
    if 300 <= status < 400:
        region = headers.get("x-amz-bucket-region")
        return Refused(
            "RedirectRefused",
            f"Could not {doing}: the bucket is in another region, and redirects are not followed.",
            cause=cause,
            hint=f"Set s3.region to {region}." if region else "Set the bucket's region in s3.region.",
        )
    if status in (408, 429) or (status >= 500 and status != 501):
        return Unavailable(
            f"Http{status}" if bare else code, f"Could not {doing}: the service is busy or failed.", cause=cause, details=_details(headers)
        )
    if bare:
        return _unexpected_answer(doing, f"HTTP {status} without an error of S3. {cause}")
    if status == 412:
        if reading:
            return object_changed(doing.partition(" ")[2], cause)
        return Conflict("ObjectExists", f"Could not {doing}: it already exists.", cause=cause)
    if status in (401, 403):
        message = f"Could not {doing}: the service denies the request."
        return PreconditionFailed(code, message, cause=cause, hint="Check the bucket's policy.")
    if status == 404:
        return NotFound(code, f"Could not {doing}: it does not exist.", cause=cause)
    if status == 409:
        return Conflict(code, f"Could not {doing}: it conflicts with the present state.", cause=cause)
    return InvalidInput(code, f"Could not {doing}: the service rejected the request.", cause=cause)


def _refined_code(code: str, answer: Any) -> str:
    """Return ``CustomerKeyNeeded`` for an ``InvalidRequest`` about a customer-provided key, else the code."""
    message = str(answer.get("Error", {}).get("Message", ""))
    return "CustomerKeyNeeded" if code == "InvalidRequest" and "Server Side Encryption" in message else code


def _details(headers: dict[str, str]) -> dict[str, Any]:
    wait = retry_after_seconds(headers.get("retry-after"))
    return {} if wait is None else {"retryAfter": wait}
