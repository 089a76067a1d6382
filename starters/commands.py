"""The list of all commands of ``cleanroom``.

A command's module is imported only when that command is used. Importing all of them takes seconds, so the list of commands in the
help comes from the table here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from starters.terminal.help import make_plain


@dataclass(frozen=True)
class Command:
    """A command or a group of commands, and where its code is."""

    module: str
    """Module within ``starters``."""
    attribute: str
    """Attribute of the module: the Typer application of a group, or the function of a single command."""
    summary: str
    """Its line in the list of commands. A test compares it with the command's own help."""


COMMANDS: Final[dict[str, Command]] = {
    "init": Command("init", "init", "Set up a collaborator: profile, collaborators from governance, keys, keyring."),
    "dataset": Command("dataset", "app", "Upload and publish encrypted datasets."),
    "query": Command("query", "app", "Create and propose queries, and decide on them."),
    "run": Command("run", "app", "Run approved queries."),
    "cleanup": Command("cleanup", "cleanup", "Find and undo what ended runs have left: grants, secrets, Spark jobs."),
    "doctor": Command("doctor", "doctor", "Check everything that a profile needs, and say how to repair what does not work."),
    "key": Command("keys", "app", "Publish or retire your signing key."),
    "keyring": Command("keyring", "app", "Hand the keyring that encrypts payloads over to another collaborator, sealed."),
    "deputy": Command("deputies", "app", "Name deputies. A deputy decides on queries in your name."),
    "secret": Command("secrets", "app", "Store secrets that dataset files refer to by name."),
    "attest": Command("attest", "app", "Verify the attestation evidence of a confidential guest."),
    "audit": Command("audit", "app", "List audit events; export and verify audit bundles."),
    "consent": Command("consent", "app", "Give, withdraw and show consent to approved queries and datasets."),
    "collaboration": Command("collaboration", "app", "Set up a collaboration, as a member of the consortium."),
    "invite": Command("collaboration", "invite", "Invite a user, as a member of the consortium."),
    "accept-invitation": Command("collaboration", "accept_invitation", "Accept an invitation with your own credential."),
    "members": Command("collaboration", "members_app", "List members, users and invitations, and admit users."),
    "up": Command(
        "local", "up", "Start a local cloud: Temporal, storage, stand-ins of the cloud services, and all workers. NOT CONFIDENTIAL."
    ),
    "down": Command("local", "down", "Stop the local cloud. Its state is kept."),
    "ps": Command("local", "ps", "List the services of the local cloud, and the command that restarts exited ones."),
    "logs": Command("logs", "logs", "Show the end of the log of a run's driver pod, or of a service of the local cloud."),
    "demo": Command("demo", "demo", "Play three companies on a local cloud, from the first key to the decrypted result. NOT CONFIDENTIAL."),
    "ui": Command("ui", "ui", "Print a link that opens the Temporal Web UI, logged in, with readable payloads."),
    "worker": Command("worker", "worker", "Run the worker of one trust boundary until SIGTERM or Ctrl-C."),
    "versions": Command("versions", "app", "Roll out a new version of the workers, and retire old ones."),
    "codec-server": Command(
        "codec_server",
        "codec_server",
        "Serve the payload codec to the Temporal Web UI and the temporal command; with --ui-upstream, also the Web UI itself.",
    ),
    "codec-keys": Command(
        "codec_server", "codec_keys", "Create a keyring of the payload codec, add a key to it, or choose the key that encrypts."
    ),
}
"""Commands by name, in the order of the help."""
EXIT_CODES: Final[dict[int, str]] = {
    0: "success",
    1: "internal error",
    2: "invalid usage or input",
    3: "not found",
    4: "refused by a policy, an approval or a check",
    5: "conflict with something that exists",
    6: "a precondition does not hold yet",
    7: "a service is unavailable",
    8: "timed out",
    130: "interrupted",
}
"""Exit codes of every command."""
_LIST_ONLY = "cleanroom.listing"
_NOT_LOADED: Any = None


class _Commands(TyperGroup):
    """The root group, which loads a command when it is looked up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Click suggests names from this mapping for a misspelt command.
        self.commands = dict.fromkeys(COMMANDS, _NOT_LOADED)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = COMMANDS.get(cmd_name)
        if command is None:
            return None
        holder = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
        if _LIST_ONLY in ctx.meta:
            holder.command(cmd_name, help=command.summary)(_placeholder)
        else:
            found = getattr(import_module(f"starters.{command.module}"), command.attribute)
            if isinstance(found, typer.Typer):
                holder.add_typer(found, name=cmd_name)
            else:
                holder.command(cmd_name)(found)
        loaded = get_group(holder).get_command(ctx, cmd_name)
        make_plain(loaded)
        return loaded

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta[_LIST_ONLY] = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        ctx.meta[_LIST_ONLY] = True
        return super().shell_complete(ctx, incomplete)


def _placeholder() -> None:
    """Stand for a command that is listed but not loaded."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cleanroom {version('cleanroom')}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Hold the options of the program itself."""


def build() -> typer.Typer:
    """Build the command line application."""
    app = typer.Typer(name="cleanroom", cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    codes = ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    app.callback(help="Run confidential clean rooms on Temporal.", epilog=f"Exit codes: {codes}.")(_root)
    return app
