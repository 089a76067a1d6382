"""Signed statements: a genuine one is accepted, and each kind of forgery is rejected with its code."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.identifiers import canonical_json
from cleanroom.jose import jws
from cleanroom.jose.encoding import b64url
from cleanroom.statements import Authorisation, Decision, KeyDocument, KeyHistory, RunRequest, SigningKey, sign, verify
from cleanroom.statements.keys import PublicJwk, RetirementDocument, parse_key_document, parse_retirement_document
from cleanroom.statements.signing import peek
from tests.shared_keys import rsa_key

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
KEY, OTHER = SigningKey(Ed25519PrivateKey.generate()), SigningKey(Ed25519PrivateKey.generate())
KEYS = KeyDocument(user_id="litware", keys=(KEY.public,)).history()
RUN = RunRequest(collaboration="flights", signer="litware", expires=NOW + dt.timedelta(hours=1), query="q", digest="ab" * 32, run_id="r")
TOKEN = sign(RUN, KEY)
DECISION = Decision(
    collaboration="flights",
    signer="litware",
    expires=NOW + dt.timedelta(hours=1),
    query="q",
    version="2.1",
    proposal_id="p",
    digest="ab" * 32,
    decision="approve",
)


def resigned(statement: RunRequest = RUN, key: SigningKey = KEY, **header: str) -> str:
    payload = canonical_json(statement.model_dump(mode="json", exclude_none=True))
    return jws.sign({"kid": key.public.kid, "typ": statement.typ, **header}, payload, key.private, "EdDSA")


def unsigned(algorithm: str) -> str:
    header = {"alg": algorithm, "kid": KEY.public.kid, "typ": RunRequest.typ}
    return f"{b64url(json.dumps(header).encode())}.{TOKEN.split('.')[1]}."


def test_a_genuine_statement_is_returned() -> None:
    for statement in (RUN, DECISION):
        token = sign(statement, KEY)
        assert verify(type(statement), token, KEYS, collaboration="flights", now=NOW) == statement
        assert peek(type(statement), token) == statement


def test_signed_text_is_the_canonical_json_without_empty_members() -> None:
    parsed = jws.parse(sign(DECISION, KEY), ["EdDSA"])
    assert parsed.header == {"alg": "EdDSA", "kid": KEY.public.kid, "typ": "cleanroom-decision+jws"}
    assert parsed.payload_bytes == canonical_json(
        {
            "collaboration": "flights",
            "signer": "litware",
            "expires": "2026-06-01T01:00:00Z",
            "nonce": DECISION.nonce,
            "query": "q",
            "version": "2.1",
            "proposal_id": "p",
            "digest": "ab" * 32,
            "decision": "approve",
            "reason": "",
        }
    )


def test_nonce_of_a_statement_has_128_random_bits() -> None:
    nonces = {RunRequest(**RUN.model_dump(exclude={"nonce"})).nonce for _ in range(20)}
    assert len(nonces) == 20
    assert {len(nonce) for nonce in nonces} == {22}


@pytest.mark.parametrize("algorithm", ["none", "RS256", "HS256", "eddsa", ""])
def test_another_algorithm_is_refused_before_a_key_is_used(algorithm: str) -> None:
    """The signature is empty or another key's, but the algorithm alone is the reason."""
    with pytest.raises(CleanRoomError, match=f"algorithm {algorithm!r} is not EdDSA") as caught:
        verify(RunRequest, unsigned(algorithm), KEYS, collaboration="flights", now=NOW)
    assert caught.value.code == "SignatureInvalid"


@pytest.mark.parametrize(("length", "accepted"), [(16 * 1024, True), (16 * 1024 + 1, False)])
def test_length_of_a_statement_is_bounded(length: int, accepted: bool) -> None:
    padded = f"{TOKEN}{'A' * (length - len(TOKEN))}"
    with pytest.raises(CleanRoomError) as caught:
        verify(RunRequest, padded, KEYS, collaboration="flights", now=NOW)
    assert (caught.value.code == "SignatureInvalid") is accepted
    assert ("exceed the maximum" in caught.value.message) is not accepted


