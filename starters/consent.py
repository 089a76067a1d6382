"""``cleanroom consent``: give, withdraw and see consent to the use of a query or a dataset. Also ``python -m starters.consent``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from cleanroom.errors import CleanRoomError
from cleanroom.governance import Consent, GovernanceUserClient
from starters.collaboration import as_person, reader
from starters.entry import command_line
from starters.output import ConfigFile, Format, Output, Profile, print_record, reported
from starters.session import Session, run_async

app = typer.Typer(help="Consent of approvers, at any time.", no_args_is_help=True)

Document = Annotated[str, typer.Argument(help="Name of a query or dataset.", show_default=False)]
Option = Annotated[Literal["execution", "telemetry"], typer.Option(help="What is consented to.")]


@app.command()
def on(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Consent (again) to the use of a query or dataset that you approved.

    Example: cleanroom consent on fabrikam-delays --profile contosso
    """
    _set(document, option, True, profile, config, output)


@app.command()
def off(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Withdraw your consent: no run begins any more, and a running one is stopped.

    Example: cleanroom consent off contosso-flights --profile contosso
    """
    _set(document, option, False, profile, config, output)


@app.command()
def show(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Show whether all approvers of a query or dataset consent, and who does not.

    Example: cleanroom consent show contosso-flights --profile litware
    """
    with reported(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with reader(session) as client:
                with _advised(document):
                    return await consent_record(session, client, document, option)

        print_record(run_async(work()), output, title=f"consent {document}")


def _set(
    document: str, option: Literal["execution", "telemetry"], enabled: bool, profile: str | None, config: str | None, output: Format
) -> None:
    with reported(output):
        session = Session.load(profile, config)
        print_record(run_async(set_consent(session, document, enabled=enabled, option=option)), output, title=f"consent {document}")


async def set_consent(
    session: Session, document: str, *, enabled: bool, option: Literal["execution", "telemetry"] = "execution"
) -> dict[str, Any]:
    """Give or withdraw this person's consent; returns what holds now. Other approvers' withdrawals stay (spec/governance.md 6.2).

    Raises:
        NotFound: ``UserDocumentNotFound``.
        PreconditionFailed: ``UserDocumentNotAccepted``.
        Refused: ``NotUserDocumentApprover``.
        InvalidInput: ``ProfileIsNoPerson``.
    """
    async with as_person(session) as client:
        with _advised(document):
            # Governance does not compare the contract here; a document of another collaboration must not be switched by mistake.
            await session.documents(client).get(document)
            await client.set_document_consent(session.collaboration, document, option, enabled=enabled)
            return await consent_record(session, client, document, option)


@contextmanager
def _advised(document: str) -> Iterator[None]:
    """Around governance: what it refuses gets a hint, in the words of the command line."""
    try:
        yield
    except CleanRoomError as error:
        error.hint = error.hint or {
            "UserDocumentNotFound": "`cleanroom query list` and `cleanroom dataset list` show what there is.",
            "UserDocumentNotAccepted": "Consent is about what has been approved; reject an open proposal: `cleanroom query reject`.",
            "NotUserDocumentApprover": f"Only those who approved {document!r} give or withdraw consent to it.",
        }.get(error.code)
        raise


async def consent_record(
    session: Session, client: GovernanceUserClient, document: str, option: Literal["execution", "telemetry"]
) -> dict[str, Any]:
    """``{document, state, option, status, reason, disabledBy}``; ``disabledBy`` names parties where they are known."""
    found = await session.documents(client).get(document)
    consent = await client.document_consent(session.collaboration, document, option)
    return {
        "document": document,
        "state": found.state,
        "option": option,
        "status": consent.status,
        "reason": consent.reason.code if consent.reason else None,
        "disabledBy": disabled_by(consent, [item.approver_id for item in found.approvers or ()], session.settings.parties),
    }


def disabled_by(consent: Consent, approvers: list[str], parties: dict[str, str]) -> list[str]:
    """Which approvers withdrew, read from the reason's text (it embeds ``m[id1,id2]``, spec/governance.md 6.1)."""
    found = re.search(r"\bm\[([^\]]*)\]", consent.reason.message) if consent.reason else None
    if found is None:
        return []
    names = {user: name for name, user in parties.items()}
    listed = [item.strip() for item in found.group(1).split(",")]
    return [names.get(user, user) for user in listed if user in approvers]


if __name__ == "__main__":
    command_line(app)
