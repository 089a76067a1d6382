"""Signing and verifying statements: compact JWS, EdDSA only, typed, over canonical JSON."""

from __future__ import annotations

import datetime as dt
from typing import TypeVar

import jwt
from jwt.api_jws import PyJWS
from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.identifiers import canonical_json
from cleanroom.statements.keys import KeyDocument, SigningKey
from cleanroom.statements.model import Statement

S = TypeVar("S", bound=Statement)

MAX_TOKEN = 16 * 1024
_JWS = PyJWS(algorithms=["EdDSA"])


def sign(statement: Statement, key: SigningKey) -> str:
    """``statement`` as a compact JWS by ``key``."""
    payload = canonical_json(statement.model_dump(mode="json", exclude_none=True))
    return _JWS.encode(payload, key.private, algorithm="EdDSA", headers={"kid": key.public.kid, "typ": statement.typ})


def peek(kind: type[S], token: str) -> S:
    """What ``token`` claims to say, **unverified**: only to learn whose key to fetch.

    Raises:
        InvalidInput: ``StatementMalformed``.
    """
    if len(token) > MAX_TOKEN:
        raise InvalidInput("StatementMalformed", f"statement: {len(token)} characters; at most {MAX_TOKEN} are read.")
    try:
        decoded = _JWS.decode_complete(token, options={"verify_signature": False})
        if decoded["header"].get("typ") != kind.typ:
            raise InvalidInput("StatementMalformed", f"statement: its type is not {kind.typ}.")
        return kind.model_validate_json(decoded["payload"])
    except jwt.PyJWTError as error:
        raise InvalidInput("StatementMalformed", "statement: not a compact JWS.", cause=str(error)) from error
    except ValidationError as error:
        raise InvalidInput("StatementMalformed", f"statement: {describe_validation(error)}.") from error


def verify(kind: type[S], token: str, keys: KeyDocument, *, collaboration: str, now: dt.datetime) -> S:
    """The verified statement.

    Checks type, algorithm, the key's membership in the signer's published keys, signature, signer, collaboration and expiry.

    Raises:
        InvalidInput: ``StatementMalformed``.
        Refused: ``SignatureInvalid``, ``SignerMismatch``, ``CollaborationMismatch``, ``StatementExpired``, ``ApproverKeyUnknown``.
    """
    statement = peek(kind, token)
    header = jwt.get_unverified_header(token)
    if header.get("alg") != "EdDSA":
        raise Refused("SignatureInvalid", f"statement: algorithm {header.get('alg')!r} is not EdDSA.")
    if statement.signer != keys.user_id:
        raise Refused("SignerMismatch", f"statement: it says it is signed by {statement.signer}, the key is {keys.user_id}'s.")
    try:
        jwk = keys.find(str(header.get("kid", "")))
    except CleanRoomError as error:
        raise Refused(error.code, error.message, hint="Sign with the key that you published (`cleanroom key publish`).") from error
    try:
        _JWS.decode(token, jwk.public_key(), algorithms=["EdDSA"])
    except jwt.PyJWTError as error:
        raise Refused("SignatureInvalid", "statement: the signature does not verify.", cause=str(error)) from error
    if statement.collaboration != collaboration:
        raise Refused("CollaborationMismatch", f"statement: made for collaboration {statement.collaboration!r}, not {collaboration!r}.")
    if statement.expired(now):
        raise Refused("StatementExpired", f"statement: expired at {statement.expires.isoformat()}.", hint="Sign again.")
    return statement
