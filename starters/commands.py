"""Every command of ``cleanroom``, put together. Importing this imports everything that they use."""

from __future__ import annotations

import typer

from starters import attest, audit, collaboration, consent, dataset, keys, local, query, run, secrets, worker
from starters.codec_server import codec_keys, codec_server
from starters.demo import demo
from starters.ui import ui

app = typer.Typer(
    name="cleanroom",
    help="Durable orchestration of confidential clean rooms.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(dataset.app, name="dataset")
app.add_typer(query.app, name="query")
app.add_typer(run.app, name="run")
app.add_typer(keys.app, name="key")
app.add_typer(secrets.app, name="secret")
app.add_typer(attest.app, name="attest")
app.add_typer(audit.app, name="audit")
app.add_typer(consent.app, name="consent")
app.add_typer(collaboration.app, name="collaboration")
collaboration.mount(app)
app.command("up")(local.up)
app.command("down")(local.down)
app.command("ps")(local.ps)
app.command("demo")(demo)
app.command("ui")(ui)
app.command("worker")(worker.worker)
app.command("codec-server")(codec_server)
app.command("codec-keys")(codec_keys)
