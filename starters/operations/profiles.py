"""Adds profiles to ``cleanroom.toml``. What the file has stays as it is, with its comments."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cleanroom.config_file import load_tables
from cleanroom.errors import Conflict, InvalidInput
from cleanroom.models import broken_rule
from cleanroom.secret import write_secret_file
from cleanroom.settings import Settings, known_fields, load_settings

Values = dict[str, Any]
"""Settings of a profile: a text per field, and a mapping per section."""


def parse_assignments(assignments: list[str]) -> Values:
    """Parse ``FIELD=VALUE`` and ``SECTION.FIELD=VALUE``. A value in brackets is a TOML list; any other value is text.

    Paths are relative to the working directory, and become absolute.

    Raises:
        InvalidInput: ``AssignmentMalformed``.
    """
    found: Values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, field = name.strip().rpartition(".")
        if not equals or not re.fullmatch(r"[a-z_0-9]+", field) or (dot and not re.fullmatch(r"[a-z_0-9]+", section)):
            raise InvalidInput("AssignmentMalformed", f"--set: {assignment!r} is not FIELD=VALUE.", hint="Example: s3.bucket=rows")
        value: Any = text.strip()
        if value.startswith("["):
            try:
                value = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError as error:
                raise InvalidInput("AssignmentMalformed", f"--set: {assignment!r} is not a list.", cause=str(error)) from error
        elif field.endswith(("_file", "_dir", "kubeconfig")) or section == "secret_files":
            value = str(Path(value).expanduser().absolute())
        (found.setdefault(section, {}) if section else found)[field] = value
    return found


def add_profile(file: Path, name: str, values: Values) -> bool:
    """Append the profile ``name`` to ``file``, which is created if it does not exist. Return False if the profile is there.

    Raises:
        Conflict: ``ProfileDiffers`` if the profile is there with other values than the given ones.
        InvalidInput: ``ConfigMalformed``; ``ConfigInvalid`` names the field.
    """
    tables = load_tables(file) if file.exists() else {}
    wanted = _validated(values)
    if tables.get("profile", {}).get(name) is not None:
        own = _flat(load_settings(name, path=file).model_dump(mode="json"))
        if different := [field for field in _flat(values) if own.get(field) != wanted.get(field)]:
            raise Conflict(
                "ProfileDiffers",
                f"profile {name!r} is in {file} with other values of {', '.join(different)}.",
                hint="Omit these options, or edit the file.",
            )
        return False
    _append(file, _tables(f"profile.{name}", values))
    return True


def _validated(values: Values) -> dict[str, Any]:
    try:
        return _flat(Settings(**values).model_dump(mode="json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            "ConfigInvalid", f"{where}: {broken_rule(first)}.", hint=f"{known_fields(first)}Correct the option, or --set."
        ) from error


def add_parties(file: Path, profile: str, parties: Mapping[str, str]) -> bool:
    """Set the collaborators of a profile in a marked block of ``file``, which later calls replace. Return whether anything changed.

    Raises:
        Conflict: ``PartiesByHand`` if the profile has a table ``parties`` outside of the block.
    """
    begin, end = f"# collaborators of {profile}, from governance (cleanroom init)", f"# end of the collaborators of {profile}"
    block = "\n".join([begin, *_tables(f"profile.{profile}.parties", dict(parties)).splitlines(), end]) + "\n"
    text = file.read_text("utf-8")
    pattern = re.compile(rf"^{re.escape(begin)}\n.*?^{re.escape(end)}\n", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        changed = pattern.sub(lambda _: block, text)
        if changed != text:
            write_secret_file(file, changed.encode())
        return changed != text
    if "parties" in load_tables(file).get("profile", {}).get(profile, {}):
        raise Conflict(
            "PartiesByHand",
            f"{file} has a table [profile.{profile}.parties], and governance has other collaborators: {', '.join(sorted(parties))}.",
            hint="Remove the table; `cleanroom init NAME` writes it.",
        )
    _append(file, block)
    return True


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """Return ``base`` with the values of ``over``, section by section."""
    merged = dict(base)
    for field, value in over.items():
        merged[field] = merge(merged.get(field, {}), value) if isinstance(value, Mapping) else value
    return merged


def _append(file: Path, text: str) -> None:
    before = file.read_text("utf-8").rstrip("\n") + "\n\n" if file.exists() else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_secret_file(file, (before + text).encode())


def _tables(header: str, values: Mapping[str, Any]) -> str:
    """Write values as TOML. Texts in JSON's notation are basic strings of TOML."""
    plain = [f"{field} = {json.dumps(value)}" for field, value in values.items() if not isinstance(value, Mapping)]
    nested = [_tables(f"{header}.{field}", value) for field, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([f"[{header}]", *plain, *nested]) + ("" if nested else "\n")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in values.items():
        found |= _flat(value, f"{prefix}{field}.") if isinstance(value, Mapping) else {f"{prefix}{field}": value}
    return found
