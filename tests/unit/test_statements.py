"""Signed statements: a genuine one is accepted, and each kind of forgery is rejected with its code."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import canonical_json
from cleanroom.jose import jws
from cleanroom.jose.encoding import b64url
from cleanroom.statements import Decision, KeyDocument, RunRequest, SigningKey, sign, verify

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
KEY, OTHER = SigningKey(Ed25519PrivateKey.generate()), SigningKey(Ed25519PrivateKey.generate())
KEYS = KeyDocument(user_id="litware", keys=(KEY.public,)).history()
RUN = RunRequest(collaboration="flights", signer="litware", expires=NOW + dt.timedelta(hours=1), query="q", digest="ab" * 32, run_id="r")
TOKEN = sign(RUN, KEY)


def resigned(statement: RunRequest = RUN, key: SigningKey = KEY, **header: str) -> str:
    payload = canonical_json(statement.model_dump(mode="json", exclude_none=True))
    return jws.sign({"kid": key.public.kid, "typ": statement.typ, **header}, payload, key.private, "EdDSA")


def unsigned(algorithm: str) -> str:
    header = {"alg": algorithm, "kid": KEY.public.kid, "typ": RunRequest.typ}
    return f"{b64url(json.dumps(header).encode())}.{TOKEN.split('.')[1]}."


def test_a_genuine_statement_is_returned() -> None:
    assert verify(RunRequest, TOKEN, KEYS, collaboration="flights", now=NOW) == RUN


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


RSA_KEY = rsa.generate_private_key(65537, 2048)
