"""The pod's identity: attestation to governance, the secrets that governance releases, and the stores that they open.

The driver and every Python worker of every executor create their own :class:`_ProcessIdentity` on first use and
never pickle it. Each process attests itself, so a key exists only in the memory of processes that governance has
verified.

The address of governance, its TLS roots, the secret IDs and the storage hosts come from the measured job. The address
of the attestation sidecar, which the pod's policy measures, is a constant. Only on development machines does the
policy allow the environment to name another address of the same machine (:mod:`cleanroom.spark.policy`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cleanroom.attestation import GuestAttestor
from cleanroom.clients.azure_credentials import PUBLIC_AUTHORITIES, Credential, federated_credential
from cleanroom.clients.blob import BlobStore
from cleanroom.clients.objects import ObjectStore
from cleanroom.clients.s3 import S3Credentials, S3Store
from cleanroom.clients.urls import check_storage_url
from cleanroom.datasets.encryption import decode_dataset_key
from cleanroom.errors import CleanRoomError, Internal
from cleanroom.governance import CleanRoomClient
from cleanroom.secret import Secret
from cleanroom.spark.job import BlobAccess, JobConfig, JobDataset, S3Access
from cleanroom.spark.tombstone import require_secret
from cleanroom.transport import pem_file
from sparkapp.config import job_from_environment
from sparkapp.failures import retry_transient
from sparkapp.listing import key_secret_id

ATTESTATION_URL_VARIABLE = "CLEANROOM_ATTESTATION_URL"
DEFAULT_ATTESTATION_URL = "http://localhost:8284"
STORAGE_SCOPE = "https://storage.azure.com/.default"

GOVERNANCE_SECONDS = 300.0
"""How long to retry an unavailable governance. The recovery of a CCF network takes minutes."""
NOT_YET = frozenset({"VerifySnpAttestationFailed", "SecretNotFound"})
"""What a node of governance answers that does not have the run's grants and secrets yet."""
LAG_SECONDS = 5.0
"""How long after its start a process retries these answers. Governance's nodes follow each other within about a second."""
FEDERATION_SECONDS = 120.0
"""How long to retry signing in. Entra ID needs up to minutes to propagate a new federated credential."""

T = TypeVar("T")


@dataclass(frozen=True)
class AttestedPod:
    """The :class:`sparkapp.pod.Pod` of a real pod. It has no state, so pickling it into a Spark task transfers no secret."""

    def job(self) -> JobConfig:
        """See :meth:`sparkapp.pod.Pod.job`."""
        return _process().job

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        """See :meth:`sparkapp.pod.Pod.secret`."""
        return _process().secret(secret_id, fresh=fresh)

    def store(self, dataset: JobDataset) -> ObjectStore:
        """See :meth:`sparkapp.pod.Pod.store`."""
        return _process().store(dataset)

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        """See :meth:`sparkapp.pod.Pod.record`."""
        _process().record(event_id, event)


_CURRENT: _ProcessIdentity | None = None
_LOCK = threading.Lock()


def _process() -> _ProcessIdentity:
    global _CURRENT
    with _LOCK:
        # Spark forks its Python workers. A child must not use its parent's threads, connections and keys.
        if _CURRENT is None or _CURRENT.pid != os.getpid():
            _CURRENT = _ProcessIdentity()
        return _CURRENT


class _ProcessIdentity:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self._started = time.monotonic()
        self.job = job_from_environment()
        self._ca_file = _roots(self.job.governance.ca_pem)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="governance", daemon=True).start()
        url = os.environ.get(ATTESTATION_URL_VARIABLE) or DEFAULT_ATTESTATION_URL
        attestor = GuestAttestor(url, ca_file=self._ca_file)
        self._governance = CleanRoomClient(self.job.governance.url, self.job.contract_id, attestor, ca_file=self._ca_file)
        self._secrets: dict[str, Secret] = {}
        self._stores: dict[str, ObjectStore] = {}
        self._lock = threading.RLock()

    def secret(self, secret_id: str, *, fresh: bool) -> Secret:
        with self._lock:
            if fresh or secret_id not in self._secrets:
                value = self._call_governance(lambda: self._governance.get_secret(secret_id))
                if fresh:
                    return value
                self._secrets[secret_id] = require_secret(value, secret_id)
            return self._secrets[secret_id]

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        self._call_governance(lambda: self._governance.put_event(event, event_id=event_id, scope=self.job.event_scope))

    def store(self, dataset: JobDataset) -> ObjectStore:
        with self._lock:
            if dataset.name not in self._stores:
                self._stores[dataset.name] = self._open_store(dataset)
            return self._stores[dataset.name]

    def _open_store(self, dataset: JobDataset) -> ObjectStore:
        access, hosts = dataset.access, self.job.governance.storage_hosts
        customer_key = None
        if dataset.encryption == "CPK":
            customer_key = decode_dataset_key(self.secret(key_secret_id(dataset), fresh=False))
        if isinstance(access, BlobAccess):
            account = check_storage_url(access.account_url, "azure-blob", declared=hosts, field=f"{dataset.name}.accountUrl")
            credential = self._credential(access)
            return BlobStore(
                account,
                access.container,
                credential,
                prefix=access.prefix,
                ca_file=self._roots_for(account.declared),
                customer_key=customer_key,
            )
        endpoint = None
        if access.endpoint_url is not None:
            endpoint = check_storage_url(access.endpoint_url, "s3", declared=hosts, field=f"{dataset.name}.endpointUrl")
        return S3Store(
            access.bucket,
            region=access.region,
            endpoint=endpoint,
            credentials=self._s3_credentials(access),
            prefix=access.prefix,
            ca_file=self._roots_for(endpoint is not None and endpoint.declared),
            customer_key=customer_key,
        )

    def _s3_credentials(self, access: S3Access) -> S3Credentials:
        return S3Credentials.parse(self.secret(access.connection_secret_id, fresh=False))

    def _credential(self, access: BlobAccess) -> Credential:
        def assertion() -> str:
            token = self._call_governance(lambda: self._governance.token(access.subject, access.tenant_id, issuer=access.issuer_url))
            return token.reveal_text()

        roots = self._roots_for(access.authority.rstrip("/") not in PUBLIC_AUTHORITIES)
        credential = federated_credential(access.tenant_id, access.client_id, assertion, authority=access.authority, ca_file=roots)
        # Sign in now rather than in the first storage call, so that only this call waits for propagation.
        retry_transient(FEDERATION_SECONDS, lambda: credential.get_token(STORAGE_SCOPE))
        return credential

    def _roots_for(self, declared: bool) -> Path | None:
        """Return the job's roots for declared hosts (private stores, emulators), and None (the system's roots) for public clouds."""
        return self._ca_file if declared else None

    def _call_governance(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def call() -> T:
            try:
                return asyncio.run_coroutine_threadsafe(make(), self._loop).result()
            except CleanRoomError as error:
                if error.code in NOT_YET and time.monotonic() - self._started < LAG_SECONDS:
                    error.retryable = True
                raise

        return retry_transient(GOVERNANCE_SECONDS, call)


def _roots(pem: str) -> Path | None:
    if not pem:
        return None
    if "BEGIN CERTIFICATE" not in pem:
        raise Internal("JobRootsMalformed", "job: governance.caPem contains no certificate.")
    return pem_file(pem)
