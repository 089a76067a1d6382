"""Loads YAML files strictly.

YAML accepts duplicate members, of which the last one applies, and unlimited nesting. Both are errors here, and so are unknown
members: a mistake in a floor must not remove the floor.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cleanroom.errors import InvalidInput, NotFound
from cleanroom.identifiers import MAX_NAME, NAME_PATTERN

T = TypeVar("T", bound=BaseModel)

MAX_FILE: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 5
_MERGE: Final = "tag:yaml.org,2002:merge"
_MESSAGES: Final = {"extra_forbidden": "no such member", "missing": "is missing"}


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
        raise InvalidInput("YamlMalformed", f"{path}{where}: {problem}.", hint="Correct the YAML at that position.") from error
    except (ValueError, OverflowError) as error:
        # PyYAML raises these for invalid dates and numbers.
        raise InvalidInput("YamlMalformed", f"{path}: {error}.", hint="Put the value in quotes.") from error
    if not isinstance(value, dict):
        what = "empty" if value is None else "not a mapping"
        raise InvalidInput("YamlMalformed", f"{path}: the document is {what}.", hint=_members(model))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(model, path, code, error) from error


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
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"File {path} does not exist.", hint="Check the path.") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(
            "FileUnreadable",
            f"{path}: cannot be read as UTF-8 text.",
            cause=error.strerror if isinstance(error, OSError) else str(error),
            hint="Check the file's permissions, and save it as UTF-8.",
        ) from error


def _invalid(model: type[BaseModel], path: Path, code: str, error: ValidationError) -> InvalidInput:
    """Describe the first problems as ``member: rule``, without values, which may be secrets. Suggest names for misspelt members."""
    problems = error.errors(include_url=False, include_input=False)
    known = sorted(set(_names(model.model_json_schema())))
    described, hints = [], []
    for problem in problems[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        described.append(f"{where}: {_MESSAGES.get(problem['type']) or problem['msg'].removeprefix('Value error, ')}")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
            hints.append(f"{problem['loc'][-1]}: did you mean {near[0]}?" if near else _members(model))
        elif problem["type"] == "missing":
            hints.append(_members(model))
        elif problem.get("ctx", {}).get("pattern") == NAME_PATTERN:
            hints.append(f"Names have lower-case letters, digits and single hyphens, at most {MAX_NAME} characters.")
    more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
    hint = " ".join(dict.fromkeys(hints)) or "Correct these members. The files in demo/ are examples."
    return InvalidInput(code, f"{path}: {'; '.join(described)}{more}.", hint=hint)


def _names(schema: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all members in a JSON Schema."""
    yield from schema.get("properties", {})
    for part in schema.get("$defs", {}).values():
        yield from part.get("properties", {})


def _members(model: type[BaseModel]) -> str:
    return f"Known members: {', '.join(model.model_json_schema()['properties'])}."
