"""A pod's identity: what it asks governance for, which stores it opens with which keys and roots, and what it never reuses."""

from __future__ import annotations

import json
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cleanroom.datasets.encryption import encode_dataset_key, generate_dataset_key
from cleanroom.errors import CleanRoomError, Refused, Unavailable
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig, JobDataset
from cleanroom.spark.tombstone import new_tombstone
from sparkapp import identity
from tests.unit.spark_support import make_job

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = generate_dataset_key()
BLOB = {
    "kind": "azure-blob",
    "accountUrl": "https://orders.blob.core.windows.net/",
    "container": "rows",
    "prefix": "2013/",
    "authority": "https://login.microsoftonline.com/",
    "tenantId": "tenant",
    "clientId": "client",
    "subject": "subject",
    "issuerUrl": "https://issuer.example",
}


class Governance:
    """A governance client that notes its calls. ``failures`` are raised by the next calls, one each."""

    made: list[tuple[tuple[Any, ...], dict[str, Any]]]
    calls: list[tuple[Any, ...]]
    failures: list[Exception]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.made.append((arguments, options))

    async def get_secret(self, secret_id: str) -> Secret:
        self._note("get_secret", secret_id)
        if secret_id == "s1":
            return Secret(json.dumps({"awsAccessKeyId": "a", "awsSecretAccessKey": "b"}).encode())
        return encode_dataset_key(KEY)

    async def token(self, subject: str, tenant: str, *, issuer: str) -> Secret:
        self._note("token", subject, tenant, issuer)
        return Secret(b"assertion")

    async def put_event(self, event: dict[str, Any], *, event_id: str, scope: str) -> None:
        self._note("put_event", event, event_id, scope)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.failures:
            raise self.failures.pop(0)


