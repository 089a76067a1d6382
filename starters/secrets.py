"""``cleanroom secret``: connection secrets of a collaborator. Also ``python -m starters.secrets``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.errors import InvalidInput, NotFound
from cleanroom.secret import read_secret_file, write_secret_file
from starters.operations.session import Session
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Store secrets that dataset files refer to by name.", no_args_is_help=True)


# A Typer application with a single command has no subcommands unless it has a callback.
@app.callback()
def _group() -> None:
    """Store secrets that dataset files refer to by name."""


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Name of the secret. Dataset files refer to it as secret:NAME.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    secret_file: Annotated[Path | None, typer.Option(help="Read the secret from this file (mode 0600).")] = None,
    secret_env: Annotated[
        str | None, typer.Option(help="Read the secret from this environment variable, for example CLEANROOM_SECRET_S3.")
    ] = None,
    secret_stdin: Annotated[bool, typer.Option("--secret-stdin", help="Read the secret from standard input.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Store a secret in the folder `keys_dir` of the settings, in a file of mode 0600.

    Pass exactly one of --secret-file, --secret-env and --secret-stdin. A secret is never an argument, because other users of the
    machine can read arguments.

    Example: cleanroom secret set s3 --secret-stdin --profile litware < s3.json
    """
    with error_boundary(output):
        session = Session.load(profile, config, needs="settings")
        from cleanroom.clients.owned import secret_path

        value = _read_secret(secret_file, secret_env, secret_stdin)
        if not value.strip():
            raise InvalidInput("SecretEmpty", f"secret {name!r}: the value is empty.")
        path = secret_path(session.settings, name)
        write_secret_file(path, value.strip())
        print_record({"secret": name, "file": str(path)}, output)


def _read_secret(file: Path | None, variable: str | None, stdin: bool) -> bytes:
    """Read the secret from its only source.

    Raises:
        InvalidInput: ``SecretSourceMissing``.
        NotFound: ``SecretVariableNotSet``.
    """
    if sum((file is not None, variable is not None, stdin)) != 1:
        raise InvalidInput(
            "SecretSourceMissing",
            "give exactly one of --secret-file, --secret-env and --secret-stdin.",
            hint="For example: `cleanroom secret set NAME --secret-stdin` with the secret on standard input.",
        )
    if file is not None:
        return read_secret_file(file).reveal()
    if variable is not None:
        if variable not in os.environ:
            raise NotFound(
                "SecretVariableNotSet",
                f"environment variable {variable} is not set.",
                hint="Export the variable first, or use --secret-stdin.",
            )
        return os.environ[variable].encode()
    return sys.stdin.buffer.read()


if __name__ == "__main__":
    main(app)
