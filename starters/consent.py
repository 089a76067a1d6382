"""``cleanroom consent``: give, withdraw and see consent to the use of a query or a dataset. Also ``python -m starters.consent``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from starters.operations.collaboration import governance_reader
from starters.operations.consent import consent_hints, consent_record, set_consent
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

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
    with error_boundary(output):
        session = Session.load(profile, config)

        async def work() -> dict[str, Any]:
            async with governance_reader(session) as client:
                with consent_hints(document):
                    return await consent_record(session, client, document, option)

        print_record(run_async(work()), output, title=f"consent {document}")


def _set(
    document: str, option: Literal["execution", "telemetry"], enabled: bool, profile: str | None, config: str | None, output: Format
) -> None:
    with error_boundary(output):
        session = Session.load(profile, config)
        print_record(run_async(set_consent(session, document, enabled=enabled, option=option)), output, title=f"consent {document}")


if __name__ == "__main__":
    main(app)
