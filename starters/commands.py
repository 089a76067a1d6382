"""Every command of ``cleanroom``, put together; a noun's module is imported when its noun is asked for, and all of them for the whole."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import typer

_NOUNS = {
    "dataset": "dataset",
    "query": "query",
    "run": "run",
    "key": "keys",
    "secret": "secrets",
    "attest": "attest",
    "audit": "audit",
    "consent": "consent",
    "collaboration": "collaboration",
}
"""Noun to the module of its verbs, in the order of the help."""


def build(first: str | None = None) -> typer.Typer:
    """The command line; where ``first``, the first argument, is a noun, without the others, whose imports would cost a second."""
    app = typer.Typer(
        name="cleanroom",
        help="Durable orchestration of confidential clean rooms.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for noun, module in _NOUNS.items():
        if first == noun or first not in _NOUNS:
            app.add_typer(import_module(f"starters.{module}").app, name=noun)
    if first not in _NOUNS:
        _mount_verbs(app)
    return app


def _mount_verbs(app: typer.Typer) -> None:
    """Commands without a noun."""
    from starters import collaboration, local, worker
    from starters.codec_server import codec_keys, codec_server
    from starters.demo import demo
    from starters.ui import ui

    collaboration.mount(app)
    verbs: dict[str, Callable[..., None]] = {
        "up": local.up,
        "down": local.down,
        "ps": local.ps,
        "demo": demo,
        "ui": ui,
        "worker": worker.worker,
        "codec-server": codec_server,
        "codec-keys": codec_keys,
    }
    for name, command in verbs.items():
        app.command(name)(command)
