"""The comparison of policy and token that explains a refusal: each condition a row, untrusted text made harmless."""

from __future__ import annotations

from typing import Any

import pytest

from cleanroom.keys import ReleasePolicy, evaluate

ONE, TWO = "https://one.example", "https://two.example"


def equals(claim: str, value: str) -> dict[str, str]:
    return {"claim": claim, "equals": value}


def policy_of(*blocks: tuple[str, list[Any]]) -> ReleasePolicy:
    return ReleasePolicy.parse(
        {"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": conditions} for authority, conditions in blocks]}
    )


BOTH = policy_of((ONE, [equals("a", "1"), equals("b", "2")]), (TWO, [equals("a", "3")]))


def test_rows_of_another_authority_are_no_failures() -> None:
    verdict = evaluate(BOTH, {"iss": ONE, "a": "2", "b": "2"})
    assert [(row.authority, row.claim) for row in verdict.failed] == [(ONE, "a")]
    assert verdict.table().splitlines() == [
        f"ok  iss: policy {ONE} | {TWO}; token {ONE}",
        "NO  a: policy 1; token 2",
        "ok  b: policy 2; token 2",
    ]


def test_without_a_matching_authority_every_row_is_shown_and_none_counts() -> None:
    verdict = evaluate(BOTH, {"iss": "https://other.example", "a": "1", "b": "2"})
    assert (verdict.ok, verdict.authority_matched, verdict.failed) == (False, False, ())
    assert verdict.table().splitlines() == [
        f"NO  iss: policy {ONE} | {TWO}; token https://other.example",
        "ok  a: policy 1; token 1",
        "ok  b: policy 2; token 2",
        "NO  a: policy 3; token 1",
    ]


@pytest.mark.parametrize("issuer", [None, "", 5, [ONE], {"iss": ONE}])
def test_token_without_an_issuer_matches_no_authority(issuer: Any) -> None:
    claims = {"a": "1", "b": "2"} | ({} if issuer is None else {"iss": issuer})
    verdict = evaluate(BOTH, claims)
    assert (verdict.ok, verdict.authority_matched, verdict.issuer) == (False, False, "")
    assert verdict.table().splitlines()[0].endswith("token (missing)")


def test_given_issuer_replaces_the_claim_and_an_empty_one_matches_nothing() -> None:
    claims = {"iss": ONE, "a": "1", "b": "2"}
    assert evaluate(BOTH, claims).ok
    assert evaluate(BOTH, {**claims, "iss": "other"}, issuer=f"{ONE}/").ok
    assert not evaluate(BOTH, claims, issuer=TWO).ok
    assert not evaluate(BOTH, claims, issuer="").ok


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 160, "x" * 160),
        ("x" * 161, "x" * 160 + "…"),
        ("x" * 500, "x" * 160 + "…"),
        ("a\nb", "a\N{REPLACEMENT CHARACTER}b"),
        (None, "(null)"),
        ([1], "(list)"),
        ({}, "(dict)"),
        (1.5, "(float)"),
        (0, "0"),
        (False, "false"),
    ],
)
def test_value_of_the_token_is_shown_in_one_short_line(value: Any, shown: str) -> None:
    verdict = evaluate(policy_of((ONE, [equals("a", "other")])), {"iss": ONE, "a": value})
    (row,) = verdict.rows
    assert (row.actual, row.passed, verdict.ok) == (shown, False, False)


@pytest.mark.parametrize("parent", ["text", 5, None, ["b"], "b"])
def test_path_through_a_value_that_is_no_object_is_missing(parent: Any) -> None:
    verdict = evaluate(policy_of((ONE, [equals("a.b", "1")])), {"iss": ONE, "a": parent})
    assert [(row.actual, row.passed) for row in verdict.rows] == [(None, False)]
