"""Checks of Entra ID and governance: sign-in, clock, user, contract, policies, trust document, key, and what ended runs have left."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from cleanroom.claims import HOST_DATA
from cleanroom.errors import PreconditionFailed, Refused, Unavailable
from cleanroom.governance import GovernanceUserClient
from cleanroom.identifiers import run_workflow_id
from starters.operations.collaboration import governance_reader, is_member, trust_source
from starters.operations.doctor.checks import Check, NotApplicable
from starters.operations.doctor.machine import SIGNING_KEY
from starters.operations.doctor.temporal import CONNECTION
from starters.operations.session import Session

if TYPE_CHECKING:
    from cleanroom.trust import AcceptedTrust

SIGN_IN, GOVERNANCE, TRUST = "sign-in to Entra ID", "connection to governance", "trust document"
MAX_SKEW = dt.timedelta(seconds=60)
"""Governance refuses signed requests whose time differs by more, and tokens are not valid yet or no longer."""
LOOKED_AT = 200
"""How many runs with grants are compared with Temporal."""


def governance_checks(session: Session) -> Iterator[Check]:
    """Yield the checks of Entra ID and governance."""
    settings = session.settings
    person = not is_member(session)

    async def sign_in() -> str:
        return await _sign_in(session)

    async def clock() -> str:
        return await _compare_clock(session)

    async def connection() -> str:
        async with governance_reader(session) as client:
            users = await client.list_identities()
        _require_user(session, {user.id for user in users})
        return f"{settings.governance.proxy_url or settings.governance.url}, {len(users)} users"

    async def contract() -> str:
        async with governance_reader(session) as client:
            return await _require_contract(session, client)

    async def policy() -> str:
        async with governance_reader(session) as client:
            return await _require_policy(session, client)

    async def trust() -> str:
        accepted = await trust_in_force(session)
        return f"{accepted.id}, digest {accepted.digest[:12]}"

    async def image() -> str:
        return _describe_image((await trust_in_force(session)).document.pods.image)

    async def issuer() -> str:
        async with governance_reader(session) as client:
            info = await client.oidc_issuer_info()
        if not info.enabled or not info.issuer_url:
            raise PreconditionFailed(
                "OidcIssuerNotEnabled",
                "governance issues no ID tokens, so clean rooms cannot sign in as the owners' identities.",
                hint="A member enables it: `cleanroom collaboration create --oidc-issuer URL`",
            )
        return info.issuer_url

    async def key() -> str:
        return await _compare_key(session)

    async def left() -> str:
        return await _find_leftovers(session)

    if person:
        yield Check("governance", SIGN_IN, sign_in, ("settings", "files with secrets"))
    yield Check("governance", "clock", clock)
    yield Check("governance", GOVERNANCE, connection, (SIGN_IN,) if person else ())
    yield Check("governance", "contract", contract, (GOVERNANCE,))
    yield Check("governance", "clean room policy", policy, (GOVERNANCE,))
    yield Check("governance", TRUST, trust, (GOVERNANCE,))
    yield Check("governance", "image of the pods", image, (TRUST,))
    yield Check("governance", "issuer of ID tokens", issuer, (GOVERNANCE,))
    if settings.party is not None and not settings.deputy:
        yield Check("governance", "published key", key, (GOVERNANCE, "signing key"))
    yield Check("governance", "left of ended runs", left, (GOVERNANCE, CONNECTION))


async def trust_in_force(session: Session) -> AcceptedTrust:
    """Return the trust document in force."""
    async with governance_reader(session) as client:
        return await trust_source(client, session.collaboration).in_force()


async def _sign_in(session: Session) -> str:
    claims = await session.claims()
    own, user = session.settings.parties.get(session.settings.party or ""), claims.get("oid")
    if own is not None and user is not None and own != user:
        raise Refused(
            "OtherUser",
            f"the credential signs in as user {user}, but [default.parties] names {own} for {session.settings.party!r}.",
            hint="Correct the credential of the profile, or the user ID in [default.parties].",
        )
    return f"as user {user or claims.get('sub', 'unknown')} with credential {session.settings.credential.kind}"


async def _compare_clock(session: Session) -> str:
    """Compare this machine's clock with the HTTP date of governance."""
    import httpx

    from cleanroom.transport import async_http_client, ssl_context

    settings = session.settings
    url = settings.governance.proxy_url or settings.governance.url
    if not url:
        raise NotApplicable("no service to compare with: governance.url is not set")
    roots = settings.ca_file if settings.governance.proxy_url else settings.governance_roots
    try:
        async with async_http_client(ssl_context(roots), timeout=httpx.Timeout(10)) as client:
            date = (await client.head(url)).headers.get("date")
    except httpx.HTTPError as error:
        raise NotApplicable("governance does not answer") from error
    if date is None:
        raise NotApplicable("governance sends no time")
    skew = dt.datetime.now(dt.UTC) - parsedate_to_datetime(date)
    if abs(skew) > MAX_SKEW:
        raise PreconditionFailed(
            "ClockDiffers",
            f"this machine's clock is {abs(skew.total_seconds()):.0f} s {'ahead of' if skew > dt.timedelta() else 'behind'} governance.",
            hint="Synchronise it (for example `timedatectl set-ntp true`).",
        )
    return f"differs from governance by less than {max(1, round(abs(skew.total_seconds())) + 1)} s"


