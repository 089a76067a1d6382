"""The configuration reference: every field of :mod:`cleanroom.settings`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cleanroom import settings
from scripts.reference.fields import default_value
from scripts.reference.markdown import attribute_docs, code, header, page, parsed, prose, table

_CLASSES = {node.name: node for node in parsed(settings).body if isinstance(node, ast.ClassDef)}


def render() -> str:
    """The page ``docs/reference/configuration.md``."""
    lines = header(
        "Configuration",
        "cleanroom/settings.py",
        "Settings come from `cleanroom.toml` and from environment variables. Each process uses one profile, which "
        "`--profile` or `CLEANROOM_PROFILE` names. Precedence, highest first: environment variable, `[profile.NAME]`, `[default]`, "
        "default value. Relative paths are relative to the file.",
        "The file is the first of: `--config`, `CLEANROOM_CONFIG`, `./cleanroom.toml`, `./.cleanroom/cleanroom.toml`, "
        "`./.cleanroom/demo/cleanroom.toml`, `~/.config/cleanroom/cleanroom.toml`. Connection settings of Temporal (`TEMPORAL_*`) are "
        "those of the [Temporal environment configuration](https://docs.temporal.io/develop/environment-configuration).",
        "Secrets are never values of settings. A setting names a file of mode 0600 that holds the secret.",
        "The column *Effect* says what a setting can do. *may fail*: a wrong value makes something fail; it discloses nothing. "
        "*own trust*: it decides what this collaborator's own commands and worker rely on. "
        "*bootstrap*: as own trust, but the attested workers "
        "`clean-room` and `spark-service` take the value from their bootstrap file, whose digest their command line and so their host "
        "data contain. No setting decides what attested workers trust: see "
        "[decision 9](../decisions/009-settings-decide-nothing.md) and the [schemas](schemas.md) of the trust document and the bootstrap "
        "file.",
    )
    own = {name: field for name, field in settings.Settings.model_fields.items() if not _section(field)}
    lines += ["## General", "", *_fields(settings.Settings, own, "")]
    for name, field in settings.Settings.model_fields.items():
        if section := _section(field):
            lines += [f"## `[{name}]`", "", prose(section.__doc__) if section.__doc__ else "", ""]
            lines += _fields(section, section.model_fields, f"{name}.")
    return page(lines)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def _fields(model: type[BaseModel], fields: dict[str, FieldInfo], prefix: str) -> list[str]:
    return table(("Setting", "Type", "Default", "Effect", "Meaning"), _rows(model, fields, prefix))


def _rows(model: type[BaseModel], fields: dict[str, FieldInfo], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    docs = attribute_docs(_CLASSES[model.__name__])
    for name, field in fields.items():
        meaning = prose(field.description or docs.get(name))
        if not meaning:
            raise LookupError(f"cleanroom.settings.{model.__name__}.{name} has no description; add a docstring below it.")
        effect, variable = settings.effect_of(field).value, f"CLEANROOM_{prefix.replace('.', '__')}{name}".upper()
        yield f"`{prefix}{name}`<br>`{variable}`", code(_type(field.annotation)), default_value(field), effect, meaning


def _type(annotation: Any) -> str:
    """``annotation`` as a reader of TOML knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        names = {str: "string", int: "integer", bool: "boolean", float: "number", Path: "path", type(None): ""}
        return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if str(origin).endswith("Literal"):
        return ", ".join(map(str, arguments))
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    return ", ".join(filter(None, map(_type, arguments)))
