"""Deputies: second keys that may sign decisions in an owner's name.

An owner names a deputy in the document ``approver-deputy.<user>.<kid>``, proposed and accepted by the owner alone. It contains a
:class:`~cleanroom.statements.Deputation` that the owner's signing key signed. So neither a stolen signing key nor a stolen sign-in at
governance names a deputy. The ID contains the thumbprint of the deputy's key, so no reader has to search, and a document that another
user stores under that ID means nothing.

A deputy decides from ``valid_from`` until ``expires``, as long as neither the deputy's key nor the key that signed the deputation is
retired. As for other keys, what governance recorded before a retirement stays valid (:mod:`cleanroom.runs.published_keys`).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass

from cleanroom.errors import InvalidInput, Refused
from cleanroom.identifiers import deputy_document_id
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader, find_accepted
from cleanroom.statements import Decision, Deputation, KeyHistory, verify
from cleanroom.statements.signing import claimed_key, peek

DEPUTY_LABELS = {"type": "approver-deputy"}
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class SignedDecision:
    """A verified decision, and the name of the deputy who signed it; empty if the owner did."""

    decision: Decision
    deputy: str = ""


async def verify_decision(
    reader: GovernanceReader, token: str, keys: KeyHistory, *, collaboration: str, now: dt.datetime, recorded_at: int | None = None
) -> SignedDecision:
    """Verify a decision by one of the owner's keys, or by the key of one of the owner's deputies.

    Args:
        reader: Reads governance.
        token: The compact JWS.
        keys: The owner's keys.
        collaboration: The expected collaboration.
        now: The time for what is not valid yet, and for what has expired.
        recorded_at: Position in governance's ledger at which the decision was recorded; None if it is not.

    Raises:
        Refused: ``DeputyNotYetValid``, ``DeputyExpired``, ``DeputyInvalid``, ``DeputyNamedLater``, or an error of
            :func:`cleanroom.statements.verify`, which for an unknown key is ``ApproverKeyUnknown``.
        InvalidInput: ``DeputyInvalid``, ``StatementMalformed``.
    """
    kid = claimed_key(Decision, token)
    document = None
    if kid not in {key.kid for key in keys.keys} and _THUMBPRINT.fullmatch(kid):
        document = await find_accepted(reader, deputy_document_id(keys.user_id, kid))
    if document is None:
        return SignedDecision(verify(Decision, token, keys, collaboration=collaboration, now=now, recorded_at=recorded_at))
    named = read_deputation(document, keys, collaboration=collaboration, recorded_at=recorded_at)
    if recorded_at is not None and document.position >= recorded_at:
        raise Refused("DeputyNamedLater", f"decision: {keys.user_id} named the deputy {named.deputy} after this decision was recorded.")
    if now < named.valid_from:
        raise Refused(
            "DeputyNotYetValid", f"decision: {named.deputy} is a deputy of {keys.user_id} from {named.valid_from.isoformat()} on."
        )
    if recorded_at is None and named.expired(now):
        raise Refused("DeputyExpired", f"decision: {named.deputy} was a deputy of {keys.user_id} until {named.expires.isoformat()}.")
    retired = {named.key.kid: keys.retired[named.key.kid]} if named.key.kid in keys.retired else {}
    deputy_keys = KeyHistory(user_id=keys.user_id, keys=(named.key,), retired=retired)
    decision = verify(Decision, token, deputy_keys, collaboration=collaboration, now=now, recorded_at=recorded_at)
    return SignedDecision(decision, named.deputy)


def read_deputation(document: AcceptedDocument, keys: KeyHistory, *, collaboration: str, recorded_at: int | None = None) -> Deputation:
    """Return the deputation in a document, verified except for its time.

    Args:
        document: The accepted document.
        keys: The owner's keys.
        collaboration: The expected collaboration.
        recorded_at: Position of what the deputy signed. A deputation by a key that was retired before is refused.

    Raises:
        Refused: ``DeputyInvalid``, or an error of :func:`cleanroom.statements.verify`.
        InvalidInput: ``DeputyInvalid``, ``StatementMalformed``.
    """
    user_id = keys.user_id
    if document.proposer_id != user_id or document.accepted_by != (user_id,) or document.contract_id != collaboration:
        raise Refused(
            "DeputyInvalid", f"{document.id}: not proposed and accepted by user {user_id} alone in collaboration {collaboration!r}."
        )
    token = _token_in(document)
    found_until = peek(Deputation, token).expires - dt.timedelta(seconds=1)
    found = verify(Deputation, token, keys, collaboration=collaboration, now=found_until, recorded_at=recorded_at)
    if deputy_document_id(user_id, found.key.kid) != document.id:
        raise Refused("DeputyInvalid", f"{document.id}: it names another key, {found.key.kid!r}.")
    return found


def deputy_document_data(token: str) -> str:
    """Return the document text for a deputation's JWS."""
    return json.dumps({"deputation": token}, separators=(",", ":"))


def _token_in(document: AcceptedDocument) -> str:
    try:
        token = json.loads(document.data)["deputation"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput("DeputyInvalid", f'{document.id}: not of the form {{"deputation": "<JWS>"}}.') from error
    if not isinstance(token, str):
        raise InvalidInput("DeputyInvalid", f"{document.id}: member deputation is not text.")
    return token
