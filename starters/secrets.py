"""``cleanroom secret``: keep a secret of yours where only your own worker can read it. Also ``python -m starters.secrets``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.clients.owned import SECRET_VARIABLE_PREFIX, secret_path
from cleanroom.errors import InvalidInput, NotFound
from cleanroom.secret import read_secret_file, write_secret_file
from starters.operations.session import Session
from starters.terminal.entry import main
from starters.terminal.output import ConfigFile, Format, Output, Profile, error_boundary, print_record

app = typer.Typer(help="Your secrets, by name.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Secrets are read from standard input, a file or a variable; never from an argument."""


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Name, used in dataset files as secret:NAME.", show_default=False)],
    profile: Profile = None,
    config: ConfigFile = None,
    secret_file: Annotated[Path | None, typer.Option(help="Read it from this file (mode 0600).")] = None,
    secret_env: Annotated[str | None, typer.Option(help=f"Read it from this variable ({SECRET_VARIABLE_PREFIX}…).")] = None,
    secret_stdin: Annotated[bool, typer.Option("--secret-stdin", help="Read it from standard input.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Store a secret in your key folder, mode 0600.

    Example: cleanroom secret set s3 --secret-stdin --profile litware < s3.json
    """
    with error_boundary(output):
        session = Session.load(profile, config)
        if sum((secret_file is not None, secret_env is not None, secret_stdin)) != 1:
            raise InvalidInput("SecretSourceMissing", "give exactly one of --secret-file, --secret-env and --secret-stdin.")
        if secret_file is not None:
            value = read_secret_file(secret_file).reveal()
        elif secret_env is not None:
            if secret_env not in os.environ:
                raise NotFound("SecretVariableNotSet", f"there is no environment variable {secret_env}.")
            value = os.environ[secret_env].encode()
        else:
            value = sys.stdin.buffer.read()
        if not value.strip():
            raise InvalidInput("SecretEmpty", f"secret {name!r}: nothing was given.")
        path = secret_path(session.settings, name)
        write_secret_file(path, value.strip())
        print_record({"secret": name, "file": str(path)}, output)


if __name__ == "__main__":
    main(app)
