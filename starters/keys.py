"""``cleanroom key``: the signing key of a collaborator. Also ``python -m starters.keys``."""

from __future__ import annotations

from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Publish or retire your signing key.", no_args_is_help=True)


@app.command()
def publish(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Publish the public key that verifies your decisions and run requests.

    The first use creates the private key in the folder `keys_dir` of the settings. Publish the key once, before you publish datasets,
    decide on queries or start runs. Idempotent.

    Example: cleanroom key publish --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.keys import publish_key

        print_record(run_async(publish_key(session)), output, title="signing key")


@app.command()
def retire(
    kid: Annotated[
        list[str] | None, typer.Option(help="Thumbprint of a key to retire. Repeat it for several.", show_default="all keys")
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Retire your published signing key and publish a new one, after the old one was stolen or lost.

    Your identity at governance decides: neither key signs. Decisions that governance recorded before the retirement stay valid. What
    the old key signs does not count any longer, whatever time it contains. Decide again on queries that you want to keep open, and
    restart your worker where it has its own copy of the key folder.

    Example: cleanroom key retire --profile litware
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.keys import retire_key

        print_record(run_async(retire_key(session, tuple(kid or ()))), output, title="signing key")


if __name__ == "__main__":
    main(app)
