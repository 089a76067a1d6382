"""``cleanroom collaboration``, ``invite``, ``accept-invitation``, ``members``. Also ``python -m starters.collaboration``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from cleanroom.claims import HOST_DATA
from cleanroom.errors import Conflict
from cleanroom.governance import GovernanceUserClient, Invitation, host_data_claims
from cleanroom.onboarding import Onboarding, Step, member_client, require_id, require_issuer_url
from starters.entry import command_line
from starters.output import ConfigFile, Format, Output, Profile, print_record, print_rows, reported, safe, say
from starters.session import Session, run_async

app = typer.Typer(help="Set up a collaboration; for members of the consortium.", no_args_is_help=True)
members_app = typer.Typer(help="Members, users and invitations.", invoke_without_command=True)

CollaborationName = Annotated[str | None, typer.Argument(help="Id of the contract; that of the settings when absent.", show_default=False)]
InvitationId = Annotated[str, typer.Argument(help="The invitation's id.", show_default=False)]


def is_member(session: Session) -> bool:
    """Whether this profile acts as a member of the consortium, and as no user."""
    return session.settings.party is None and bool(session.settings.governance.proxy_url)


def as_person(session: Session) -> GovernanceUserClient:
    """Governance as the user whose profile this is.

    Raises:
        InvalidInput: ``ProfileIsNoPerson`` for a member's profile: it has no user's credential.
    """
    if is_member(session):
        session.party  # noqa: B018 - raises, naming the people
    return session.governance()


@asynccontextmanager
async def reader(session: Session) -> AsyncIterator[GovernanceUserClient]:
    """Governance as whoever this profile is: a member through the proxy, or a user."""
    async with member_client(session.settings) if is_member(session) else session.governance() as client:
        yield client


def _name(session: Session, name: str | None) -> str:
    return session.collaboration if name is None else name


@app.command()
def create(
    name: CollaborationName = None,
    profile: Profile = None,
    config: ConfigFile = None,
    data: Annotated[str | None, typer.Option(help="What the contract says, in your own words.")] = None,
    host_data: Annotated[list[str] | None, typer.Option(help="Host data (hex) of a clean room to admit; repeatable.")] = None,
    oidc_issuer: Annotated[str | None, typer.Option(help="Governed issuer URL of the clean rooms' ID tokens.")] = None,
    oidc_kid: Annotated[str, typer.Option(help="Name of the issuer's first signing key.")] = "cleanroom",
    output: Output = Format.TABLE,
) -> None:
    """Create a collaboration: contract, clean room policy, OIDC issuer. Repeat it to go on where other members had to vote.

    Example: cleanroom collaboration create flights --host-data 5d41… --profile operator
    """
    with reported(output):
        session = Session.load(profile, config)
        record = run_async(create_collaboration(session, _name(session, name), data, host_data or [], oidc_issuer, oidc_kid))
        print_record(record, output, title=f"collaboration {record['collaboration']}")


async def create_collaboration(
    session: Session, name: str, data: str | None, host_data: list[str], oidc_issuer: str | None, oidc_kid: str = "cleanroom"
) -> dict[str, Any]:
    """All steps that this member can do; stops at a contract that others must accept first. Wrong words change nothing."""
    require_id("collaboration", name)
    if host_data:
        host_data_claims(host_data)
    if oidc_issuer:
        require_issuer_url(oidc_issuer)
    async with member_client(session.settings) as client:
        onboarding = Onboarding(client)
        contract, first = await onboarding.contract(name, data)
        steps = [first]
        if contract.state == "Accepted":
            if host_data:
                steps.append(await onboarding.clean_room_policy(name, host_data))
            if oidc_issuer:
                steps += await onboarding.oidc_issuer(oidc_issuer, oidc_kid)
        _tell_waiting(steps)
        return {
            "collaboration": contract.id,
            "state": contract.state,
            "version": contract.version,
            "steps": [step.model_dump(mode="json") for step in steps],
        }


def _tell_waiting(steps: list[Step]) -> None:
    for step in steps:
        if step.state == "waiting":
            say(f"{step.step}: other members must vote, then repeat this; each of them runs")
            say(f"  [bold]cleanroom collaboration vote {safe(step.proposal_id)}[/bold]")


@app.command()
def vote(
    proposal: Annotated[str, typer.Argument(help="Id of the members' proposal.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    accept: Annotated[bool, typer.Option("--accept/--reject", help="Your vote.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Vote, as a member, on another member's proposal.

    Example: cleanroom collaboration vote 6f1c… --profile operator
    """
    with reported(output):
        session = Session.load(profile, config)

        async def cast() -> dict[str, Any]:
            async with member_client(session.settings) as client:
                answer = await client.vote(proposal, accept=accept)
                return {"proposalId": answer.proposal_id, "state": answer.proposal_state, "ballots": answer.ballot_count}

        print_record(run_async(cast()), output, title="vote")