@pytest.mark.parametrize(("seconds", "expired"), [(-1, False), (0, True), (1, True)])
def test_statement_expires_at_its_instant(seconds: int, expired: bool) -> None:
    assert RUN.expired(RUN.expires + dt.timedelta(seconds=seconds)) is expired


@pytest.mark.parametrize(
    ("recorded_at", "accepted"), [(None, False), (9, True), (10, False), (11, False), (0, True)], ids=lambda value: str(value)
)
def test_retired_key_verifies_only_what_the_ledger_recorded_before(recorded_at: int | None, accepted: bool) -> None:
    keys = KeyHistory(user_id="litware", keys=(OTHER.public, KEY.public), retired={KEY.public.kid: 10})
    assert keys.active == (OTHER.public,)
    assert keys.find(OTHER.public.kid, 11) == keys.find(OTHER.public.kid) == OTHER.public
    if accepted:
        assert verify(RunRequest, TOKEN, keys, collaboration="flights", now=NOW, recorded_at=recorded_at) == RUN
        return
    with pytest.raises(Refused, match="ApproverKeyRetired"):
        verify(RunRequest, TOKEN, keys, collaboration="flights", now=NOW, recorded_at=recorded_at)


def test_reasons_are_judged_in_a_fixed_order() -> None:
    """A statement with several faults is refused for the first, so that a message never shows more than a stranger may know."""
    wrong = RUN.model_copy(update={"signer": "fabrikam", "collaboration": "trains", "expires": NOW})
    for changes, code in (
        ({}, "SignerMismatch"),
        ({"signer": "litware"}, "SignatureInvalid"),
    ):
        forged = resigned(wrong.model_copy(update=changes), key=OTHER, kid=KEY.public.kid)
        with pytest.raises(CleanRoomError) as caught:
            verify(RunRequest, forged, KEYS, collaboration="flights", now=NOW)
        assert caught.value.code == code
    with pytest.raises(CleanRoomError, match="CollaborationMismatch"):
        verify(RunRequest, resigned(wrong.model_copy(update={"signer": "litware"})), KEYS, collaboration="flights", now=NOW)


AUTHORISATION = {
    "collaboration": "flights",
    "signer": "litware",
    "expires": NOW,
    "nonce": "n" * 22,
    "subject": "q",
    "digest": "ab" * 32,
}


@pytest.mark.parametrize(
    ("action", "version", "proposal"),
    [
        ("publish-dataset", False, False),
        ("create-query", False, False),
        ("update-query", True, False),
        ("propose-query", True, False),
        ("withdraw-query", True, True),
    ],
)
def test_authorisation_names_exactly_what_its_action_is_done_on(action: str, version: bool, proposal: bool) -> None:
    for with_version in (True, False):
        for with_proposal in (True, False):
            members = AUTHORISATION | {"action": action}
            members |= {"version": "2.1"} if with_version else {}
            members |= {"proposal_id": "p"} if with_proposal else {}
            if with_version == version and with_proposal <= proposal:
                assert Authorisation.model_validate(members).action == action
                continue
            with pytest.raises(ValueError, match=r"must (not )?name a (version|proposal)"):
                Authorisation.model_validate(members)


def test_every_claim_of_an_authorisation_gives_another_proposal() -> None:
    """Governance accepts a proposal ID once, so an authorisation is used once, and no other one has its ID."""
    base = AUTHORISATION | {"action": "propose-query", "version": "2.1"}
    changes = (
        {"collaboration": "trains"},
        {"signer": "fabrikam"},
        {"action": "update-query"},
        {"subject": "r"},
        {"digest": "cd" * 32},
        {"version": "2.2"},
        {"nonce": "m" * 22},
    )
    found = [Authorisation.model_validate(base | change).own_proposal_id() for change in ({}, *changes)]
    assert len(set(found)) == len(found)
    assert {len(proposal) for proposal in found} == {32}
    later = Authorisation.model_validate(base | {"expires": NOW + dt.timedelta(days=1)})
    assert later.own_proposal_id() == found[0]