def _require_user(session: Session, users: set[str]) -> None:
    own = session.settings.parties.get(session.settings.party or "")
    if own is not None and own not in users:
        raise Refused(
            "CallerNotAuthorized",
            f"user {own} of {session.settings.party!r} is not registered in governance.",
            hint="A member invites and admits the user: `cleanroom invite USER`, `cleanroom members admit USER`.",
            party="operator",
        )


async def _require_contract(session: Session, client: GovernanceUserClient) -> str:
    contract = await client.get_contract(session.collaboration)
    if contract.state != "Accepted":
        raise PreconditionFailed(
            "ContractNotAccepted",
            f"contract {contract.id!r} is {contract.state}.",
            hint=f"Members vote on it: `cleanroom collaboration vote {contract.proposal_id or 'PROPOSAL'}`",
        )
    consent = await client.contract_consent(session.collaboration)
    if consent.status != "enabled":
        raise Refused("ContractDisabled", "a member has disabled the execution of the contract.", hint="The member enables it again.")
    return "accepted, execution enabled"


async def _require_policy(session: Session, client: GovernanceUserClient) -> str:
    found = await client.clean_room_policy(session.collaboration)
    admitted = found.policy.get(HOST_DATA, [])
    if not admitted:
        raise PreconditionFailed(
            "CleanRoomPolicyEmpty",
            "the contract admits no clean room.",
            hint="A member admits it: `cleanroom collaboration create --host-data HEX`",
        )
    return f"admits {len(admitted)} clean rooms" + (f"; open proposals: {len(found.proposal_ids)}" if found.proposal_ids else "")


def _describe_image(image: str) -> str:
    if "@sha256:" not in image:
        raise Refused("ImageNotPinned", f"the trust document names image {image!r} without a digest.", hint="Members accept another one.")
    return image


async def _compare_key(session: Session) -> str:
    from cleanroom.runs.published_keys import published_keys
    from cleanroom.runs.reader import UserReader

    if not (session.settings.keys_dir.expanduser() / SIGNING_KEY).exists():
        raise NotApplicable("there is no signing key")
    own = session.key().public.kid
    async with session.governance() as client:
        history = await published_keys(UserReader(client, session.collaboration), session.collaboration, session.user_id)
    if own not in {key.kid for key in history.active}:
        raise Refused(
            "ApproverKeyRetired" if own in history.retired else "ApproverKeyDiffers",
            f"the signing key {own} of this folder is not among the published keys.",
            hint="Set keys_dir to the folder of the published key, or run `cleanroom key retire`, which publishes the key of this folder.",
        )
    return f"{own} is published"


async def _find_leftovers(session: Session) -> str:
    """Look for grants of runs whose workflow is not open, as `cleanroom cleanup` does with more care."""
    from temporalio.client import WorkflowExecutionStatus
    from temporalio.service import RPCError, RPCStatusCode

    from cleanroom.runs.held import read_held

    async with governance_reader(session) as client:
        found = await read_held(client, session.collaboration)
    runs = sorted(run_id for run_id, held in found.runs.items() if held.grants)[:LOOKED_AT]
    temporal = await session.temporal()
    ended = []
    for run_id in runs:
        try:
            described = await temporal.get_workflow_handle(run_workflow_id(session.collaboration, run_id)).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise Unavailable("TemporalUnavailable", "Temporal does not describe a run.", hint="Repeat the command.") from error
            ended.append(run_id)
        else:
            if described.status is not WorkflowExecutionStatus.RUNNING:
                ended.append(run_id)
    if ended:
        raise PreconditionFailed(
            "GrantsLeft",
            f"{len(ended)} runs without an open workflow hold grants: {', '.join(ended[:5])}.",
            hint="See what is left with `cleanroom cleanup`, and undo it with `cleanroom cleanup --apply`.",
            party="operator",
        )
    return f"nothing; {len(runs)} open runs hold grants" if runs else "nothing"
