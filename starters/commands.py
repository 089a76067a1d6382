"""Every command of ``cleanroom``, put together. A command's module is imported when the command is asked for, and none for the list of
them: all of them together take seconds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group


@dataclass(frozen=True)
class _Entry:
    module: str
    """Below ``starters``."""
    attribute: str
    """In the module: the Typer application of a noun, or the function of a command without one."""
    line: str
    """Its line in the list of commands."""


COMMANDS: Final[dict[str, _Entry]] = {
    "dataset": _Entry("dataset", "app", "Publish encrypted datasets."),
    "query": _Entry("query", "app", "Propose queries and decide on them."),
    "run": _Entry("run", "app", "Run approved queries."),
    "key": _Entry("keys", "app", "Your signing key."),
    "secret": _Entry("secrets", "app", "Your secrets, by name."),
    "attest": _Entry("attest", "app", "Attestation evidence: what a confidential guest proves about itself."),
    "audit": _Entry("audit", "app", "Evidence: events, bundles, verification."),
    "consent": _Entry("consent", "app", "Consent of approvers, at any time."),
    "collaboration": _Entry("collaboration", "app", "Set up a collaboration; for members of the consortium."),
    "invite": _Entry("collaboration", "invite", "Invite a user, as a member of the consortium."),
    "accept-invitation": _Entry(
        "collaboration", "accept_invitation", "Accept an invitation with your own credential. A member admits you afterwards."
    ),
    "members": _Entry("collaboration", "members_app", "Members, users and invitations."),
    "up": _Entry(
        "local", "up", "Start everything on this machine: Temporal, storage, stand-ins of the clouds, all workers. NOT CONFIDENTIAL."
    ),
    "down": _Entry("local", "down", "Stop what `cleanroom up` started."),
    "ps": _Entry("local", "ps", "List the services of the local cloud, and say how to start again what has exited."),
    "demo": _Entry(
        "demo", "demo", "Play the three companies from the first key to the result, on real servers and real data. NOT CONFIDENTIAL."
    ),
    "ui": _Entry("ui", "ui", "Print a link that opens the Temporal Web UI, logged in and readable. It works once, within two minutes."),
    "worker": _Entry("worker", "worker", "Serve one trust boundary's task queue until stopped (SIGTERM or Ctrl-C)."),
    "codec-server": _Entry(
        "codec_server",
        "codec_server",
        "Serve the payload codec to the Temporal Web UI and the temporal command; with --ui-upstream also the Web UI, readable.",
    ),
    "codec-keys": _Entry(
        "codec_server", "codec_keys", "Make a codec keyring, add a key to it, or change which key seals. Prints key ids, never keys."
    ),
}
"""By name, in the order of the help."""
_LISTING = "cleanroom.listing"
_NOT_YET: Any = None


class _Commands(TyperGroup):
    """The commands by name, each made when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Their names, by which a misspelt one is told what was meant.
        self.commands = dict.fromkeys(COMMANDS, _NOT_YET)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        holder = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
        if _LISTING in ctx.meta:
            holder.command(cmd_name, help=entry.line)(_nothing)
        else:
            found = getattr(import_module(f"starters.{entry.module}"), entry.attribute)
            if isinstance(found, typer.Typer):
                holder.add_typer(found, name=cmd_name)
            else:
                holder.command(cmd_name)(found)
        return get_group(holder).get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta[_LISTING] = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        ctx.meta[_LISTING] = True
        return super().shell_complete(ctx, incomplete)


def _nothing() -> None:
    """What a line of a list does."""


def build() -> typer.Typer:
    """The command line."""
    app = typer.Typer(name="cleanroom", cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback(help="Durable orchestration of confidential clean rooms.")(_nothing)
    return app
