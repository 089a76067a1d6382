"""The Spark service hands its attestor, its cluster and its watch exactly what its caller gave."""

from __future__ import annotations

from typing import Any

import pytest

import cleanroom.spark.service as module
from cleanroom.attestation import AttestationEvidence
from cleanroom.errors import CleanRoomError
from cleanroom.settings import Settings
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.service import SparkService
from cleanroom.spark.signed import PolicySigner

NONCE = "n" * 43
EVIDENCE = AttestationEvidence.of(b"report", b"chain")


class Attestor:
    def __init__(self) -> None:
        self.attested: list[bytes] = []

    async def attest(self, runtime_data: bytes) -> AttestationEvidence:
        self.attested.append(runtime_data)
        return EVIDENCE


class Cluster:
    """Records the calls of the Kubernetes client."""

    def __init__(self, pod: str | None = "d", log: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._pod, self._log = pod, log

    def close(self) -> None:
        self.calls.append(("close",))

    def status(self, tracking_id: str) -> Any:
        self.calls.append(("status", tracking_id))
        return type("Status", (), {"driver_pod": self._pod})

    def logs(self, pod: str, *, tail: int = 0) -> str:
        self.calls.append(("logs", pod, tail))
        return self._log

    def delete(self, tracking_id: str, *, uid: str | None = "not given", seconds: float = -1) -> bool:
        self.calls.append(("delete", tracking_id, uid, seconds))
        return True


def service_of(cluster: Cluster, attestor: Any = None, **options: Any) -> SparkService:
    client: Any = cluster
    return SparkService(attestor, client, **options)


async def test_report_binds_the_key_of_this_process_and_the_nonce() -> None:
    attestor, signer = Attestor(), PolicySigner()
    report = await service_of(Cluster(), attestor, signer=signer).attestation_report(NONCE)
    assert (report.evidence, report.payload) == (EVIDENCE, signer.payload(NONCE))
    assert attestor.attested == [report.payload.encode()]
    own = [await service_of(Cluster(), attestor).attestation_report(NONCE) for _ in range(2)]
    assert len({each.payload for each in (report, *own)}) == 3


async def test_short_nonce_is_not_attested() -> None:
    attestor = Attestor()
    with pytest.raises(CleanRoomError, match="NonceTooShort"):
        await service_of(Cluster(), attestor).attestation_report("short")
    assert attestor.attested == []


async def test_deletion_leaves_another_object_alone_and_has_a_time_limit() -> None:
    cluster = Cluster()
    service = service_of(cluster)
    assert await service.delete("cr-1", uid="u1", seconds=5)
    assert await service.delete("cr-1")
    assert cluster.calls == [("delete", "cr-1", "u1", 5), ("delete", "cr-1", None, 60)]


async def test_end_of_the_service_closes_the_cluster() -> None:
    cluster = Cluster()
    async with service_of(cluster):
        assert cluster.calls == []
    assert cluster.calls == [("close",)]


async def test_log_cannot_control_a_terminal() -> None:
    text = "a\tb\nc\x1b[31m\r\x00\u202a\u202b\u202e\u2066é\u2070"
    cluster = Cluster(log=text)
    assert await service_of(cluster).logs("cr-1", tail=7) == "a\tb\nc[31mé\u2070"
    assert cluster.calls == [("status", "cr-1"), ("logs", "d", 7)]


async def test_log_of_an_application_without_a_driver_is_not_found() -> None:
    cluster = Cluster(pod=None)
    with pytest.raises(CleanRoomError) as caught:
        await service_of(cluster).logs("cr-1")
    assert caught.value.code == "DriverPodNotFound"
    assert cluster.calls == [("status", "cr-1")]


async def test_watch_has_the_callers_limits_object_and_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Watch:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append((arguments, options))

        async def run(self) -> str:
            return "outcome"

    monkeypatch.setattr(module, "ApplicationWatch", Watch)
    cluster, limits = Cluster(), Deadlines(driver_start_seconds=1, run_seconds=2)

    def progress(status: Any) -> None:
        pass

    service: Any = service_of(cluster, beat_seconds=3)
    assert await service.watch("cr-1", progress, limits, uid="u1") == "outcome"
    assert await service.watch("cr-1", progress) == "outcome"
    assert made == [
        ((cluster, "cr-1", progress, limits), {"uid": "u1", "beat_seconds": 3}),
        ((cluster, "cr-1", progress, Deadlines()), {"uid": None, "beat_seconds": 3}),
    ]


def test_deployed_service_uses_the_sidecar_and_cluster_of_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    made: list[Any] = []

    class Client(Cluster):
        @staticmethod
        def connect(settings: Any) -> str:
            made.append(settings)
            return "cluster"

    monkeypatch.setattr(module, "KubernetesClient", Client)
    monkeypatch.setattr(module, "GuestAttestor", lambda *arguments, **options: made.append((arguments, options)))
    settings = Settings.model_validate({"attestation": {"url": "https://localhost:1"}, "ca_file": str(tmp_path / "ca.pem")})
    SparkService.from_settings(settings)
    assert made == [(("https://localhost:1",), {"ca_file": tmp_path / "ca.pem"}), settings.kubernetes]
