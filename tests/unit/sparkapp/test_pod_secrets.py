"""Which secrets a pod's process reads again, and which words in a consent receipt let a run continue."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, NotFound, Refused
from cleanroom.secret import Secret
from cleanroom.spark.tombstone import new_tombstone
from sparkapp import identity
from sparkapp.consent import require_consent
from sparkapp.pod import Pod
from tests.unit.spark_support import make_job

JOB = make_job(consentSecretId="cleanroom_run-1.consent")
NOW = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


class Governance:
    """Answers with another value at each read."""

    reads: list[str] = []
    value: Secret | None = None
    errors: list[CleanRoomError] = []
    """Errors of the next reads, last one first."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    async def get_secret(self, secret_id: str) -> Secret:
        self.reads.append(secret_id)
        if self.errors:
            raise self.errors.pop()
        return self.value or Secret(f"value {len(self.reads)}".encode())


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> identity.AttestedPod:
    monkeypatch.setattr(identity, "CleanRoomClient", Governance)
    monkeypatch.setattr(identity, "_CURRENT", None)
    monkeypatch.setattr(identity, "job_from_environment", lambda: JOB)
    monkeypatch.setattr(Governance, "reads", [])
    monkeypatch.setattr(Governance, "value", None)
    return identity.AttestedPod()


def test_a_secret_is_read_once_per_process(pod: identity.AttestedPod) -> None:
    assert [pod.secret("a").reveal() for _ in range(2)] == [b"value 1", b"value 1"]
    assert pod.secret("b").reveal() == b"value 2"
    assert Governance.reads == ["a", "b"]


def test_a_fresh_secret_is_read_again_each_time_and_never_from_the_cache(pod: identity.AttestedPod) -> None:
    assert [pod.secret("a", fresh=fresh).reveal() for fresh in (False, True, True)] == [b"value 1", b"value 2", b"value 3"]
    assert pod.secret("a").reveal() == b"value 1"


def test_a_tombstone_is_not_cached_as_a_secret(pod: identity.AttestedPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Governance, "value", new_tombstone())
    with pytest.raises(CleanRoomError) as caught:
        pod.secret("a")
    assert caught.value.code == "SecretRevoked"
    monkeypatch.setattr(Governance, "value", None)
    assert pod.secret("a").reveal() == b"value 2"


@pytest.mark.parametrize("error", [Refused("VerifySnpAttestationFailed", "no"), NotFound("SecretNotFound", "no")], ids=str)
def test_a_grant_that_a_node_does_not_show_yet_is_awaited(
    pod: identity.AttestedPod, error: CleanRoomError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Governance, "errors", [error])
    assert pod.secret("a").reveal() == b"value 2"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(Refused("VerifySnpAttestationFailed", "no"), 0.0), (Refused("SignatureMismatch", "no"), identity.LAG_SECONDS)],
    ids=["of a process that runs for long", "another refusal"],
)
def test_a_refusal_that_is_final_is_not_repeated(
    pod: identity.AttestedPod, error: CleanRoomError, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Governance, "errors", [error])
    monkeypatch.setattr(identity, "LAG_SECONDS", seconds)
    with pytest.raises(Refused):
        pod.secret("a")
    assert Governance.reads == ["a"]


class Receipts:
    """A pod that notes how the consent receipt is read."""

    def __init__(self, consent: str) -> None:
        self.fresh: list[bool] = []
        expires = (NOW + dt.timedelta(seconds=60)).isoformat()
        members = {"runId": JOB.run_id, "queryDigest": JOB.query_digest, "jobDigest": JOB.digest(), "consent": consent, "expires": expires}
        self._value = Secret(json.dumps(members).encode())

    def job(self) -> Any:
        return JOB

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        assert secret_id == JOB.consent_secret_id
        self.fresh.append(fresh)
        return self._value


def consent_code(word: str) -> tuple[str, list[bool]]:
    receipts = Receipts(word)
    pod: Pod = receipts  # type: ignore[assignment]
    try:
        require_consent(pod, before="a test", now=NOW)
    except CleanRoomError as error:
        return error.code, receipts.fresh
    return "continues", receipts.fresh


def test_the_receipt_is_read_fresh() -> None:
    assert consent_code("enabled") == ("continues", [True])


@pytest.mark.parametrize("word", ["withdrawn", "disabled", "Enabled", "ENABLED", "enabled ", "enable", "unknown", "", "true"])
def test_every_other_word_than_enabled_stops_the_run(word: str) -> None:
    assert consent_code(word)[0] == "ConsentWithdrawn"