class Noted:
    """Stands for a store, an attestor or a credential: keeps the arguments of its construction."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


class Login:
    """A federated credential that signs in with its assertion."""

    made: list[Login]

    def __init__(self, tenant_id: str, client_id: str, assertion: Any, *, authority: str, ca_file: Path | None) -> None:
        self.named, self.authority, self.ca_file, self.assertion = (tenant_id, client_id), authority, ca_file, assertion
        self.scopes: list[tuple[str, str]] = []
        self.made.append(self)

    def get_token(self, scope: str) -> None:
        self.scopes.append((scope, self.assertion()))


@pytest.fixture(autouse=True)
def _services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("made", "calls", "failures"):
        monkeypatch.setattr(Governance, name, [], raising=False)
    monkeypatch.setattr(Login, "made", [], raising=False)
    monkeypatch.setattr(identity, "CleanRoomClient", Governance)
    monkeypatch.setattr(identity, "federated_credential", Login)
    for name in ("GuestAttestor", "BlobStore", "S3Store"):
        monkeypatch.setattr(identity, name, type(name, (Noted,), {}))
    monkeypatch.setattr(identity, "_CURRENT", None)
    monkeypatch.delenv(identity.ATTESTATION_URL_VARIABLE, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def pod_of(monkeypatch: pytest.MonkeyPatch, *, ca_pem: str = PEM, hosts: tuple[str, ...] = (), **dataset: Any) -> identity.AttestedPod:
    base = json.loads(make_job().model_dump_json(by_alias=True))["datasets"][0]
    values = {"url": "https://cgs.example", "caPem": ca_pem, "storageHosts": hosts}
    job = make_job(datasets=[base | dataset], governance=values, eventScope="scope-1")
    monkeypatch.setenv("JOB_CONFIG", job.encode())
    return identity.AttestedPod()


def dataset_of(pod: identity.AttestedPod) -> JobDataset:
    return pod.job().datasets[0]


def test_governance_is_reached_by_the_measured_job_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch)
    assert isinstance(pod.job(), JobConfig)
    ((url, contract, attestor), options) = Governance.made[0]
    assert (url, contract, set(options)) == ("https://cgs.example", "flights", {"ca_file"})
    assert options["ca_file"].read_text() == PEM
    assert options["ca_file"].match("cleanroom-roots-*.pem")
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "governance"] == [True]
    assert stat.S_IMODE(options["ca_file"].stat().st_mode) == 0o600
    assert (attestor.arguments, attestor.options) == (("http://localhost:8284",), {"ca_file": options["ca_file"]})


def test_sidecar_of_a_development_machine_comes_from_the_measured_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(identity.ATTESTATION_URL_VARIABLE, "http://localhost:1/guest")
    pod_of(monkeypatch).job()
    assert Governance.made[0][0][2].arguments == ("http://localhost:1/guest",)


def test_without_roots_the_systems_are_used_and_other_text_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    pod_of(monkeypatch, ca_pem="").job()
    assert Governance.made[0][1] == {"ca_file": None}
    monkeypatch.setattr(identity, "_CURRENT", None)
    with pytest.raises(CleanRoomError, match="JobRootsMalformed"):
        pod_of(monkeypatch, ca_pem="not PEM").job()


def test_process_attests_once_and_a_forked_one_attests_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch)
    for _ in range(2):
        pod.secret("a")
    assert (len(Governance.made), len(Governance.calls)) == (1, 1)
    monkeypatch.setattr(identity.os, "getpid", lambda: -1)
    pod.secret("a")
    assert (len(Governance.made), len(Governance.calls)) == (2, 2)


def test_fresh_secret_fails_while_governance_is_away_although_an_earlier_value_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch)
    pod.secret("consent")
    monkeypatch.setattr(identity, "GOVERNANCE_SECONDS", 0.0)
    Governance.failures += [Unavailable("GovernanceUnavailable", "x")]
    with pytest.raises(CleanRoomError, match="GovernanceUnavailable"):
        pod.secret("consent", fresh=True)


def test_unavailable_governance_is_retried_and_a_denied_request_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch)
    Governance.failures += [Unavailable("GovernanceUnavailable", "x")] * 2
    pod.secret("a")
    assert len(Governance.calls) == 3
    Governance.failures += [Refused("SignatureMismatch", "x")]
    with pytest.raises(CleanRoomError, match="SignatureMismatch"):
        pod.secret("b")
    assert len(Governance.calls) == 4


def test_event_is_written_below_the_jobs_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    pod_of(monkeypatch).record("run-1.x", {"name": "x"})
    assert Governance.calls == [("put_event", {"name": "x"}, "run-1.x", "scope-1")]


# --- stores


@pytest.mark.parametrize(
    ("access", "hosts", "declared"),
    [
        ({"kind": "aws-s3", "region": "eu-west-1", "bucket": "b", "prefix": "p/", "connectionSecretId": "s1"}, (), None),
        (
            {"kind": "aws-s3", "region": "r", "bucket": "b", "endpointUrl": "https://s3.example:9000", "connectionSecretId": "s1"},
            ("s3.example:9000",),
            True,
        ),
        (
            {
                "kind": "aws-s3",
                "region": "r",
                "bucket": "b",
                "endpointUrl": "https://s3.eu-west-1.amazonaws.com",
                "connectionSecretId": "s1",
            },
            (),
            False,
        ),
    ],
)
def test_s3_store_is_opened_with_the_connection_secret(
    monkeypatch: pytest.MonkeyPatch, access: dict[str, Any], hosts: tuple[str, ...], declared: bool | None
) -> None:
    pod = pod_of(monkeypatch, hosts=hosts, access=access)
    store: Any = pod.store(dataset_of(pod))
    assert store.arguments == ("b",)
    endpoint = store.options.pop("endpoint")
    assert (endpoint.url if endpoint else None) == access.get("endpointUrl")
    assert (endpoint.declared if endpoint else None) is declared
    roots = store.options.pop("ca_file")
    assert roots == (Governance.made[0][1]["ca_file"] if declared else None)
    credentials = store.options.pop("credentials")
    assert (credentials.access_key_id.reveal(), credentials.secret_access_key.reveal()) == (b"a", b"b")
    assert store.options == {"region": access["region"], "prefix": access.get("prefix", ""), "customer_key": None}
    assert pod.store(dataset_of(pod)) is store
    assert Governance.calls == [("get_secret", "s1")]


@pytest.mark.parametrize(
    ("changes", "hosts", "url", "own_store", "own_login"),
    [
        ({}, (), "https://orders.blob.core.windows.net", False, False),
        ({"accountUrl": "https://blob.example:10000/devstoreaccount1"}, ("blob.example:10000",), None, True, False),
        ({"authority": "https://login.example"}, (), None, False, True),
    ],
)
def test_blob_store_is_opened_as_the_owners_identity(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], hosts: tuple[str, ...], url: str | None, own_store: bool, own_login: bool
) -> None:
    access = BLOB | changes
    pod = pod_of(monkeypatch, hosts=hosts, access=access)
    store: Any = pod.store(dataset_of(pod))
    account, container, credential = store.arguments
    assert (account.url, container) == (url or access["accountUrl"].rstrip("/"), "rows")
    own = Governance.made[0][1]["ca_file"]
    assert store.options == {"prefix": "2013/", "ca_file": own if own_store else None, "customer_key": None}
    (login,) = Login.made
    assert login is credential
    assert (login.named, login.authority) == (("tenant", "client"), access["authority"])
    assert login.ca_file == (own if own_login else None)
    # The pod signs in at once, with a token that governance issued for exactly this identity.
    assert login.scopes == [("https://storage.azure.com/.default", "assertion")]
    assert Governance.calls == [("token", "subject", "tenant", "https://issuer.example")]


def test_sign_in_waits_for_a_new_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch, access=BLOB)
    attempts: list[str] = []

    def get_token(login: Login, scope: str) -> None:
        attempts.append(scope)
        if len(attempts) < 3:
            raise Unavailable("AADSTS70021", "x")

    monkeypatch.setattr(Login, "get_token", get_token)
    pod.store(dataset_of(pod))
    assert len(attempts) == 3


@pytest.mark.parametrize(
    "access",
    [
        BLOB | {"accountUrl": "https://orders.example"},
        {"kind": "aws-s3", "region": "r", "bucket": "b", "endpointUrl": "https://s3.example", "connectionSecretId": "s1"},
    ],
)
def test_host_that_is_neither_public_nor_declared_gets_no_credential(monkeypatch: pytest.MonkeyPatch, access: dict[str, str]) -> None:
    pod = pod_of(monkeypatch, access=access)
    with pytest.raises(CleanRoomError, match="StorageHostNotAllowed") as caught:
        pod.store(dataset_of(pod))
    assert f"orders.{'accountUrl' if 'accountUrl' in access else 'endpointUrl'}" in caught.value.message
    assert Governance.calls == []


@pytest.mark.parametrize("mode", ["CPK", "SSE"])
def test_overwritten_secret_opens_no_store(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """The customer's key and the connection secret of a closed run are tombstones."""
    pod = pod_of(monkeypatch, encryption=mode, keySecretId="k1")

    async def get_secret(client: Governance, secret_id: str) -> Secret:
        return new_tombstone()

    monkeypatch.setattr(Governance, "get_secret", get_secret)
    with pytest.raises(CleanRoomError, match="SecretRevoked"):
        pod.store(dataset_of(pod))


