"""Loads YAML files strictly.

YAML accepts duplicate members, of which the last one applies, and unlimited nesting. Both are errors here, and so are unknown
members: a mistake in a floor must not remove the floor.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cleanroom.documents.dataset import SUFFIXES
from cleanroom.errors import InvalidInput, NotFound
from cleanroom.identifiers import MAX_NAME, NAME_PATTERN
from cleanroom.models import broken_rule

T = TypeVar("T", bound=BaseModel)

MAX_FILE: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 20
MAX_VALUE: Final = 60
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MERGE: Final = "tag:yaml.org,2002:merge"
_WITHOUT_VALUE: Final = {"extra_forbidden", "missing", "value_error", "union_tag_invalid", "union_tag_not_found"}
_OTHER_NAMES: Final = {
    "string": {"str", "text", "varchar", "char", "object", "uuid", "category"},
    "integer": {"int", "int32", "int16", "smallint", "short"},
    "long": {"int64", "bigint", "uint32", "big_integer"},
    "number": {"float", "double", "float64", "float32", "decimal", "numeric", "real"},
    "boolean": {"bool", "bit", "flag"},
    "timestamp": {"datetime", "datetime64", "timestamptz", "time"},
    "csv": {"tsv", "txt"},
    "json": {"jsonl", "ndjson", "json_lines"},
}
"""Names that other systems give to the types and formats of datasets."""


class _StrictLoader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth >= MAX_DEPTH:
            here = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", here)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if _SURROGATE.search(node.value):
            raise yaml.composer.ComposerError(None, None, "a lone surrogate, which UTF-8 cannot represent", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"duplicate member {key.value[:80]!r}", key.start_mark)
            seen.add(key.value)
        return node


def load_yaml(model: type[T], path: Path, code: str) -> T:
    """Load a file as ``model``.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileTooLarge``, ``FileUnreadable``, ``YamlMalformed`` with line and column, or ``code`` with members and rules.
    """
    text = read_text(path)
    try:
        value: Any = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid"
        hint = _of_rows(path) or "Correct the YAML at that position."
        if "'\\t'" in problem:
            hint += " YAML is indented with spaces, not with tabs."
        raise InvalidInput("YamlMalformed", f"{path}{where}: {problem}.", hint=hint) from error
    except (ValueError, OverflowError) as error:
        # PyYAML raises these for invalid dates and numbers.
        raise InvalidInput("YamlMalformed", f"{path}: {error}.", hint="Put the value in quotes.") from error
    if not isinstance(value, dict):
        what = {type(None): "empty", list: "a list, not a mapping", str: "a text, not a mapping"}.get(type(value), "not a mapping")
        raise InvalidInput("YamlMalformed", f"{path}: the document is {what}.", hint=_of_rows(path) or _members(model))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(model, path, code, error) from error


def _of_rows(path: Path) -> str:
    """Return the hint for a file of rows in place of the YAML file that describes it."""
    if not any(path.suffix.lower() in endings for endings in SUFFIXES.values()):
        return ""
    return f"{path.name} has rows. Name the YAML file that describes them; `cleanroom dataset init {path.name}` writes one."


def read_text(path: Path) -> str:
    """Read a text file. Pipes and devices are read up to the maximum size of a file.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileTooLarge``, ``FileUnreadable``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise InvalidInput(
                "FileTooLarge", f"{path}: larger than {MAX_FILE} bytes.", hint="Check the path: a YAML or SQL file is expected."
            )
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"File {path} does not exist.", hint="Check the path.") from error
    except OSError as error:
        hint = "Name a file, not a folder." if isinstance(error, IsADirectoryError) else "Check the file's permissions."
        raise InvalidInput("FileUnreadable", f"{path}: cannot be read.", cause=error.strerror, hint=hint) from error
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1} is {content[error.start]:#04x}"
        hint = "Save the file as UTF-8. A file of another format or encoding has been named."
        raise InvalidInput("FileUnreadable", f"{path}: is not UTF-8 text.", cause=why, hint=hint) from error
    except ValueError as error:
        # A path with a null character.
        hint = "Check the file's permissions, and that its path contains no special characters."
        raise InvalidInput("FileUnreadable", f"{str(path)!r}: cannot be read.", cause=str(error), hint=hint) from error


def _invalid(model: type[BaseModel], path: Path, code: str, error: ValidationError) -> InvalidInput:
    """Describe the problems as ``member: rule``, and suggest names for misspelt members and types.

    The value is shown if it is one text or number of a known member that holds no secret.
    """
    problems = error.errors(include_url=False)
    described, hints = [], []
    for problem in problems[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in problem["loc"])
        described.append(": ".join(filter(None, [where, broken_rule(problem)])) + _value_of(problem))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), _known(model), 1)
            hints.append(f"{problem['loc'][-1]}: did you mean {near[0]}?" if near else _members(model))
        elif problem["type"] == "missing":
            hints.append(_members(model))
        elif problem["type"] == "literal_error" and (meant := _nearest(problem["ctx"]["expected"], problem["input"])):
            hints.append(f"{where}: did you mean {meant}?")
        elif problem.get("ctx", {}).get("pattern") == NAME_PATTERN:
            hints.append(f"Names have lower-case letters, digits and single hyphens, at most {MAX_NAME} characters.")
        elif isinstance(problem["input"], bool):
            hints.append("YAML reads on, off, yes, no, true and false as truth values: put a text in quotes, or write a number.")
    more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
    hint = " ".join(dict.fromkeys(hints)) or "Correct these members. The files in demo/ are examples."
    return InvalidInput(code, f"{path}: {'; '.join(described)}{more}.", hint=hint)


def _value_of(problem: ErrorDetails) -> str:
    """Return the wrong value for an error message; the empty string if the message has it already, or if it may be a secret."""
    value = problem["input"]
    hidden = any("secret" in str(part).lower() for part in problem["loc"])
    if hidden or problem["type"] in _WITHOUT_VALUE or not isinstance(value, str | int | float | datetime.date | None):
        return ""
    text = repr(str(value) if isinstance(value, datetime.date) else value)
    return f", not {text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + '…'}"


def _nearest(expected: str, value: object) -> str | None:
    """Return the expected value that the author may have meant."""
    words = str(value).lower().replace(" ", "_")
    options = re.findall(r"'([^']+)'", expected)
    meant = next((name for name, others in _OTHER_NAMES.items() if words in others and name in options), None)
    return meant or next(iter(difflib.get_close_matches(words, options, 1)), None)


@functools.cache
def _known(model: type[BaseModel]) -> list[str]:
    """Return the names of all members of a model and of its parts."""
    return sorted(set(_names(model.model_json_schema())))


def _names(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all members in a JSON Schema."""
    yield from schema.get("properties", {})
    for part in schema.get("$defs", {}).values():
        yield from part.get("properties", {})


@functools.cache
def _members(model: type[BaseModel]) -> str:
    return f"Known members: {', '.join(model.model_json_schema()['properties'])}."
