"""``cleanroom key``: the signing key of a collaborator. Also ``python -m starters.keys``."""

from __future__ import annotations

import typer

from starters.operations.keys import publish_key
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Publish your signing key.", no_args_is_help=True)


# A Typer application with a single command has no subcommands unless it has a callback.
@app.callback()
def _group() -> None:
    """Publish your signing key."""


@app.command()
def publish(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Publish the public key that verifies your decisions and run requests.

    The first use creates the private key in the folder `keys_dir` of the settings. Publish the key once, before you publish datasets,
    decide on queries or start runs. Idempotent.

    Example: cleanroom key publish --profile litware
    """
    with error_boundary(output):
        print_record(run_async(publish_key(Session.load(profile, config))), output, title="signing key")


if __name__ == "__main__":
    main(app)
