"""Which consent receipts and network secrets a pod accepts."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import pytest

from cleanroom.datasets.encryption import decode_dataset_key
from cleanroom.errors import CleanRoomError
from cleanroom.secret import Secret
from cleanroom.spark.consent_receipt import CLOCK_SECONDS, RECEIPT_SECONDS, enabled_receipt, withdrawn_receipt
from cleanroom.spark.job import JobConfig
from cleanroom.spark.network import new_network_secret
from cleanroom.spark.tombstone import new_tombstone
from sparkapp.consent import require_consent
from sparkapp.launch import network_secret_file
from tests.unit.spark_support import make_job

NOW = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
JOB = make_job(consentSecretId="cleanroom_run-1.consent", networkSecretId="cleanroom_run-1.network")


@dataclass(frozen=True)
class Pod:
    """A pod that gets ``value`` for every secret."""

    value: Secret

    def job(self) -> JobConfig:
        return JOB

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        return self.value


def code_of(value: Secret, now: dt.datetime = NOW) -> str:
    pod: Any = Pod(value)
    try:
        require_consent(pod, before="a test", now=now)
    except CleanRoomError as error:
        return error.code
    return "accepted"


def receipt(**changes: Any) -> Secret:
    members = {
        "runId": "run-1",
        "queryDigest": JOB.query_digest,
        "jobDigest": JOB.digest(),
        "consent": "enabled",
        "expires": (NOW + dt.timedelta(seconds=60)).isoformat(),
    }
    return Secret(json.dumps(members | changes).encode())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (receipt(), "accepted"),
        (receipt(expires=(NOW + dt.timedelta(seconds=RECEIPT_SECONDS + CLOCK_SECONDS)).isoformat()), "accepted"),
        (receipt(expires=(NOW + dt.timedelta(seconds=RECEIPT_SECONDS + CLOCK_SECONDS + 1)).isoformat()), "ConsentReceiptInvalid"),
        (receipt(expires="2121-01-01T00:00:00Z"), "ConsentReceiptInvalid"),
        (receipt(expires=NOW.isoformat()), "ConsentWithdrawn"),
        (receipt(jobDigest="ab" * 32), "ConsentReceiptInvalid"),
        (receipt(jobDigest=None), "ConsentReceiptInvalid"),
        (receipt(queryDigest="ab" * 32), "ConsentReceiptInvalid"),
        (receipt(runId="run-2"), "ConsentReceiptInvalid"),
        (receipt(consent="withdrawn"), "ConsentWithdrawn"),
        (receipt(consent="ENABLED"), "ConsentWithdrawn"),
        (receipt(consent=""), "ConsentWithdrawn"),
        (receipt(consent=True), "ConsentReceiptInvalid"),
        (receipt(expires="soon"), "ConsentReceiptInvalid"),
        (new_tombstone(), "ConsentWithdrawn"),
        (Secret(b"revoked"), "ConsentWithdrawn"),
        (Secret(b""), "ConsentReceiptInvalid"),
    ],
)
def test_pod_accepts_only_a_receipt_of_its_job_with_the_constant_lifetime(value: Secret, code: str) -> None:
    assert code_of(value) == code


def test_receipt_that_a_user_can_write_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    job = JOB.model_copy(update={"consent_secret_id": "u-1_run-1.consent"})
    monkeypatch.setattr(Pod, "job", lambda pod: job)
    monkeypatch.setattr(Pod, "secret", lambda pod, secret_id, fresh: pytest.fail("it was read"))
    assert code_of(receipt(jobDigest=job.digest())) == "ConsentReceiptInvalid"


def test_receipt_of_the_clean_room_is_accepted_until_it_expires() -> None:
    genuine = enabled_receipt(JOB, verified_at=NOW, authorised_until=NOW + dt.timedelta(days=1)).to_secret()
    assert code_of(genuine) == "accepted"
    assert code_of(genuine, NOW + dt.timedelta(seconds=RECEIPT_SECONDS)) == "ConsentWithdrawn"
    assert code_of(enabled_receipt(JOB, verified_at=NOW, authorised_until=NOW).to_secret()) == "ConsentWithdrawn"
    assert code_of(withdrawn_receipt(JOB, NOW).to_secret()) == "ConsentWithdrawn"


def test_receipt_is_compared_with_the_pods_clock() -> None:
    def expiring_in(seconds: int) -> Any:
        return Pod(receipt(expires=(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()))

    require_consent(expiring_in(60), before="a test")
    with pytest.raises(CleanRoomError, match="ConsentWithdrawn"):
        require_consent(expiring_in(-60), before="a test")


@pytest.mark.parametrize("value", [new_tombstone(), Secret(b"revoked"), Secret(b""), Secret(b"short")], ids=["new", "old", "empty", "x"])
def test_tombstone_is_no_network_secret_and_no_key(value: Secret) -> None:
    pod: Any = Pod(value)
    with pytest.raises(CleanRoomError) as caught:
        network_secret_file(JOB, pod)
    assert caught.value.code in ("SecretRevoked", "NetworkSecretInvalid")
    with pytest.raises(CleanRoomError):
        decode_dataset_key(value)


def test_network_secret_of_the_clean_room_is_accepted() -> None:
    secret = new_network_secret()
    pod: Any = Pod(secret)
    assert network_secret_file(JOB, pod).read_bytes() == secret.reveal()
