"""The release policy grammar and its evaluation."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.errors import InvalidInput
from cleanroom.keys import ReleasePolicy, evaluate

ISSUER = "https://sharedneu.neu.attest.azure.net"


def policy_of(*conditions: Any, operator: str = "allOf", authority: str = ISSUER) -> dict[str, Any]:
    return {"version": "1.0.0", "anyOf": [{"authority": authority, operator: list(conditions)}]}


def equals(claim: str, value: Any) -> dict[str, Any]:
    return {"claim": claim, "equals": value}


def holds(*conditions: Any, claims: dict[str, Any], operator: str = "allOf", authority: str = ISSUER) -> bool:
    return evaluate(ReleasePolicy.parse(policy_of(*conditions, operator=operator, authority=authority)), {"iss": ISSUER, **claims}).ok


@pytest.fixture(scope="module")
def known(vectors: Path) -> dict[str, Any]:
    return dict(json.loads((vectors / "skr" / "release-policies.json").read_text()))


@pytest.fixture(scope="module")
def expected_claims(vectors: Path) -> dict[str, Any]:
    return dict(json.loads((vectors / "skr" / "maa-sevsnpvm-claims-expected.json").read_text()))


@pytest.mark.parametrize(
    ("name", "ok"),
    [
        ("cleanroom-caci", True),
        ("sidecar-caci-strict", True),
        ("nested-any", True),
        ("cvm-default", False),
        ("sdk-test", False),
        ("legacy-condition-form", False),
    ],
)
def test_published_policies_accept_a_confidential_containers_claims(
    known: dict[str, Any], expected_claims: dict[str, Any], name: str, ok: bool
) -> None:
    assert evaluate(ReleasePolicy.parse(known[name]), expected_claims["claims"]).ok is ok


def test_recorded_policy_cases_evaluate_as_recorded(known: dict[str, Any], expected_claims: dict[str, Any]) -> None:
    judged = 0
    for case in expected_claims["policy_cases"]:
        claims = {**expected_claims["claims"], **case["change"]}
        for name, expected in case["expect_against"].items():
            # null: the policy does not use the claim; "tolerate": one trailing slash of the authority.
            ok = {None: True, "tolerate": True}.get(expected, expected)
            assert evaluate(ReleasePolicy.parse(known[name]), claims).ok is ok, case["name"]
            judged += 1
    assert judged == 5


@pytest.mark.parametrize(
    "change",
    [
        {"x-ms-sevsnpvm-hostdata": "0" * 64},
        {"x-ms-sevsnpvm-hostdata": None},
        {"x-ms-compliance-status": None},
        {"x-ms-compliance-status": "azure-compliant-cvm"},
        {"x-ms-sevsnpvm-is-debuggable": True},
        {"x-ms-sevsnpvm-vmpl": 1},
        {"iss": "https://other.attest.azure.net"},
        {"iss": None},
        {"iss": f"{ISSUER}.evil.example"},
        {"iss": ISSUER.upper()},
        {"iss": ISSUER.replace("https", "http")},
        {"iss": [ISSUER]},
    ],
)
def test_one_changed_claim_fails_the_policy(known: dict[str, Any], expected_claims: dict[str, Any], change: dict[str, Any]) -> None:
    claims = {name: value for name, value in {**expected_claims["claims"], **change}.items() if value is not None}
    verdict = evaluate(ReleasePolicy.parse(known["sidecar-caci-strict"]), claims)
    assert not verdict.ok
    assert verdict.authority_matched is ("iss" not in change)


def test_a_policy_on_nested_claims_of_a_confidential_vm_is_evaluated(known: dict[str, Any]) -> None:
    policy = ReleasePolicy.parse(known["cvm-default"])
    tee = {"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "azure-compliant-cvm"}
    assert evaluate(policy, {"iss": ISSUER, "x-ms-isolation-tee": tee}).ok
    for nested in ({}, {"x-ms-attestation-type": "sevsnpvm"}, "text", [tee], None):
        assert not evaluate(policy, {"iss": ISSUER, "x-ms-isolation-tee": nested}).ok
    assert not evaluate(policy, {"iss": ISSUER, "x-ms-isolation-tee.x-ms-attestation-type": "sevsnpvm", **tee}).ok


@pytest.mark.parametrize(
    ("written", "claimed", "ok"),
    [
        ("true", True, True),
        ("false", False, True),
        ("true", "true", True),
        (True, True, True),
        (True, "true", True),
        ("True", True, False),
        ("1", True, False),
        ("true", 1, False),
        ("0", 0, True),
        (0, 0, True),
        (0, "0", True),
        ("0", False, False),
        ("0", 0.0, False),
        ("00", 0, False),
        ("-5", -5, True),
        ("18446744073709551615", 2**64 - 1, True),
        ("sevsnpvm", "SevSnpVm", False),
        ("sevsnpvm", "sevsnpvm ", False),
        ("", "", True),
        ("null", None, False),
        ("[]", [], False),
        ("{}", {}, False),
        ("a", ["a"], False),
    ],
)
def test_claims_are_compared_as_text(written: Any, claimed: Any, ok: bool) -> None:
    assert holds(equals("c", written), claims={"c": claimed}) is ok


def test_nested_all_of_and_any_of_are_evaluated() -> None:
    claims = {"a": "1", "b": "2"}
    a, b, wrong = equals("a", "1"), equals("b", "2"), equals("a", "9")
    assert holds(a, b, claims=claims)
    assert not holds(a, wrong, claims=claims)
    assert holds(a, wrong, claims=claims, operator="anyOf")
    assert not holds(wrong, claims=claims, operator="anyOf")
    assert holds(a, {"anyOf": [wrong, {"allOf": [a, b]}]}, claims=claims)
    assert not holds(a, {"anyOf": [wrong, {"allOf": [b, wrong]}]}, claims=claims)


def test_blocks_of_several_authorities_are_alternatives_but_do_not_mix() -> None:
    policy = ReleasePolicy.parse(
        {
            "version": "1.0.0",
            "anyOf": [
                {"authority": "https://one.example", "allOf": [equals("c", "1")]},
                {"authority": "https://two.example/", "anyOf": [equals("c", "2")]},
            ],
        }
    )
    assert evaluate(policy, {"iss": "https://one.example/", "c": "1"}).ok
    assert evaluate(policy, {"iss": "https://two.example", "c": "2"}).ok
    crossed = evaluate(policy, {"iss": "https://one.example", "c": "2"})
    assert not crossed.ok
    assert [(row.expected, row.passed, row.counted) for row in crossed.rows] == [("1", False, True), ("2", True, False)]
    assert evaluate(policy, {"iss": "https://one.example", "c": "2"}, issuer="https://two.example").ok


def test_every_condition_is_a_row_with_its_place() -> None:
    policy = ReleasePolicy.parse(policy_of(equals("a", "1"), {"anyOf": [equals("b.c", "2"), equals("d", "3")]}))
    verdict = evaluate(policy, {"iss": ISSUER, "a": "1", "b": {"c": True}})
    assert [(row.place, row.claim, row.expected, row.actual, row.passed) for row in verdict.rows] == [
        ("anyOf[0].allOf[0]", "a", "1", "1", True),
        ("anyOf[0].allOf[1].anyOf[0]", "b.c", "2", "true", False),
        ("anyOf[0].allOf[1].anyOf[1]", "d", "3", None, False),
    ]
    assert [row.claim for row in verdict.failed] == ["b.c", "d"]
    assert "NO  d: policy 3; token (missing)" in verdict.table()


BAD: dict[str, Any] = {
    "not an object": [],
    "empty": {},
    "no version": {"anyOf": policy_of(equals("a", "b"))["anyOf"]},
    "other version": {**policy_of(equals("a", "b")), "version": "2.0.0"},
    "no blocks": {"version": "1.0.0"},
    "empty blocks": {"version": "1.0.0", "anyOf": []},
    "allOf at the top": {"version": "1.0.0", "allOf": policy_of(equals("a", "b"))["anyOf"]},
    "unknown member": {**policy_of(equals("a", "b")), "comment": "x"},
    "no authority": {"version": "1.0.0", "anyOf": [{"allOf": [equals("a", "b")]}]},
    "http authority": policy_of(equals("a", "b"), authority="http://sharedneu.neu.attest.azure.net"),
    "authority without host": policy_of(equals("a", "b"), authority="https://"),
    "authority with query": policy_of(equals("a", "b"), authority="https://a.example?x"),
    "authority with user": policy_of(equals("a", "b"), authority="https://u@a.example"),
    "authority is a number": policy_of(equals("a", "b"), authority=5),  # type: ignore[arg-type]
    "neither operator": {"version": "1.0.0", "anyOf": [{"authority": ISSUER}]},
    "both operators": {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [equals("a", "b")], "anyOf": [equals("a", "b")]}]},
    "null operator": {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": None, "anyOf": [equals("a", "b")]}]},
    "empty conditions": policy_of(),
    "nested empty": policy_of({"anyOf": []}),
    "condition is text": policy_of("a"),
    "condition without value": policy_of({"claim": "a"}),
    "condition without claim": policy_of({"equals": "a"}),
    "condition with more": policy_of({**equals("a", "b"), "x": 1}),
    "condition with two more": policy_of({**equals("a", "b"), "x": 1, "y": 1}),
    "claim and group": policy_of({**equals("a", "b"), "allOf": [equals("a", "b")]}),
    "notEquals": policy_of({"claim": "a", "notEquals": "b"}),
    "less": policy_of({"claim": "a", "less": "5"}),
    "greaterOrEquals": policy_of({"claim": "a", "greaterOrEquals": "5"}),
    "exists": policy_of({"claim": "a", "exists": True}),
    "legacy other operator": policy_of({"claim": "a", "condition": "notEquals", "value": "b"}),
    "equals a list": policy_of(equals("a", ["b"])),
    "equals null": policy_of(equals("a", None)),
    "equals a fraction": policy_of(equals("a", 1.5)),
    "empty claim": policy_of(equals("", "b")),
    "empty segment": policy_of(equals("a..b", "b")),
    "array index": policy_of(equals("a[0]", "b")),
    "claim with space": policy_of(equals("a b", "c")),
    "condition is a number": policy_of(5),
    "condition names an operator only": policy_of("allOf"),
    "condition is a list": policy_of(["allOf"]),
    "authority with fragment": policy_of(equals("a", "b"), authority="https://a.example#x"),
    "authority with space": policy_of(equals("a", "b"), authority="https://a.example/ x"),
    "long claim": policy_of(equals("a" * 513, "b")),
    "legacy with more": policy_of({"claim": "a", "condition": "equals", "value": "b", "x": 1}),
    "legacy without value": policy_of({"claim": "a", "condition": "equals"}),
    "legacy without claim": policy_of({"condition": "equals", "value": "b"}),
    "legacy without condition": policy_of({"claim": "a", "value": "b"}),
}


@pytest.mark.parametrize("what", BAD)
def test_policies_outside_the_grammar_are_rejected(what: str) -> None:
    with pytest.raises(InvalidInput) as error:
        ReleasePolicy.parse(json.dumps(BAD[what]))
    assert error.value.code == "InvalidReleasePolicy"


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("notEquals", "at anyOf.0.allOf.0.notEquals:"),
        ("condition with two more", "at anyOf.0.allOf.0.x:"),
        ("condition without claim", "at anyOf.0.allOf.0.claim:"),
        ("condition without value", "at anyOf.0.allOf.0.equals:"),
        ("nested empty", "at anyOf.0.allOf.0.anyOf:"),
        ("no version", "at version:"),
    ],
)
def test_place_of_an_error_names_the_wrong_member(what: str, place: str) -> None:
    with pytest.raises(InvalidInput) as error:
        ReleasePolicy.parse(json.dumps(BAD[what]))
    assert place in error.value.message


def test_policy_and_token_text_cannot_add_lines_to_the_table() -> None:
    policy = ReleasePolicy.parse(
        {
            "version": "1.0.0",
            "anyOf": [{"authority": "https://maa.example/\u202e", "allOf": [equals("a\u2066", "x\nok  b: policy y\x1b[2J")]}],
        }
    )
    verdict = evaluate(policy, {"iss": "https://maa.example/\u202e", "a\u2066": "\n"})
    lines = verdict.table().split("\n")
    assert [line[:2] for line in lines] == ["ok", "NO"]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "5",
        '"x"',
        "{",
        '{"version":"1.0.0","version":"1.0.0"}',
        "NaN",
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\xff",
        "[" * 5000,
    ],
)
def test_text_that_is_not_one_json_object_is_rejected(text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        ReleasePolicy.parse(text)


@pytest.mark.parametrize("text", ["\ud800", float("nan"), b"x", "x" * 40_000])
def test_an_object_is_parsed_as_strictly_as_its_text(text: Any) -> None:
    with pytest.raises(InvalidInput, match="InvalidReleasePolicy"):
        ReleasePolicy.parse(
            {"version": "1.0.0", "anyOf": [{"authority": "https://maa.example", "allOf": [{"claim": "a", "equals": text}]}]}
        )


def test_size_and_depth_have_limits() -> None:
    def nested(depth: int) -> dict[str, Any]:
        condition: dict[str, Any] = equals("a", "b")
        for _ in range(depth - 1):
            condition = {"allOf": [condition]}
        return policy_of(condition)

    assert ReleasePolicy.parse(nested(8))
    for depth in (9, 20, 300):
        with pytest.raises(InvalidInput):
            ReleasePolicy.parse(nested(depth))
    with pytest.raises(InvalidInput):
        ReleasePolicy.parse(json.dumps(policy_of(*[equals("a", "b" * 100)] * 400)))
    text = json.dumps(policy_of(equals("a" * 512, "b")))
    assert ReleasePolicy.parse(text.ljust(32 * 1024))
    with pytest.raises(InvalidInput, match="exceed the maximum of 32768"):
        ReleasePolicy.parse(text.ljust(32 * 1024 + 1))
    # A level with text next to a group that is too deep.
    deep: dict[str, Any] = {"allOf": [equals("a", "b")]}
    for _ in range(8):
        deep = {"allOf": [equals("a", "b"), deep]}
    with pytest.raises(InvalidInput, match="nest deeper than 8"):
        ReleasePolicy.parse(policy_of(deep))


def test_conditions_are_written_as_text() -> None:
    policy = ReleasePolicy.parse(policy_of(equals("a", True), equals("b", False), equals("c", 0)))
    assert policy.encode().decode() == (
        f'{{"version":"1.0.0","anyOf":[{{"authority":"{ISSUER}","allOf":['
        '{"claim":"a","equals":"true"},{"claim":"b","equals":"false"},{"claim":"c","equals":"0"}]}]}'
    )


def test_legacy_condition_is_a_condition() -> None:
    legacy = {"claim": "a", "condition": "equals", "value": "b"}
    assert ReleasePolicy.parse(policy_of({"anyOf": [legacy, equals("c", "d")]})) == ReleasePolicy.parse(
        policy_of({"anyOf": [equals("a", "b"), equals("c", "d")]})
    )


def test_blocks_of_an_authority_are_found_with_and_without_a_trailing_slash() -> None:
    names = ("https://a.example", "https://b.example/", "https://a.example/")
    blocks = [{"authority": name, "allOf": [equals("a", name)]} for name in names]
    policy = ReleasePolicy.parse({"version": "1.0.0", "anyOf": [*blocks, blocks[0]]})
    assert policy.authorities() == names
    for issuer in ("https://a.example", "https://a.example/"):
        assert [block.authority for block in policy.blocks_for(issuer)] == ["https://a.example", "https://a.example/", "https://a.example"]
    assert [block.authority for block in policy.blocks_for("https://b.example")] == ["https://b.example/"]
    assert policy.blocks_for("https://A.example") == policy.blocks_for("https://a.example//") == ()


@pytest.mark.parametrize("version", ["0.2", "1.0", "1.0.0"])
def test_versions_of_the_same_grammar_are_equal(version: str) -> None:
    document = policy_of(equals("a", "b"))
    assert ReleasePolicy.parse(document | {"version": version}) == ReleasePolicy.parse(document)


def test_the_legacy_form_is_normalised(known: dict[str, Any]) -> None:
    policy = ReleasePolicy.parse(known["legacy-condition-form"])
    assert policy == ReleasePolicy.parse(policy_of(equals("sdk-test", "true")))
    assert policy.document()["version"] == "1.0.0"


def test_encoding_is_canonical_and_equality_is_of_the_parsed_policy(known: dict[str, Any]) -> None:
    for document in known.values():
        policy = ReleasePolicy.parse(document)
        shuffled = json.dumps(dict(reversed(list(copy.deepcopy(document).items()))), indent=2)
        assert ReleasePolicy.parse(shuffled) == policy
        assert ReleasePolicy.parse(policy.encode()) == policy
        text = policy.encode().decode()
        assert text.index('"version"') < text.index('"anyOf"') < text.index('"authority"')


def test_the_clean_room_policy_pins_host_data_image_and_guest() -> None:
    policy = ReleasePolicy.for_clean_room(ISSUER, "AB" * 32)
    assert policy.document()["anyOf"] == [
        {
            "authority": ISSUER,
            "allOf": [
                equals("x-ms-sevsnpvm-hostdata", "ab" * 32),
                equals("x-ms-compliance-status", "azure-compliant-uvm"),
                equals("x-ms-attestation-type", "sevsnpvm"),
                equals("x-ms-sevsnpvm-is-debuggable", "false"),
                equals("x-ms-sevsnpvm-vmpl", "0"),
            ],
        }
    ]
    assert len(list(ReleasePolicy.for_clean_room(ISSUER, "ab" * 32, strict=False).any_of[0].claims())) == 3
    for bad in ("", "ab", "zz" * 32, [], ["ab" * 32, "ab"], "ab" * 32 + "\n"):
        with pytest.raises(InvalidInput, match="host_data is the SHA-256"):
            ReleasePolicy.for_clean_room(ISSUER, bad)


def test_several_host_data_are_alternatives() -> None:
    policy = ReleasePolicy.for_clean_room(ISSUER, ["aa" * 32, "bb" * 32], strict=False)
    claims = {"iss": ISSUER, "x-ms-compliance-status": "azure-compliant-uvm", "x-ms-attestation-type": "sevsnpvm"}
    assert evaluate(policy, {**claims, "x-ms-sevsnpvm-hostdata": "bb" * 32}).ok
    assert not evaluate(policy, {**claims, "x-ms-sevsnpvm-hostdata": "cc" * 32}).ok


_leaf = st.fixed_dictionaries({"claim": st.sampled_from(["a", "b", "c.d"]), "equals": st.sampled_from(["1", "2", "true"])})
_tree = st.recursive(
    _leaf,
    lambda inner: st.builds(lambda op, each: {op: each}, st.sampled_from(["allOf", "anyOf"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=8,
)
_claims = st.fixed_dictionaries(
    {},
    optional={
        "a": st.sampled_from(["1", 1, True, "2"]),
        "b": st.sampled_from(["1", 2, None]),
        "c": st.sampled_from([{"d": True}, {"d": 1}, "x"]),
    },
)


def _naive(condition: dict[str, Any], claims: dict[str, Any]) -> bool:
    if "allOf" in condition:
        return all(_naive(inner, claims) for inner in condition["allOf"])
    if "anyOf" in condition:
        return any(_naive(inner, claims) for inner in condition["anyOf"])
    value: Any = claims
    for part in condition["claim"].split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value is not None and (json.dumps(value) if not isinstance(value, str) else value) == condition["equals"]


@given(tree=_tree, claims=_claims)
def test_evaluation_agrees_with_its_definition(tree: dict[str, Any], claims: dict[str, Any]) -> None:
    assert holds(tree, claims=claims) is _naive(tree, claims)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "anyOf", "allOf", "authority", "claim", "equals", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=_anything)
def test_any_document_is_parsed_or_gives_the_typed_error(value: Any) -> None:
    for given_value in (value, json.dumps(value)):
        try:
            parsed = ReleasePolicy.parse(given_value)
        except InvalidInput as error:
            code = error.code
        else:
            code = "InvalidReleasePolicy"
            assert ReleasePolicy.parse(parsed.encode()) == parsed
        assert code == "InvalidReleasePolicy"
