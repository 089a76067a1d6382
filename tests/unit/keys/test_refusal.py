"""Why a release was refused: the service's code first, then its words, then the comparison of policy and token."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from cleanroom.errors import Refused
from cleanroom.keys import ReleasePolicy
from cleanroom.keys.refusal import explain_refusal
from tests.unit.keys.conftest import service_answer

KEY = "https://vault.example/keys/kek"
AUTHORITY = "https://maa.example"
NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
POLICY = ReleasePolicy.for_clean_room(AUTHORITY, "ab" * 32)
MET: dict[str, Any] = {
    "iss": AUTHORITY,
    "exp": int(NOW.timestamp()) + 1,
    "x-ms-sevsnpvm-hostdata": "ab" * 32,
    "x-ms-compliance-status": "azure-compliant-uvm",
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-vmpl": 0,
}
UNMET = MET | {"x-ms-sevsnpvm-hostdata": "cd" * 32}
ELSEWHERE = MET | {"iss": "https://other.example"}
EXPIRED = MET | {"exp": int(NOW.timestamp())}
LATE_AND_UNMET = UNMET | {"exp": 0}
CODES = {
    "role": "ForbiddenByRbac",
    "authority": "AttestationNotAccepted",
    "claims": "ReleasePolicyNotMet",
    "key": "KeyDisabled",
    "unknown": "KeyReleaseRefused",
}


def explain(
    claims: dict[str, Any] = MET,
    *,
    inner: str | None = None,
    message: str = "refused",
    policy: ReleasePolicy | None = POLICY,
    source: str = "vault",
) -> Refused:
    error = service_answer(HttpResponseError, 403, "Forbidden", message, inner)
    return explain_refusal(error, key_id=KEY, claims=claims, policy=policy, policy_source=source, at=NOW)


@pytest.mark.parametrize(
    ("inner", "cause"),
    [
        ("ForbiddenByRbac", "role"),
        ("ForbiddenByPolicy", "role"),
        ("KeyDisabled", "key"),
        ("KeyNotYetValid", "key"),
        ("KeyExpired", "key"),
        ("ForbiddenByFirewall", "unknown"),
        ("ForbiddenByConnection", "unknown"),
    ],
)
@pytest.mark.parametrize("claims", [MET, UNMET, EXPIRED, ELSEWHERE])
def test_code_of_the_service_decides_alone(inner: str, cause: str, claims: dict[str, Any]) -> None:
    for message in ("does not meet; cannot be verified; does not have; not authorized", "refused"):
        error = explain(claims, inner=inner, message=message)
        assert (error.details["cause"], error.code) == (cause, CODES[cause])


@pytest.mark.parametrize("inner", [None, "AccessDenied"])
@pytest.mark.parametrize(
    ("message", "claims", "policy", "cause"),
    [
        # The words about the role come before the comparison, because the service checks the role first.
        ("it does not have keys release permission", UNMET, POLICY, "role"),
        ("Caller is not authorized", EXPIRED, POLICY, "role"),
        # The comparison comes before all other words.
        ("refused", EXPIRED, POLICY, "authority"),
        ("refused", LATE_AND_UNMET, POLICY, "authority"),
        ("does not meet", EXPIRED, POLICY, "authority"),
        ("does not meet", ELSEWHERE, POLICY, "authority"),
        ("refused", EXPIRED, None, "authority"),
        ("cannot be verified", UNMET, POLICY, "claims"),
        ("refused", UNMET, POLICY, "claims"),
        # Without a difference, or without a policy, the words are all that is known.
        ("token cannot be verified", MET, POLICY, "authority"),
        ("token cannot be verified", UNMET, None, "authority"),
        ("does not meet key release policy requirements", MET, POLICY, "claims"),
        ("does not meet key release policy requirements", UNMET, None, "claims"),
        ("refused", MET, POLICY, "unknown"),
        ("refused", UNMET, None, "unknown"),
    ],
)
def test_cause_without_a_known_code(
    inner: str | None, message: str, claims: dict[str, Any], policy: ReleasePolicy | None, cause: str
) -> None:
    error = explain(claims, inner=inner, message=message, policy=policy)
    assert (error.details["cause"], error.code, error.cause) == (cause, CODES[cause], message)


@pytest.mark.parametrize(
    ("exp", "expired"),
    [(NOW.timestamp(), True), (int(NOW.timestamp()) - 1, True), (int(NOW.timestamp()) + 1, False), (None, False), ("0", False)],
)
def test_expired_token_is_the_clean_rooms_own_fault(exp: Any, expired: bool) -> None:
    error = explain(MET | {"exp": exp})
    assert (error.details["cause"] == "authority") is expired
    assert error.party == ("clean-room" if expired else "key-owner")
    assert error.message.endswith("; the token has expired.") is expired
    assert error.details["token_expires"] == exp


def test_only_an_expired_token_moves_the_responsibility() -> None:
    assert explain(ELSEWHERE).party == "key-owner"
    assert explain(EXPIRED, inner="ForbiddenByRbac").party == "key-owner"


def test_unmet_claims_are_named_first_and_listed_with_both_sides() -> None:
    claims = UNMET | {"x-ms-sevsnpvm-vmpl": 1}
    error = explain(claims)
    assert error.message == (
        f"release of {KEY}: Key Vault refused it: the attested guest does not meet the key's release policy:"
        " x-ms-sevsnpvm-hostdata, x-ms-sevsnpvm-vmpl."
    )
    assert error.details["upstream"] == {"status": 403, "code": "Forbidden", "innererror": None}
    assert (error.details["issuer"], error.details["authorities"], error.details["policy_source"]) == (AUTHORITY, [AUTHORITY], "vault")
    names = [name for name in MET if name.startswith("x-ms")]
    assert error.details["token"] == {name: claims[name] for name in names}
    assert [row["claim"] for row in error.details["rows"] if not row["passed"]] == ["x-ms-sevsnpvm-hostdata", "x-ms-sevsnpvm-vmpl"]
    reasons = [row["message"] for row in error.details["reasons"]]
    table = error.details["table"].splitlines()
    assert reasons == [line for mark in ("NO", "ok") for line in table if line.startswith(mark)]
    assert [line[:2] for line in reasons] == ["NO", "NO", "ok", "ok", "ok", "ok"]


def test_claims_are_named_only_when_they_are_the_cause() -> None:
    assert "hostdata" not in explain(UNMET, inner="ForbiddenByRbac").message
    assert "hostdata" not in explain(LATE_AND_UNMET).message
    unknown = explain(UNMET, policy=None, message="does not meet")
    assert unknown.message == f"release of {KEY}: Key Vault refused it: the attested guest does not meet the key's release policy."


def test_without_a_policy_only_the_token_is_shown() -> None:
    error = explain({"iss": AUTHORITY, "x-ms-sevsnpvm-vmpl": "0\nok"}, policy=None, source="expected")
    assert not {"rows", "table", "authorities"} & set(error.details)
    assert error.details["policy_source"] is None
    assert [row["message"] for row in error.details["reasons"]] == [
        f"token iss: {AUTHORITY}",
        "token x-ms-sevsnpvm-hostdata: (missing)",
        "token x-ms-compliance-status: (missing)",
        "token x-ms-attestation-type: (missing)",
        "token x-ms-sevsnpvm-is-debuggable: (missing)",
        "token x-ms-sevsnpvm-vmpl: 0\N{REPLACEMENT CHARACTER}ok",
    ]


@pytest.mark.parametrize("cause", CODES)
def test_every_cause_has_its_own_remedy(cause: str) -> None:
    given: dict[str, tuple[dict[str, Any], str | None, str]] = {
        "role": (MET, "ForbiddenByRbac", "Key Vault Crypto Service Release User"),
        "authority": (ELSEWHERE, None, "Attest again"),
        "claims": (UNMET, None, "container security policy"),
        "key": (MET, "KeyDisabled", "enable it or extend"),
        "unknown": (MET, None, "audit log"),
    }
    claims, inner, words = given[cause]
    error = explain(claims, inner=inner)
    assert error.code == CODES[cause]
    assert words in str(error.hint)
