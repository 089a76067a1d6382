"""The signing keys that a user published in governance, and which of them the user retired.

A user publishes keys in ``approver-key.<user>``. A retirement is a document ``approver-key.<user>.<number>``, proposed and accepted by
the user alone. A stolen signing key cannot make one, because governance identifies the user by the token of Entra ID.

Documents have one name space, so any user can occupy the number that a victim would use next. Readers therefore do not search the
numbers until they find a gap. The user switches off the ``execution`` consent of ``approver-key.<user>``, which no other user can
change, and readers then search all numbers. If they find no retirement, all keys are retired.

The order of a retirement and a statement is that of governance's ledger: the accepted version of a document is the transaction in
which it was accepted. A thief chooses every time in a statement, but not when governance records it.
"""

from __future__ import annotations

import asyncio

from cleanroom.errors import NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import approver_key_document_id, retirement_document_id, sealing_document_id
from cleanroom.runs.reader import AcceptedDocument, GovernanceReader, find_accepted
from cleanroom.statements.keys import KeyHistory, parse_key_document, parse_retirement_document
from cleanroom.statements.sealing import SealingKeyDocument, parse_sealing_document

MAX_SEALING_KEYS = 6
"""Numbers that senders search."""
MAX_RETIREMENTS = 12
"""Numbers that readers search. A user of this many retirement documents, including those of squatters, needs a new identity."""


async def published_keys(reader: GovernanceReader, collaboration: str, user_id: str) -> KeyHistory:
    """Read the signing keys that ``user_id`` published in governance, with their retirements.

    Raises:
        PreconditionFailed: ``ApproverKeyNotPublished``.
        Refused: ``ApproverKeyInvalid`` unless the user proposed the document and is the only one who accepted it.
    """
    document_id = approver_key_document_id(user_id)
    try:
        document, consent = await asyncio.gather(reader.accepted_document(document_id), reader.consent(document_id))
    except NotFound as error:
        raise PreconditionFailed(
            "ApproverKeyNotPublished",
            f"user {user_id} has no accepted document {document_id}.",
            hint="The user publishes a signing key with `cleanroom key publish`.",
        ) from error
    if not _is_own(document, user_id) or document.contract_id != collaboration:
        raise Refused(
            "ApproverKeyInvalid", f"{document_id}: not proposed and accepted by user {user_id} alone in collaboration {collaboration!r}."
        )
    keys = parse_key_document(document.data, document_id=document_id)
    if keys.user_id != user_id:
        raise Refused("ApproverKeyInvalid", f"{document_id}: it contains the key of user {keys.user_id}.")
    if consent.status == "enabled":
        return keys.history()
    return await _with_retirements(reader, keys.history())


async def published_sealing_keys(reader: GovernanceReader, collaboration: str, user_id: str) -> dict[int, SealingKeyDocument]:
    """Read the sealing keys that ``user_id`` published, by number; the highest number is in force.

    Documents of other users occupy a number and mean nothing.
    """
    ids = {number: sealing_document_id(user_id, number) for number in range(1, MAX_SEALING_KEYS + 1)}
    documents = await asyncio.gather(*(find_accepted(reader, document_id) for document_id in ids.values()))
    found: dict[int, SealingKeyDocument] = {}
    for number, document in zip(ids, documents, strict=True):
        if document is None or not _is_own(document, user_id) or document.contract_id != collaboration:
            continue
        parsed = parse_sealing_document(document.data, document_id=document.id)
        if parsed.user_id == user_id:
            found[number] = parsed
    return found


def _is_own(document: AcceptedDocument, user_id: str) -> bool:
    return document.proposer_id == user_id and document.accepted_by == (user_id,)


async def _with_retirements(reader: GovernanceReader, first: KeyHistory) -> KeyHistory:
    """Return the history of a user who has retired keys."""
    user_id = first.user_id
    ids = [retirement_document_id(user_id, number) for number in range(1, MAX_RETIREMENTS + 1)]
    found = await asyncio.gather(*(find_accepted(reader, document_id) for document_id in ids))
    keys = list(first.keys)
    retired: dict[str, int] = {}
    for document in found:
        # Documents of other users occupy a number and mean nothing.
        if document is None or not _is_own(document, user_id):
            continue
        retirement = parse_retirement_document(document.data, document_id=document.id)
        if retirement.user_id != user_id:
            raise Refused("ApproverKeyInvalid", f"{document.id}: it contains keys of user {retirement.user_id}.")
        keys += [key for key in retirement.keys if key not in keys]
        for kid in retirement.retires:
            retired[kid] = min(document.position, retired.get(kid, document.position))
    if not retired:
        retired = dict.fromkeys((key.kid for key in keys), 0)
    return KeyHistory(user_id=user_id, keys=tuple(keys), retired=retired)
