"""Names, lists and revokes the deputies of an owner."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cleanroom.documents.validation import describe_validation
from cleanroom.documents.yaml_files import read_text
from cleanroom.errors import CleanRoomError, InvalidInput, PreconditionFailed
from cleanroom.identifiers import approver_key_document_id, deputy_document_id
from cleanroom.runs.deputies import DEPUTY_LABELS, deputy_document_data, read_deputation
from cleanroom.runs.published_keys import published_keys
from cleanroom.runs.reader import UserReader, to_accepted_document
from cleanroom.statements import Deputation, KeyHistory, sign
from cleanroom.statements.keys import PublicJwk, RetirementDocument
from starters.operations.keys import publish_retirement
from starters.operations.session import Session, now

if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient


def deputy_key(session: Session) -> dict[str, str]:
    """Return the public key of this profile as a JWK; create the key at first use."""
    return session.key().public.model_dump()


async def name_deputy(session: Session, name: str, file: Path, valid_from: dt.datetime, expires: dt.datetime) -> dict[str, Any]:
    """Name the holder of the public key in ``file`` as a deputy, with a signed document in governance. Idempotent.

    Args:
        session: Session of the owner.
        name: Name of the deputy.
        file: Output of `cleanroom deputy key`.
        valid_from: When the deputy's decisions begin to count.
        expires: When they cease to.

    Raises:
        InvalidInput: ``DeputyKeyInvalid``, ``DeputyInvalid``.
        PreconditionFailed: ``ApproverKeyUnknown`` when the owner's own key is not published.
        Conflict: ``DocumentDiffers`` when this key was named with other terms.
    """
    key = _public_key(file)
    if key.kid == session.key().public.kid:
        raise InvalidInput("DeputyKeyInvalid", f"{file}: it is your own signing key.", hint="Let the deputy run `cleanroom deputy key`.")
    document_id = deputy_document_id(session.user_id, key.kid)
    async with session.governance() as client:
        if session.key().public.kid not in {item.kid for item in (await _keys(session, client, session.user_id)).active}:
            raise PreconditionFailed(
                "ApproverKeyUnknown", "your signing key is not among your published keys.", hint="Publish it with `cleanroom key publish`."
            )
        documents = session.documents(client)
        existing = await documents.find(document_id)
        if existing is not None and existing.state == "Accepted":
            held = await _deputation(session, client, existing)
            if (held.deputy, held.valid_from, held.expires) == (name, valid_from, expires):
                return _row(session, held, await _keys(session, client, session.user_id))
        try:
            wanted = Deputation(
                collaboration=session.collaboration,
                signer=session.user_id,
                expires=expires,
                deputy=name,
                key=key,
                valid_from=valid_from,
            )
        except ValidationError as error:
            raise InvalidInput("DeputyInvalid", f"deputy {name!r}: {describe_validation(error)}.") from error
        data = deputy_document_data(sign(wanted, session.key()))
        await documents.publish_own(document_id, data, DEPUTY_LABELS, session.user_id)
        return _row(session, wanted, await _keys(session, client, session.user_id))


async def revoke_deputy(session: Session, kid: str) -> dict[str, Any]:
    """Retire a deputy's key. What governance recorded with it before stays valid. Idempotent.

    Raises:
        NotFound: ``UserDocumentNotFound`` when the key is not one of the owner's deputies.
        PreconditionFailed: ``TooManyRetirements``.
    """
    async with session.governance() as client:
        document = await session.documents(client).get(deputy_document_id(session.user_id, kid))
        keys = await _keys(session, client, session.user_id)
        if kid not in keys.retired:
            await publish_retirement(session, client, RetirementDocument(user_id=session.user_id, retires=(kid,), keys=()))
            await client.set_document_consent(session.collaboration, approver_key_document_id(session.user_id), enabled=False)
            keys = await _keys(session, client, session.user_id)
        return _row(session, await _deputation(session, client, document), keys)


async def list_deputies(session: Session) -> list[dict[str, Any]]:
    """List the deputies of all owners, as governance holds them."""
    rows: list[dict[str, Any]] = []
    async with session.governance() as client:
        for found in await session.documents(client).select(DEPUTY_LABELS):
            try:
                document = await session.documents(client).get(found.id)
                held = await _deputation(session, client, document)
                rows.append(_row(session, held, await _keys(session, client, held.signer)))
            except CleanRoomError as error:
                # Any user can store a document that names no deputy.
                rows.append({"deputy": found.id, "state": error.code})
    return rows


async def _keys(session: Session, client: GovernanceUserClient, user_id: str) -> KeyHistory:
    return await published_keys(UserReader(client, session.collaboration), session.collaboration, user_id)


async def _deputation(session: Session, client: GovernanceUserClient, document: Document) -> Deputation:
    accepted = to_accepted_document(document)
    keys = await _keys(session, client, accepted.proposer_id)
    return read_deputation(accepted, keys, collaboration=session.collaboration, recorded_at=0)


def _row(session: Session, held: Deputation, keys: KeyHistory) -> dict[str, Any]:
    names = session.settings.user_names
    if held.key.kid in keys.retired:
        state = "revoked"
    elif held.expired(now()):
        state = "expired"
    else:
        state = "valid" if held.valid_from <= now() else "not yet valid"
    return {
        "owner": names.get(held.signer, held.signer),
        "deputy": held.deputy,
        "state": state,
        "from": held.valid_from.isoformat(),
        "until": held.expires.isoformat(),
        "kid": held.key.kid,
    }


def _public_key(file: Path) -> PublicJwk:
    try:
        key = PublicJwk.model_validate(json.loads(read_text(file)))
        key.public_key()
    except (ValueError, CleanRoomError) as error:
        raise InvalidInput(
            "DeputyKeyInvalid", f"{file}: not a public Ed25519 key.", hint="Let the deputy run `cleanroom deputy key`."
        ) from error
    return key
