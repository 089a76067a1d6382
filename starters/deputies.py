"""``cleanroom deputy``: the people who may decide in an owner's name. Also ``python -m starters.deputies``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_json, print_record, print_rows

app = typer.Typer(help="Name deputies. A deputy decides on queries in your name.", no_args_is_help=True)

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


@app.command()
def key(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Print your public key, for the owner who names you as a deputy.

    The first use creates the private key in the folder `keys_dir` of the profile. In a deputy's profile, `party` is the owner,
    `deputy` is true, and `keys_dir` and the credential are the deputy's own.

    Example: cleanroom deputy key --profile maria
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.deputies import deputy_key

        print_json(deputy_key(session))


@app.command()
def name(
    deputy: Annotated[str, typer.Argument(help="Name of the deputy.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The deputy's public key, as `cleanroom deputy key` prints it.", show_default=False)],
    valid_from: Annotated[dt.datetime, typer.Option("--from", formats=_TIMES, help="First time (UTC) at which decisions count.")],
    until: Annotated[dt.datetime, typer.Option("--until", formats=_TIMES, help="Time (UTC) from which decisions do not count.")],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Name a deputy, whose signature counts as yours on decisions about queries.

    Your key signs the deputation, and your identity at governance accepts it. The deputy approves and rejects with
    `cleanroom query approve`, and your worker casts the vote. A deputy cannot publish, propose, run, or name deputies.

    Example: cleanroom deputy name maria maria.json --from 2026-12-20 --until 2027-01-10 --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.deputies import name_deputy

        work = name_deputy(session, deputy, file, valid_from.replace(tzinfo=dt.UTC), until.replace(tzinfo=dt.UTC))
        print_record(run_async(work), output, title=f"deputy {deputy}")


@app.command()
def revoke(
    kid: Annotated[str, typer.Argument(help="Thumbprint of the deputy's key, from `cleanroom deputy list`.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Revoke a deputy. Decisions that governance recorded before stay valid.

    To end a query that a deputy approved, withdraw your consent to it (`cleanroom consent off`).

    Example: cleanroom deputy revoke 9t0Fh3vuyfYWnv9ygmU4WuBsmAgxSrtAhyOYSYmWYVE --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.deputies import revoke_deputy

        print_record(run_async(revoke_deputy(session, kid)), output, title="deputy")


@app.command("list")
def list_(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """List the deputies of all owners.

    Example: cleanroom deputy list --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.deputies import list_deputies

        rows = run_async(list_deputies(session))
        print_rows(rows, output, columns=("owner", "deputy", "state", "from", "until", "kid"), title="deputies")


if __name__ == "__main__":
    main(app)
