"""Signs and verifies statements: compact JWS over canonical JSON, with EdDSA and an explicit type."""

from __future__ import annotations

import datetime as dt
from typing import TypeVar

from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.errors import InvalidInput, NotFound, Refused
from cleanroom.identifiers import MAX_STATEMENT, canonical_json
from cleanroom.jose import jws
from cleanroom.statements.keys import KeyHistory, SigningKey
from cleanroom.statements.model import Statement

S = TypeVar("S", bound=Statement)


def sign(statement: Statement, key: SigningKey) -> str:
    """Return ``statement`` as a compact JWS, signed with ``key``."""
    payload = canonical_json(statement.model_dump(mode="json", exclude_none=True))
    return jws.sign({"kid": key.public.kid, "typ": statement.typ}, payload, key.private, "EdDSA")


def peek(kind: type[S], token: str) -> S:
    """Return what ``token`` claims, **unverified**: only to learn whose key to fetch.

    Raises:
        InvalidInput: ``StatementMalformed``.
    """
    return _read(kind, token)[1]


def claimed_key(kind: type[Statement], token: str) -> str:
    """Return the ``kid`` in the header of ``token``, **unverified**: only to learn which key to fetch.

    Raises:
        InvalidInput: ``StatementMalformed``.
    """
    return str(_read(kind, token)[0].header.get("kid", ""))


def _read(kind: type[S], token: str) -> tuple[jws.CompactJws, S]:
    if len(token) > MAX_STATEMENT:
        raise InvalidInput("StatementMalformed", f"statement: {len(token)} characters exceed the maximum of {MAX_STATEMENT}.")
    try:
        parsed = jws.parse(token, None)
    except ValueError as error:
        raise InvalidInput("StatementMalformed", "statement: not a compact JWS.", cause=str(error)) from error
    if parsed.header.get("typ") != kind.typ:
        raise InvalidInput("StatementMalformed", f"statement: its type is not {kind.typ}.")
    try:
        return parsed, kind.model_validate_json(parsed.payload_bytes)
    except ValidationError as error:
        raise InvalidInput("StatementMalformed", f"statement: {describe_validation(error)}.") from error


def verify(kind: type[S], token: str, keys: KeyHistory, *, collaboration: str, now: dt.datetime, recorded_at: int | None = None) -> S:
    """Return the verified statement.

    Checks the type, the algorithm, that the key is among the signer's published keys and was not retired before the statement was
    recorded, the signature, the signer, the collaboration and the expiry.

    Args:
        kind: The expected kind of statement.
        token: The compact JWS.
        keys: The signer's keys.
        collaboration: The expected collaboration.
        now: The time for the expiry.
        recorded_at: Position in governance's ledger at which the statement was recorded, see :meth:`KeyHistory.find`.

    Raises:
        InvalidInput: ``StatementMalformed``.
        Refused: ``SignatureInvalid``, ``SignerMismatch``, ``CollaborationMismatch``, ``StatementExpired``, ``ApproverKeyUnknown``,
            ``ApproverKeyRetired``.
    """
    parsed, statement = _read(kind, token)
    if parsed.header.get("alg") != "EdDSA":
        raise Refused("SignatureInvalid", f"statement: algorithm {parsed.header.get('alg')!r} is not EdDSA.")
    if statement.signer != keys.user_id:
        raise Refused("SignerMismatch", f"statement: its signer is {statement.signer}, but the key belongs to {keys.user_id}.")
    try:
        jwk = keys.find(str(parsed.header.get("kid", "")), recorded_at)
    except NotFound as error:
        raise Refused(error.code, error.message, hint="Sign with the key that you published (`cleanroom key publish`).") from error
    try:
        jws.verify(parsed, jwk.public_key())
    except ValueError as error:
        raise Refused("SignatureInvalid", "statement: the signature does not verify.", cause=str(error)) from error
    if statement.collaboration != collaboration:
        raise Refused("CollaborationMismatch", f"statement: made for collaboration {statement.collaboration!r}, not {collaboration!r}.")
    if statement.expired(now):
        raise Refused("StatementExpired", f"statement: expired at {statement.expires.isoformat()}.", hint="Sign again.")
    return statement
