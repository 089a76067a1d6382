"""``cleanroom key``: publish the key that signs your decisions. Also ``python -m starters.keys``."""

from __future__ import annotations

import typer

from starters.operations.keys import publish_key
from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Your signing key.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The key that signs your decisions lies in your key folder; its public half is published once."""


@app.command()
def publish(profile: Profile = None, config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Publish the public half of your signing key in governance, accepted by you alone.

    Example: cleanroom key publish --profile litware
    """
    with error_boundary(output):
        print_record(run_async(publish_key(Session.load(profile, config))), output, title="signing key")


if __name__ == "__main__":
    main(app)
