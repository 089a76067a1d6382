"""The configuration file ``cleanroom.toml``: where it is, and what it says for a profile.

The file is ``$CLEANROOM_CONFIG``, else the first of ``./cleanroom.toml``, ``./.cleanroom/cleanroom.toml``,
``./.cleanroom/demo/cleanroom.toml`` and ``~/.config/cleanroom/cleanroom.toml`` that exists. The profile is ``--profile``, else
``$CLEANROOM_PROFILE``. Paths in the file are relative to the file.

:mod:`cleanroom.settings` has the fields. This module does not import it, so a command can report a missing file or an unknown profile
before it loads them.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom.errors import InvalidInput, NotFound

CONFIG_VARIABLE = "CLEANROOM_CONFIG"
"""Names the configuration file."""
PROFILE_VARIABLE = "CLEANROOM_PROFILE"
"""Names the profile."""


@dataclass(frozen=True)
class ProfileValues:
    """What a configuration file says for a profile."""

    profile: str
    """Name of the profile."""
    file: Path | None
    """The configuration file; None without one."""
    values: dict[str, Any]
    """Fields of :class:`cleanroom.settings.Settings`, not validated yet, with absolute paths."""


def config_path(explicit: Path | None = None) -> Path | None:
    """Return the configuration file, or ``None`` if none exists.

    Raises:
        NotFound: ``ConfigNotFound`` if a file was named and does not exist.
    """
    named = explicit or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise NotFound(
                "ConfigNotFound", f"config: the file {named} does not exist.", hint="Run `cleanroom up`, or set another file with --config."
            )
        return named
    local = (Path("cleanroom.toml"), Path(".cleanroom/cleanroom.toml"), Path(".cleanroom/demo/cleanroom.toml"))
    candidates = (*local, Path.home() / ".config/cleanroom/cleanroom.toml")
    return next((path for path in candidates if path.is_file()), None)


def load_tables(path: Path) -> dict[str, Any]:
    """Read the tables of a configuration file.

    Raises:
        InvalidInput: ``ConfigMalformed``.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "ConfigMalformed", f"config: {path} is not valid TOML.", cause=str(error), hint="Correct the line that the cause names."
        ) from error


def read_profile(profile: str | None = None, *, path: Path | None = None) -> ProfileValues:
    """Read what the configuration file says for a profile.

    Args:
        profile: Its name. Without it, ``$CLEANROOM_PROFILE``, else ``default``.
        path: The configuration file. Without it, see :func:`config_path`.

    Raises:
        NotFound: ``ConfigNotFound``, ``ProfileNotFound``.
        InvalidInput: ``ConfigMalformed``, ``ConfigInvalid``.
    """
    name = profile or os.environ.get(PROFILE_VARIABLE) or "default"
    file = config_path(path)
    if file is None:
        if name == "default":
            return ProfileValues(name, None, {})
        raise NotFound(
            "ConfigNotFound",
            f"profile: {name!r} needs a configuration file, and none was found.",
            hint="Run `cleanroom up`, or name a file with --config or CLEANROOM_CONFIG.",
        )
    tables = load_tables(file)
    _require_known_tables(tables, file)
    profiles = tables.get("profile", {})
    if name != "default" and name not in profiles:
        raise NotFound(
            "ProfileNotFound",
            f"profile: {name!r} is not in {file}.",
            hint=f"Known profiles: {', '.join(sorted(profiles)) or 'none'}.",
        )
    values = _merge(tables.get("default", {}), profiles.get(name, {}))
    return ProfileValues(name, file, _resolve(values, file.parent.resolve()))


def _require_known_tables(tables: dict[str, Any], file: Path) -> None:
    """Refuse what no profile would read, so that a setting in the wrong place is not missing without a word."""
    unknown = sorted(tables.keys() - {"default", "profile"})
    if not unknown:
        return
    table = unknown[0]
    place = f"[default.{table}]" if isinstance(tables[table], dict) else "[default]"
    hint = (
        "Profiles stand in [profile.NAME]."
        if table.startswith("profile")
        else f"Move it to {place}, or to the same place in [profile.NAME]."
    )
    raise InvalidInput("ConfigInvalid", f"config: {', '.join(unknown)} in {file}: outside of [default] and [profile.NAME].", hint=hint)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


_PATH_SUFFIXES = ("_file", "_dir", "_files", "kubeconfig")


def _resolve(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make relative paths relative to the configuration file's directory, and expand ``~``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key == "secret_files" and isinstance(value, dict):
            result[key] = {name: base / Path(item).expanduser() for name, item in value.items()}
        elif isinstance(value, dict):
            result[key] = _resolve(value, base)
        elif key.endswith(_PATH_SUFFIXES) and isinstance(value, str):
            result[key] = base / Path(value).expanduser()
        elif key.endswith(_PATH_SUFFIXES) and isinstance(value, list):
            result[key] = [base / Path(item).expanduser() for item in value]
        else:
            result[key] = value
    return result