@pytest.mark.parametrize("kind", [Decision, RunRequest, Authorisation])
def test_statement_of_one_kind_is_none_of_another(kind: type[Decision] | type[RunRequest] | type[Authorisation]) -> None:
    for statement in (RUN, DECISION, Authorisation.model_validate(AUTHORISATION | {"action": "create-query"})):
        if type(statement) is kind:
            continue
        with pytest.raises(CleanRoomError, match="its type is not") as caught:
            verify(kind, sign(statement, KEY), KEYS, collaboration="flights", now=NOW)
        assert caught.value.code == "StatementMalformed"


def test_published_keys_have_one_text() -> None:
    jwk = f'{{"kty":"OKP","crv":"Ed25519","x":"{KEY.public.x}","kid":"{KEY.public.kid}"}}'
    document = KeyDocument(user_id="litware", keys=(KEY.public,))
    retirement = RetirementDocument(user_id="litware", retires=("old",), keys=(KEY.public,))
    assert document.to_data() == f'{{"userId":"litware","keys":[{jwk}]}}'
    assert retirement.to_data() == f'{{"userId":"litware","retires":["old"],"keys":[{jwk}]}}'
    assert parse_key_document(document.to_data(), document_id="d") == document
    assert parse_retirement_document(retirement.to_data(), document_id="d") == retirement
    assert document.history() == KeyHistory(user_id="litware", keys=(KEY.public,), retired={})


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"userId":"u","keys":[]}', '{"userId":"u","retires":[],"keys":[]}', '{"userId":"u","keys":[{"x":1}]}']
)
def test_malformed_key_document_is_refused(data: str) -> None:
    for parse in (parse_key_document, parse_retirement_document):
        with pytest.raises(CleanRoomError, match="ApproverKeyInvalid"):
            parse(data, document_id="approver-key.u")


@pytest.mark.parametrize("x", ["", "AAAA", "!"])
def test_published_key_that_is_no_ed25519_key_is_refused(x: str) -> None:
    key = PublicJwk(x=x, kid="k")
    with pytest.raises(CleanRoomError, match="ApproverKeyInvalid"):
        key.public_key()


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (lambda: unsigned("none"), "SignatureInvalid"),
        (lambda: unsigned("EdDSA"), "SignatureInvalid"),
        (lambda: jws.sign({"kid": KEY.public.kid, "typ": RunRequest.typ}, RUN.model_dump(mode="json"), RSA_KEY), "SignatureInvalid"),
        (lambda: resigned(key=OTHER, kid=KEY.public.kid), "SignatureInvalid"),
        (lambda: resigned(key=OTHER), "ApproverKeyUnknown"),
        (lambda: resigned(RUN.model_copy(update={"signer": "fabrikam"})), "SignerMismatch"),
        (lambda: resigned(RUN.model_copy(update={"collaboration": "trains"})), "CollaborationMismatch"),
        (lambda: resigned(RUN.model_copy(update={"expires": NOW})), "StatementExpired"),
        (lambda: resigned(typ=Decision.typ), "StatementMalformed"),
        (lambda: jws.sign({"typ": RunRequest.typ}, {"query": "q"}, KEY.private, "EdDSA"), "StatementMalformed"),
        (lambda: f"{TOKEN}=", "StatementMalformed"),
        (lambda: "a.b", "StatementMalformed"),
        (lambda: TOKEN + "A" * 20_000, "StatementMalformed"),
    ],
)
def test_a_forged_statement_is_rejected_with_its_code(token: Callable[[], str], code: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        verify(RunRequest, token(), KEYS, collaboration="flights", now=NOW)
    assert caught.value.code == code


RSA_KEY = rsa_key()
