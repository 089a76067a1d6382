"""``cleanroom collaboration``, ``invite``, ``accept-invitation``, ``members``. Also ``python -m starters.collaboration``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cleanroom.onboarding import Onboarding, member_client
from starters.operations.collaboration import (
    accept,
    create_collaboration,
    invitation_record,
    list_members,
    print_waiting_steps,
    show_collaboration,
)
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record, print_rows, print_status, safe

app = typer.Typer(help="Set up a collaboration; for members of the consortium.", no_args_is_help=True)
members_app = typer.Typer(help="Members, users and invitations.", invoke_without_command=True)

CollaborationName = Annotated[str | None, typer.Argument(help="Id of the contract; that of the settings when absent.", show_default=False)]
InvitationId = Annotated[str, typer.Argument(help="The invitation's id.", show_default=False)]


def _collaboration_id(session: Session, name: str | None) -> str:
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
    with error_boundary(output):
        session = Session.load(profile, config)
        record = run_async(create_collaboration(session, _collaboration_id(session, name), data, host_data or [], oidc_issuer, oidc_kid))
        print_record(record, output, title=f"collaboration {record['collaboration']}")


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
    with error_boundary(output):
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
    with error_boundary(output):
        session = Session.load(profile, config)
        record = run_async(show_collaboration(session, _collaboration_id(session, name)))
        print_record(record, output, title=f"collaboration {record['collaboration']}")


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
    with error_boundary(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with member_client(session.settings) as client:
                found, step = await Onboarding(client).invite(
                    user_name, invitation_id=invitation, tenant_id=tenant, service_principal=service_principal
                )
            print_waiting_steps([step])
            return {"invitation": found, "userName": user_name, **step.model_dump(mode="json")}

        record = run_async(work())
        print_record(record, output, title="invitation")
        if record["state"] != "waiting":
            print_status(f"the invited user now runs [bold]cleanroom accept-invitation {safe(record['invitation'])}[/bold]")


def accept_invitation(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Accept an invitation with your own credential. A member admits you afterwards.

    Example: cleanroom accept-invitation 3f2a… --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        record = run_async(accept(session, invitation))
        print_record(record, output, title="invitation")
        if record["status"] == "Accepted":
            print_status(f"a member of the consortium now runs [bold]cleanroom members admit {safe(record['invitation'])}[/bold]")


@members_app.callback()
def members(ctx: typer.Context, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the consortium's members, the registered users and the invitations.

    Example: cleanroom members --profile contosso
    """
    if ctx.invoked_subcommand is not None:
        return
    with error_boundary(output):
        session = Session.load(profile, config)
        rows = run_async(list_members(session))
        print_rows(rows, output, columns=("kind", "id", "name", "party", "status"), title="members")


@members_app.command()
def admit(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Register the user who accepted an invitation, as a member of the consortium.

    Example: cleanroom members admit 3f2a… --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with member_client(session.settings) as client:
                found, step = await Onboarding(client).admit(invitation)
            print_waiting_steps([step])
            return {**invitation_record(found), **step.model_dump(mode="json")}

        print_record(run_async(work()), output, title="user")


def mount(root: typer.Typer) -> None:
    """Add ``invite``, ``accept-invitation`` and ``members`` to a command line."""
    root.command("invite")(invite)
    root.command("accept-invitation")(accept_invitation)
    root.add_typer(members_app, name="members")


if __name__ == "__main__":
    mount(app)
    main(app)