@app.command()
def show(name: CollaborationName = None, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show a collaboration: contract, clean rooms it admits, issuer, consent, who takes part.

    Example: cleanroom collaboration show --profile contosso
    """
    with reported(output):
        session = Session.load(profile, config)
        record = run_async(show_collaboration(session, _name(session, name)))
        print_record(record, output, title=f"collaboration {record['collaboration']}")


async def show_collaboration(session: Session, name: str) -> dict[str, Any]:
    """The collaboration as governance has it."""
    async with reader(session) as client:
        contract = await client.get_contract(name)
        policy = await client.clean_room_policy(name)
        issuer = await client.oidc_issuer_info()
        consent = await client.contract_consent(name)
        members, users = await client.members(), await client.list_identities()
    return {
        "collaboration": contract.id,
        "state": contract.state,
        "version": contract.version,
        "data": contract.data,
        "cleanRooms": policy.policy.get(HOST_DATA, []),
        "openPolicyProposals": list(policy.proposal_ids),
        "issuer": {"enabled": issuer.enabled, "url": issuer.issuer_url},
        "execution": consent.status,
        "members": len(members),
        "users": len(users),
    }


def invite(
    user_name: Annotated[str, typer.Argument(help="Sign-in name; the application id of a service principal.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    tenant: Annotated[str | None, typer.Option(help="Tenant that the user must come from; needed for a service principal.")] = None,
    service_principal: Annotated[bool, typer.Option("--service-principal", help="Invite an application, not a person.")] = False,
    invitation: Annotated[str | None, typer.Option(help="Id of the invitation; made up when absent.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Invite a user, as a member of the consortium.

    Example: cleanroom invite ann@contosso.example --profile operator
    """
    with reported(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with member_client(session.settings) as client:
                found, step = await Onboarding(client).invite(
                    user_name, invitation_id=invitation, tenant_id=tenant, service_principal=service_principal
                )
            _tell_waiting([step])
            return {"invitation": found, "userName": user_name, **step.model_dump(mode="json")}

        record = run_async(work())
        print_record(record, output, title="invitation")
        if record["state"] != "waiting":
            say(f"the invited user now runs [bold]cleanroom accept-invitation {safe(record['invitation'])}[/bold]")


def accept_invitation(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Accept an invitation with your own credential. A member admits you afterwards.

    Example: cleanroom accept-invitation 3f2a… --profile litware
    """
    with reported(output):
        session = Session.load(profile, config)
        record = run_async(accept(session, invitation))
        print_record(record, output, title="invitation")
        if record["status"] == "Accepted":
            say(f"a member of the consortium now runs [bold]cleanroom members admit {safe(record['invitation'])}[/bold]")


async def accept(session: Session, invitation_id: str) -> dict[str, Any]:
    """Accept, or find that this very user accepted before.

    Raises:
        Conflict: ``InvitationNotOpen`` when somebody else did.
        Refused: ``TokenClaimMissing``, ``TokenClaimMismatch``: it is another user's invitation.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    async with as_person(session) as client:
        try:
            await client.accept_invitation(invitation_id)
        except Conflict as error:
            found = await client.get_invitation(invitation_id)
            mine = session.settings.parties.get(session.settings.party or "")
            if error.code != "InvitationNotOpen" or found.user_info is None or found.user_info.user_id != mine:
                raise
        return _invitation(await client.get_invitation(invitation_id))


def _invitation(invitation: Invitation) -> dict[str, Any]:
    user = invitation.user_info
    return {
        "invitation": invitation.invitation_id,
        "status": invitation.status,
        "claims": invitation.claims,
        "user": user.user_id if user else None,
        "tenant": user.data.tenant_id if user else None,
    }


@members_app.callback()
def members(ctx: typer.Context, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the consortium's members, the registered users and the invitations.

    Example: cleanroom members --profile contosso
    """
    if ctx.invoked_subcommand is not None:
        return
    with reported(output):
        session = Session.load(profile, config)
        rows = run_async(list_members(session))
        print_rows(rows, output, columns=("kind", "id", "name", "party", "status"), title="members")


async def list_members(session: Session) -> list[dict[str, Any]]:
    """Rows ``{kind: member|user|invitation, id, name, party, status}``."""
    parties = {user: name for name, user in session.settings.parties.items()}
    async with reader(session) as client:
        found, users, invitations = await client.members(), await client.list_identities(), await client.list_invitations()
    rows: list[dict[str, Any]] = [
        {"kind": "member", "id": item.member_id, "name": (item.member_data or {}).get("identifier", ""), "party": "", "status": item.status}
        for item in found
    ]
    rows += [
        {"kind": "user", "id": item.id, "name": item.data.identifier or "", "party": parties.get(item.id, ""), "status": "Active"}
        for item in users
    ]
    rows += [
        {
            "kind": "invitation",
            "id": item.invitation_id,
            "name": ", ".join(str(value) for values in item.claims.values() for value in values),
            "party": parties.get(item.user_info.user_id, "") if item.user_info else "",
            "status": item.status,
        }
        for item in invitations
        if item.status != "Finalized"
    ]
    return rows


@members_app.command()
def admit(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Register the user who accepted an invitation, as a member of the consortium.

    Example: cleanroom members admit 3f2a… --profile operator
    """
    with reported(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with member_client(session.settings) as client:
                found, step = await Onboarding(client).admit(invitation)
            _tell_waiting([step])
            return {**_invitation(found), **step.model_dump(mode="json")}

        print_record(run_async(work()), output, title="user")


def mount(root: typer.Typer) -> None:
    """Add ``invite``, ``accept-invitation`` and ``members`` to a command line."""
    root.command("invite")(invite)
    root.command("accept-invitation")(accept_invitation)
    root.add_typer(members_app, name="members")


if __name__ == "__main__":
    mount(app)
    command_line(app)
