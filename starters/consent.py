"""``cleanroom consent``: consent to the use of a query or a dataset. Also ``python -m starters.consent``."""

from __future__ import annotations

from typing import Annotated

import typer

from starters.operations.consent import ConsentOption
from starters.operations.query_names import accepted_versions
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Give, withdraw and show consent to approved queries and datasets.", no_args_is_help=True)

Document = Annotated[str, typer.Argument(help="Name of a query or dataset.", show_default=False)]
Option = Annotated[ConsentOption, typer.Option(help="Consent to the execution of runs, or to their telemetry.")]


@app.command()
def on(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Give your consent again after you withdrew it.

    An approval includes consent. Use this command only after `consent off`.

    Example: cleanroom consent on contosso-flights --profile contosso
    """
    _set(document, option, True, profile, config, output)


@app.command()
def off(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Withdraw your consent to a query or dataset that you approved.

    No new run starts, and running ones are stopped. A renewed query is withdrawn in all its versions.

    Example: cleanroom consent off contosso-flights --profile contosso
    """
    _set(document, option, False, profile, config, output)


def _set(document: str, option: ConsentOption, enabled: bool, profile: str | None, config: str | None, output: Format) -> None:
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.collaboration import is_member
        from starters.operations.consent import set_consent

        if is_member(session):
            session.party  # noqa: B018 - raises an error that lists the collaborators
        versions = run_async(accepted_versions(session, document))
        for earlier in versions[:-1] if not enabled else ():
            run_async(set_consent(session, earlier, enabled=enabled, option=option))
        document = versions[-1]
        print_record(run_async(set_consent(session, document, enabled=enabled, option=option)), output, title=f"consent {document}")


@app.command()
def show(
    document: Document, option: Option = "execution", profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE
) -> None:
    """Show whether all approvers of a query or dataset consent, and who withdrew consent.

    Example: cleanroom consent show contosso-flights --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        from starters.operations.consent import read_consent

        print_record(run_async(read_consent(session, document, option)), output, title=f"consent {document}")


if __name__ == "__main__":
    main(app)
