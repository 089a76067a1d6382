"""``cleanroom keyring``: hand the keyring of the payload codec over. Also ``python -m starters.keyring``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starters.operations.session import Session, run_async
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record, print_status, safe

app = typer.Typer(help="Hand the keyring that encrypts payloads over to another collaborator, sealed.", no_args_is_help=True)


@app.command()
def seal(
    recipient: Annotated[str, typer.Argument(help="Name or user ID of the recipient.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New file for the sealed keyring.")],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Seal your keyring for another collaborator. Only the recipient can open the file, so it can be sent in any way.

    The recipient has published a key with `cleanroom init`. The file is signed with your key, and valid for 30 days.

    Example: cleanroom keyring seal south --out keyring-for-south.json --profile north
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.keyrings import seal_keyring

        record = run_async(seal_keyring(session, recipient, out))
        print_record(record, output, title="sealed keyring")
        print_status(
            f"Send {safe(out)} to {safe(recipient)}, who runs [bold]cleanroom init {safe(recipient)} --keyring {safe(out.name)}[/bold]"
        )


@app.command("open")
def open_(
    file: Annotated[Path, typer.Argument(help="Sealed keyring from another collaborator.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Open a sealed keyring, and store it where your profile expects it. `cleanroom init NAME --keyring FILE` does so as well.

    Example: cleanroom keyring open keyring-for-south.json --profile south
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="collaborator")
        from starters.operations.keyrings import open_keyring

        key, changed = run_async(open_keyring(session, file))
        print_record({"current": key, "changed": changed, "file": str(session.settings.temporal.keyring_file)}, output, title="keyring")


if __name__ == "__main__":
    main(app)
