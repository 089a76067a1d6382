"""``cleanroom init``: the guided set-up of a collaborator. Also ``python -m starters.init``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanroom.errors import InvalidInput, PreconditionFailed
from starters.operations.session import run_async
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_rows, print_status, safe

app = typer.Typer()
CLIENT_SECRET = ("credential.tenant_id", "credential.client_id", "credential.client_secret_file")
"""Settings of a credential of the kind ``client-secret``."""
CREDENTIALS = ("default", "cli", "client-secret", "workload-identity", "managed-identity")
STORES = {
    "azure": (
        "azure.subscription_id", "azure.resource_group", "azure.storage_account_url", "azure.storage_account_id", "azure.key_vault_url",
        "azure.key_vault_id", "azure.maa_url",
    ),
    "s3": ("s3.bucket", "s3.region", "secret_files.s3"),
    "none": (),
}  # fmt: skip
"""Settings that the set-up asks for, by the place of the collaborator's datasets."""


@app.command()
def init(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the collaborators; a new profile gets this name.")],
    config: Annotated[
        Path | None, typer.Option(envvar="CLEANROOM_CONFIG", help="Path of cleanroom.toml.", show_default="the file that commands find")
    ] = None,
    collaboration: Annotated[str | None, typer.Option(help="For a new profile: ID of the contract in governance.")] = None,
    governance: Annotated[str | None, typer.Option(help="For a new profile: URL of governance.")] = None,
    credential: Annotated[
        str | None, typer.Option(help=f"For a new profile: kind of the Entra ID credential ({', '.join(CREDENTIALS)}).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="For a new profile: a setting, such as s3.bucket=rows. Repeatable."),
    ] = None,
    keyring: Annotated[Path | None, typer.Option(help="Sealed keyring from another collaborator.")] = None,
    new_keyring: Annotated[bool, typer.Option("--new-keyring", help="Generate the keyring, as the first collaborator.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Set up a collaborator: profile, collaborators from governance, keys, keyring.

    For a profile that is not in cleanroom.toml, the command takes the settings from the options and asks for what is missing. It
    never asks for a secret, only for the file that holds it. It then reads the collaborators from governance, creates and publishes the
    keys, and says what another person has to do. Repeat it at any time: it changes nothing that is there. The exit code is 6 while a
    step waits for another person.

    Example: cleanroom init north --collaboration deal --governance https://cgs.example --credential cli --new-keyring
    """
    with error_boundary(output):
        from cleanroom.config_file import config_path, load_tables
        from cleanroom.identifiers import require_name
        from starters.operations.setup import set_up

        if len(set(names)) < len(names):
            raise InvalidInput("NameRepeated", f"a name is given twice: {' '.join(names)}.", hint="Give each name once.")
        for name in names:
            require_name("NAME", name)
        file = config if config is not None else config_path() or Path("cleanroom.toml")
        known = load_tables(file).get("profile", {}) if file.exists() else {}
        given = _given(collaboration, governance, credential, set_ or [])
        if (given or keyring or new_keyring) and len(names) > 1:
            raise InvalidInput(
                "OneNameOnly", "--set, --keyring and the settings of a profile are for one collaborator.", hint="Give one NAME."
            )
        rows: list[dict[str, str]] = []
        for name in names:
            rows.append(_profile_step(file, name, given, known=name in known))
            rows += run_async(set_up(name, file, keyring=keyring, new_keyring=new_keyring))
        print_rows(rows, output, columns=("step", "state", "profile", "detail"), title=f"set-up in {file}")
        if any(row["state"] == "waiting" for row in rows):
            raise typer.Exit(PreconditionFailed.exit_code)
        print_status(f"{safe(', '.join(names))}: ready. Check everything with [bold]cleanroom doctor --profile {safe(names[0])}[/bold]")


def _given(collaboration: str | None, governance: str | None, credential: str | None, assignments: list[str]) -> dict[str, Any]:
    from starters.operations.profiles import parse_assignments

    named = {"collaboration": collaboration, "governance.url": governance, "credential.kind": credential}
    return parse_assignments([*(f"{field}={value}" for field, value in named.items() if value is not None), *assignments])


def _profile_step(file: Path, name: str, given: dict[str, Any], *, known: bool) -> dict[str, str]:
    from starters.operations.profiles import add_profile
    from starters.operations.setup import new_profile, step

    values = given if known else new_profile(name, _complete(name, file, given))
    added = add_profile(file, name, values)
    return step(name, "profile", "done" if added else "unchanged", f"[profile.{name}] in {file}")


def _complete(name: str, file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a new profile: the given ones, and the user's answers to what is missing.

    Raises:
        InvalidInput: ``SettingMissing`` without a terminal.
    """
    from cleanroom.config_file import load_tables
    from starters.operations.profiles import merge, parse_assignments

    tables = load_tables(file) if file.exists() else {}
    default, known = tables.get("default", {}), ", ".join(sorted(tables.get("profile", {})))
    present = merge(default, given)
    options = {"collaboration": "--collaboration", "governance.url": "--governance", "credential.kind": "--credential"}
    if present.get("credential", {}).get("kind") == "client-secret":
        options |= dict.fromkeys(CLIENT_SECRET, "--set")
    missing = [field for field in options if not _field(present, field)]
    if not asks():
        if missing:
            flags = ", ".join(f"--set {field}=…" if options[field] == "--set" else options[field] for field in missing)
            raise InvalidInput(
                "SettingMissing",
                f"profile {name!r} is new, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given.",
                hint=f"Give {flags}. On one machine, `cleanroom up` makes the profiles." + (f" Known profiles: {known}." if known else ""),
            )
        return given
    print_status(f"[bold]{safe(name)}[/bold] is a new profile. An empty answer leaves a setting out.")
    answers = [f"{field}={typer.prompt(field)}" for field in missing]
    if "credential.kind=client-secret" in answers:
        answers += [f"{field}={typer.prompt(field)}" for field in CLIENT_SECRET]
    if not any(section in present for section in ("azure", "s3")):
        place = typer.prompt(f"Where are your datasets ({', '.join(STORES)})", default="none")
        if place not in STORES:
            raise InvalidInput(
                "StoreUnknown", f"{place!r} is not among the places of datasets.", hint=f"Answer one of {', '.join(STORES)}."
            )
        answers += [f"{field}={typer.prompt(field, default='', show_default=False)}" for field in STORES[place]]
    return merge(given, parse_assignments([answer for answer in answers if not answer.endswith("=")]))


def asks() -> bool:
    """Whether a person can answer questions."""
    return sys.stdin.isatty()


def _field(values: dict[str, Any], field: str) -> Any:
    for part in field.split("."):
        values = values.get(part, {})
    return values


if __name__ == "__main__":
    main(app)
