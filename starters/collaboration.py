"""``cleanroom collaboration``, ``invite``, ``accept-invitation``, ``members``. Also ``python -m starters.collaboration``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleanroom.errors import NotFound
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import (
    ConfigFile,
    Format,
    Output,
    Profile,
    error_boundary,
    print_json,
    print_record,
    print_rows,
    print_status,
    safe,
)

if TYPE_CHECKING:
    from cleanroom.trust import TrustDocument

app = typer.Typer(help="Set up a collaboration, as a member of the consortium.", no_args_is_help=True)
members_app = typer.Typer(help="List members, users and invitations, and admit users.", invoke_without_command=True)

CollaborationName = Annotated[str | None, typer.Argument(help="ID of the contract in governance.", show_default="from the settings")]
InvitationId = Annotated[str, typer.Argument(help="ID of the invitation.", show_default=False)]


@app.command()
def create(
    name: CollaborationName = None,
    profile: Profile = None,
    config: ConfigFile = None,
    data: Annotated[str | None, typer.Option(help="Text of the contract.")] = None,
    host_data: Annotated[list[str] | None, typer.Option(help="Host data (hex) of a clean room to admit; repeatable.")] = None,
    trust: Annotated[Path | None, typer.Option(help="File with the trust document to propose (JSON).", show_default=False)] = None,
    oidc_issuer: Annotated[str | None, typer.Option(help="URL of the issuer of the clean rooms' ID tokens.")] = None,
    oidc_kid: Annotated[str, typer.Option(help="Key ID of the issuer's first signing key.")] = "cleanroom",
    output: Output = Format.TABLE,
) -> None:
    """Create a collaboration: contract, clean room policy, trust document, OIDC issuer.

    Some steps need the votes of other members. The command then prints the vote command for them; repeat this command after they have
    voted. Idempotent.

    Example: cleanroom collaboration create flights --oidc-issuer https://issuer.example --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import create_collaboration

        contract = session.collaboration if name is None else name
        document = _read_trust_document(trust) if trust is not None else None
        record = run_async(create_collaboration(session, contract, data, host_data or [], oidc_issuer, oidc_kid, trust=document))
        _print_vote_commands(record["steps"])
        print_record(record, output, title=f"collaboration {record['collaboration']}")


def _read_trust_document(path: Path) -> TrustDocument:
    # Imported on use: its rules are those of attestation.
    from cleanroom.trust.document import parse_trust_document

    return parse_trust_document(read_text(path), document_id=str(path))


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        NotFound: ``FileNotFound``.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound("FileNotFound", f"{path} cannot be read.", cause=str(error)) from error


def _print_vote_commands(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        if step["state"] == "waiting":
            print_status(f"{step['step']}: waiting for the votes of other members. Each of them runs")
            print_status(f"  [bold]cleanroom collaboration vote {safe(step['proposal_id'])}[/bold]")
            print_status("  Repeat this command afterwards.")


@app.command()
def trust(
    name: CollaborationName = None,
    profile: Profile = None,
    config: ConfigFile = None,
    print_: Annotated[
        bool, typer.Option("--print", help="Print the next document as JSON: the one in force with the next number, or a template.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the trust document in force: the code, hardware and hosts that the collaboration trusts.

    Example: cleanroom collaboration trust --print --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import show_trust, trust_template

        contract = session.collaboration if name is None else name
        if print_:
            print_json(run_async(trust_template(session, contract)))
        else:
            print_record(run_async(show_trust(session, contract)), output, title=f"trust document of {contract}")


@app.command()
def vote(
    proposal: Annotated[str, typer.Argument(help="ID of the proposal.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    accept: Annotated[bool, typer.Option("--accept/--reject", help="Your vote.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Vote on another member's proposal.

    Example: cleanroom collaboration vote PROPOSAL_ID --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import cast_vote

        print_record(run_async(cast_vote(session, proposal, accept=accept)), output, title="vote")


@app.command()
def show(name: CollaborationName = None, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show a collaboration: contract, admitted clean rooms, OIDC issuer, consent, number of members and users.

    Example: cleanroom collaboration show --profile contosso
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import show_collaboration

        record = run_async(show_collaboration(session, session.collaboration if name is None else name))
        print_record(record, output, title=f"collaboration {record['collaboration']}")


def invite(
    user_name: Annotated[
        str, typer.Argument(help="Sign-in name of the user, or the application ID of a service principal.", show_default=False)
    ],
    profile: Profile = None,
    config: ConfigFile = None,
    tenant: Annotated[str | None, typer.Option(help="Entra ID tenant of the user. Required for a service principal.")] = None,
    service_principal: Annotated[bool, typer.Option("--service-principal", help="Invite an application instead of a person.")] = False,
    invitation: Annotated[str | None, typer.Option(help="ID of the invitation.", show_default="generated")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Invite a user, as a member of the consortium.

    Example: cleanroom invite ann@contosso.example --invitation ann --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import invite_user

        record = run_async(invite_user(session, user_name, invitation_id=invitation, tenant=tenant, service_principal=service_principal))
        _print_vote_commands([record])
        print_record(record, output, title="invitation")
        if record["state"] != "waiting":
            print_status(f"Next, the invited user runs [bold]cleanroom accept-invitation {safe(record['invitation'])}[/bold]")


def accept_invitation(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Accept an invitation with your own credential.

    Afterwards, a member of the consortium registers you with `members admit`.

    Example: cleanroom accept-invitation ann --profile ann
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import accept

        record = run_async(accept(session, invitation))
        print_record(record, output, title="invitation")
        if record["status"] == "Accepted":
            print_status(f"Next, a member of the consortium runs [bold]cleanroom members admit {safe(record['invitation'])}[/bold]")


@members_app.callback()
def members(ctx: typer.Context, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the members of the consortium, the registered users, and the open invitations.

    Example: cleanroom members --profile contosso
    """
    if ctx.invoked_subcommand is not None:
        return
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import list_members

        rows = run_async(list_members(session))
        print_rows(rows, output, columns=("kind", "id", "name", "party", "status"), title="members")


@members_app.command()
def admit(invitation: InvitationId, profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Register the user who accepted an invitation, as a member of the consortium.

    Example: cleanroom members admit ann --profile operator
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from starters.operations.collaboration import admit_user

        record = run_async(admit_user(session, invitation))
        _print_vote_commands([record])
        print_record(record, output, title="user")


def mount(root: typer.Typer) -> None:
    """Add ``invite``, ``accept-invitation`` and ``members`` to a command line."""
    root.command("invite")(invite)
    root.command("accept-invitation")(accept_invitation)
    root.add_typer(members_app, name="members")


if __name__ == "__main__":
    mount(app)
    main(app)
