"""Every client before one server that breaks, or that is not the service: a named error that is retried."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError

from cleanroom.attestation import GuestAttestor
from cleanroom.clients.azure import ARM_SCOPE, ManagedIdentities, RoleAssignments, credential, federated_credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import BLOCK_BYTES
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.errors import CleanRoomError
from cleanroom.governance import GovernanceUserClient
from cleanroom.keys.maa import MaaClient
from cleanroom.keys.vault import KeyVaultSettings, convert_error, convert_malformed_responses
from cleanroom.secret import Secret, write_secret_file
from cleanroom.settings import AzureSettings, CredentialSettings
from cleanroom.spark.kubernetes import KubernetesClient
from localcloud.tls import LocalAuthority
from tests.hostile_server import NO_TLS, RESET, HostileServer, hostile_server, http_response

PAGE = b"<html><body>The web filter blocked this page.</body></html>"
FAULTS = {
    "the connection is reset": RESET,
    "TLS fails": NO_TLS,
    "the connection is closed": b"",
    "the body breaks off": http_response("200 OK", b'{"a":1', length=1000, etag='"e"'),
    "the range breaks off": http_response("206 Partial Content", b"abcd", length=10, etag='"e"', content_range="bytes 0-9/10"),
    "the answer is not HTTP": b"garbage\r\n\r\n",
    "the body is empty": http_response("200 OK"),
    "a page with status 200": http_response("200 OK", PAGE, content_type="text/html"),
    "a page with status 400": http_response("400 Bad Request", PAGE, content_type="text/html; charset=utf-8"),
    "a page with status 403": http_response("403 Forbidden", PAGE, content_type="text/html"),
    "a page with status 404": http_response("404 Not Found", PAGE, content_type="text/html"),
    "a page with status 407": http_response("407 Proxy Authentication Required", PAGE, content_type="text/html"),
    "a page with status 502": http_response("502 Bad Gateway", PAGE, content_type="text/html"),
    "a page with the wrong content type": http_response("200 OK", PAGE),
    "500": http_response("500 Internal Server Error", b'{"error":{"code":"InternalError","message":"m"}}'),
    "429": http_response("429 Too Many Requests", b'{"error":{"code":"Throttled","message":"m"}}', retry_after="120"),
    "503": http_response("503 Service Unavailable", b"", retry_after="120"),
}
RANGES = ("S3 range", "blob range", "blob whole")
"""Calls that request a range, so that a whole body is another fault."""


class Token:
    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("token", int(time.time()) + 3600)


@dataclass(frozen=True)
class World:
    """The server with TLS, and the one without, which stands in for the attestation sidecar."""

    tls: HostileServer
    plain: HostileServer
    calls: dict[str, Callable[[], object]]


@pytest.fixture(scope="module")
def world(local_authority: LocalAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with hostile_server(local_authority.issue("hostile")) as tls, hostile_server(None) as plain:
        folder = tmp_path_factory.mktemp("hostile")
        calls = _service_calls(tls.url, plain.url, local_authority.ca_file, folder) | _store_calls(tls.url, local_authority.ca_file)
        yield World(tls, plain, calls)


def _service_calls(url: str, sidecar: str, ca_file: Path, folder: Path) -> dict[str, Callable[[], object]]:
    anyone = str(uuid.UUID(int=1))
    write_secret_file(folder / "secret", b"secret")
    settings = CredentialSettings(
        kind="client-secret",
        tenant_id=anyone,
        client_id=anyone,
        client_secret_file=folder / "secret",
        authority=url,
        disable_instance_discovery=True,
    )
    azure = AzureSettings(subscription_id=anyone, resource_group="g", location="westeurope", arm_url=url)
    vault = KeyVaultSettings(vault_url=url, ca_file=ca_file, verify_challenge_resource=False)
    cluster = kubernetes.client.Configuration()
    cluster.host, cluster.ssl_ca_cert, cluster.retries = url, str(ca_file), False
    spark = KubernetesClient(kubernetes.client.ApiClient(cluster), "default")
    maa = MaaClient(url, ca_file)

    def key() -> object:
        with vault.client(Token()) as client:
            try:
                with convert_malformed_responses("get key"):
                    return client.get_key("kek").name
            except AzureError as error:
                raise convert_error(error, "get key") from error

    async def document() -> object:
        async with GovernanceUserClient(url, token=lambda: "token", ca_file=ca_file) as client:
            return await client.get_document("d")

    async def documents() -> object:
        async with GovernanceUserClient(url, token=lambda: "token", ca_file=ca_file) as client:
            return await client.list_documents()

    return {
        "governance document": lambda: asyncio.run(document()),
        "governance list": lambda: asyncio.run(documents()),
        "attestation authority": lambda: asyncio.run(maa.signing_keys()),
        "attestation sidecar": lambda: asyncio.run(GuestAttestor(sidecar).attest(b"{}")),
        "Key Vault": key,
        "Entra ID by secret": lambda: credential(settings, ca_file=ca_file).get_token(ARM_SCOPE),
        "Entra ID by assertion": lambda: federated_credential(anyone, anyone, lambda: "a.b.c", authority=url, ca_file=ca_file).get_token(
            ARM_SCOPE
        ),
        "ARM identity": lambda: ManagedIdentities(Token(), azure, ca_file=ca_file).get("i"),  # type: ignore[arg-type]
        "ARM role": lambda: RoleAssignments(Token(), azure, ca_file=ca_file).allow(  # type: ignore[arg-type]
            f"/subscriptions/{anyone}", "Storage Blob Data Reader", anyone
        ),
        "Kubernetes version": spark.version,
        "Kubernetes application": lambda: spark.get("a"),
        "Kubernetes applications": spark.applications,
        "Kubernetes pods": lambda: spark.pods("a"),
        "Kubernetes events": lambda: spark.events("a", []),
    }


def _store_calls(url: str, ca_file: Path) -> dict[str, Callable[[], object]]:
    host = [url.removeprefix("https://")]
    blob = BlobStore(check_storage_url(f"{url}/account", "azure-blob", declared=host), "c", Token(), ca_file=ca_file)
    keys = S3Credentials(Secret(b"a"), Secret(b"b"))
    s3 = S3Store("b", region="eu-west-1", endpoint=check_storage_url(url, "s3", declared=host), credentials=keys, ca_file=ca_file)
    calls: dict[str, Callable[[], object]] = {"blob container": blob.create_container, "S3 check": s3.check, "S3 bucket": s3.create_bucket}
    for name, store in (("blob", blob), ("S3", s3)):
        calls |= {
            f"{name} list": lambda store=store: list(store.list()),
            f"{name} size": lambda store=store: store.size("k"),
            f"{name} exists": lambda store=store: store.exists("k"),
            f"{name} range": lambda store=store: store.read_range("k", 0, 10),
            f"{name} whole": lambda store=store: store.read("k"),
            f"{name} write": lambda store=store: store.put("k", b"rows"),
            f"{name} delete": lambda store=store: store.delete("k"),
        }
    return calls | {"S3 write in parts": lambda: s3.put("k", bytes(BLOCK_BYTES + 1))}


SERVICES = [
    *("governance document", "governance list", "attestation authority", "attestation sidecar", "Key Vault"),
    *("Entra ID by secret", "Entra ID by assertion", "ARM identity", "ARM role"),
    *("Kubernetes version", "Kubernetes application", "Kubernetes applications", "Kubernetes pods", "Kubernetes events"),
    *("blob container", "S3 check", "S3 bucket", "S3 write in parts"),
    *(f"{name} {what}" for name in ("blob", "S3") for what in ("list", "size", "exists", "range", "whole", "write", "delete")),
]
NOTHING_TO_READ = ("S3 delete", "blob delete", "S3 bucket", "blob container")
"""Calls whose success has no body and no members, so that only its status tells."""


@pytest.mark.parametrize("service", SERVICES)
def test_a_broken_or_foreign_answer_is_a_named_retryable_error(
    world: World, service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    wrong: dict[str, str] = {}
    for fault, answer in FAULTS.items():
        if fault.endswith("breaks off") and (service in RANGES) != fault.startswith("the range"):
            continue
        if service.split()[-1] in ("size", "exists") and fault == "the body breaks off":
            continue  # an answer to HEAD has no body
        if service in NOTHING_TO_READ and answer.startswith(b"HTTP/1.1 200"):
            continue
        world.tls.answer = world.plain.answer = answer
        try:
            found = f"no error: {world.calls[service]()!r:.80}"
        except CleanRoomError as error:
            # MSAL, which fetches the metadata for a client secret, drops the header.
            waits = fault not in ("429", "503") or service == "Entra ID by secret" or error.details.get("retryAfter") == 120
            named = error.code.isalnum() and not error.code.isdigit() and error.code not in ("Unknown", "None")
            if error.retryable and named and waits and error.category in ("unavailable", "internal"):
                continue
            found = f"{type(error).__name__} {error.code} retryable={error.retryable} details={error.details}"
        except Exception as error:
            found = f"untyped {type(error).__name__}: {error}"
        wrong[fault] = found
    assert wrong == {}
    # An SDK that sleeps for as long as any server wants holds its thread and its heartbeat.
    assert max(slept, default=0) < 10


def test_every_client_is_in_the_table(world: World) -> None:
    assert set(SERVICES) == set(world.calls)