def test_store_with_customer_keys_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch, encryption="CPK")
    with pytest.raises(CleanRoomError, match="DatasetKeyMissing"):
        pod.store(dataset_of(pod))


def test_waiting_for_governance_and_for_a_new_identity_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", naps.append)
    monkeypatch.setattr("tenacity.time.monotonic", lambda: sum(naps))
    pod = pod_of(monkeypatch, access=BLOB)
    Governance.failures += [Unavailable("GovernanceUnavailable", "x")] * 99
    with pytest.raises(CleanRoomError, match="GovernanceUnavailable"):
        pod.secret("a")
    assert 285 < sum(naps) < 330  # five minutes and at most one pause more
    naps.clear()

    def get_token(login: Login, scope: str) -> None:
        raise Unavailable("AADSTS70021", "x")

    monkeypatch.setattr(Login, "get_token", get_token)
    with pytest.raises(CleanRoomError, match="AADSTS70021"):
        pod.store(dataset_of(pod))
    assert 105 < sum(naps) < 150


@pytest.mark.parametrize(("mode", "given"), [("CPK", True), ("CSE", False), ("SSE", False)])
def test_only_a_store_with_customer_keys_gets_the_dataset_key(monkeypatch: pytest.MonkeyPatch, mode: str, given: bool) -> None:
    pod = pod_of(monkeypatch, encryption=mode, keySecretId="k1")
    store: Any = pod.store(dataset_of(pod))
    key = store.options["customer_key"]
    assert (key == KEY) if given else (key is None)
    assert (("get_secret", "k1") in Governance.calls) is given


def test_each_dataset_has_its_own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = pod_of(monkeypatch)
    first = dataset_of(pod)
    other = pod.store(first.model_copy(update={"name": "prices"}))
    assert pod.store(first) is not other
