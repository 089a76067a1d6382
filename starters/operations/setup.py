"""The set-up of a collaborator: profile, user, collaborators, keys, keyring. Every step can be repeated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cleanroom.errors import Conflict, PreconditionFailed, Refused
from cleanroom.identifiers import MAX_NAME, is_name
from cleanroom.joining import slug
from starters.operations.session import Session

if TYPE_CHECKING:
    from cleanroom.governance import GovernanceUserClient, UserIdentity

State = Literal["done", "unchanged", "waiting"]
SERVICES = ("frontend", "clean-room", "spark-service")
"""Names of the operator's services, which are users of governance and no collaborators."""


def step(profile: str, name: str, state: State, detail: str) -> dict[str, str]:
    """Return the row of a step: what was done, what was there, or who must act."""
    return {"profile": profile, "step": name, "state": state, "detail": detail}


async def set_up(profile: str, file: Path, *, keyring: Path | None = None, new_keyring: bool = False) -> list[dict[str, str]]:
    """Set up the collaborator of a profile, as far as this user can; a step that needs another person is ``waiting``.

    Args:
        profile: Profile in ``file``.
        file: The configuration file.
        keyring: Sealed keyring of the payload codec, from another collaborator.
        new_keyring: Whether to generate the keyring, as the first collaborator.
    """
    session = Session.load(profile, str(file))
    party = session.party
    rows: list[dict[str, str]] = []
    own = str((await session.claims()).get("oid", ""))
    async with session.governance() as client:
        users = await _users(client)
    if own not in users:
        how = "A member runs `cleanroom invite NAME`, you `cleanroom accept-invitation ID`, and the member `cleanroom members admit ID`."
        return [step(profile, "user", "waiting", f"user {own} is not registered in governance. {how} Then repeat this command.")]
    rows.append(step(profile, "user", "unchanged", f"registered as {own}"))
    parties = {**session.settings.parties, **collaborators(users.values(), session.settings.parties)}
    if parties.get(party, own) != own:
        raise Conflict(
            "PartyDiffers",
            f"{party!r} is user {parties[party]} in governance, and the credential of profile {profile!r} belongs to user {own}.",
            hint="Check the credential of the profile, or choose another name.",
        )
    parties = {name: user for name, user in parties.items() if user != own} | {party: own}
    added = sorted(set(parties) - set(session.settings.parties))
    if parties != session.settings.parties:
        from starters.operations.profiles import add_parties

        add_parties(file, profile, parties)
        session = Session.load(profile, str(file))
    rows.append(step(profile, "collaborators", "done" if added else "unchanged", ", ".join(added or sorted(parties))))
    rows += await _keys(session)
    rows.append(await _keyring(session, keyring, new_keyring))
    return rows


async def _users(client: GovernanceUserClient) -> dict[str, UserIdentity]:
    """Return the registered users by ID; empty for a user who is not registered, and may read nothing."""
    try:
        return {user.id: user for user in await client.list_identities()}
    except Refused as error:
        if error.code != "CallerNotAuthorized":
            raise
        return {}


def collaborators(users: Iterable[UserIdentity], known: dict[str, str]) -> dict[str, str]:
    """Return names for the users of governance that have none in ``known``: the sign-in name's part before the @, as a name.

    Two users with the same part get the company's name in addition. Services of the operator are left out.
    """
    found: dict[str, str] = {}
    for user in sorted(users, key=lambda user: user.id):
        local, _, domain = (user.data.identifier or "").partition("@")
        name = _as_name(local)
        if user.id in known.values() or not domain or not name or name in SERVICES:
            continue
        if name in found or name in known:
            name = _as_name(f"{local}-{domain.partition('.')[0]}")
        while name in found or name in known:
            name = f"{name[: MAX_NAME - 2].rstrip('-')}-2" if not name[-1].isdigit() else f"{name[:-1]}{int(name[-1]) + 1}"
        found[name] = user.id
    return found


def _as_name(text: str) -> str:
    name = slug(text, MAX_NAME)
    return name if is_name(name) else ""


async def _keys(session: Session) -> list[dict[str, str]]:
    from cleanroom.runs.published_keys import published_keys
    from cleanroom.runs.reader import UserReader
    from starters.operations.keyrings import publish_sealing_key
    from starters.operations.keys import publish_key

    profile, known = session.settings.profile, False
    async with session.governance() as client:
        try:
            history = await published_keys(UserReader(client, session.collaboration), session.collaboration, session.user_id)
            known = session.key().public.kid in {key.kid for key in history.active}
        except PreconditionFailed as error:
            if error.code != "ApproverKeyNotPublished":
                raise
    signing = await publish_key(session)
    sealing, changed = await publish_sealing_key(session)
    return [
        step(profile, "signing key", "unchanged" if known else "done", f"{signing['kid']} is published"),
        step(profile, "sealing key", "done" if changed else "unchanged", f"{sealing} is published"),
    ]


async def _keyring(session: Session, sealed: Path | None, generate: bool) -> dict[str, str]:
    from cleanroom.temporal.keyring import Keyring
    from starters.operations.keyrings import open_keyring

    profile, file = session.settings.profile, session.settings.temporal.keyring_file
    if sealed is not None:
        key, changed = await open_keyring(session, sealed)
        return step(profile, "keyring", "done" if changed else "unchanged", f"key {key} encrypts payloads")
    if file is not None and file.exists():
        return step(profile, "keyring", "unchanged", f"key {Keyring.load(file).current} encrypts payloads")
    if generate and file is not None:
        generated = Keyring.generate()
        generated.save(file)
        return step(profile, "keyring", "done", f"key {generated.current} encrypts payloads")
    party = session.party
    how = f"A collaborator who has it runs `cleanroom keyring seal {party} --out FILE`; then run `cleanroom init {profile} --keyring FILE`."
    return step(profile, "keyring", "waiting", f"{how} The first collaborator generates it: `cleanroom init {profile} --new-keyring`.")


def new_profile(name: str, answers: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a new profile: what the user gave, and the places of keys below the configuration file."""
    values = {"boundary": "collaborator", "party": name, "keys_dir": f"{name}/keys", **answers}
    return {**values, "temporal": {"keyring_file": f"{name}/keyring.json", **values.get("temporal", {})}}
