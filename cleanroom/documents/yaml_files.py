"""YAML files as models. What YAML lets pass and a person did not mean is an error: a member that is given twice (the last would win, and
with it perhaps no floor), a member that there is not, nesting without end."""

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
_TOLD: Final = 5
_MERGE: Final = "tag:yaml.org,2002:merge"
_WORDS: Final = {"extra_forbidden": "there is no such member", "missing": "is missing"}


class _Strict(yaml.SafeLoader):
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
                raise yaml.composer.ComposerError(None, None, f"{key.value[:80]!r} is given twice", key.start_mark)
            seen.add(key.value)
        return node


def load_yaml(model: type[T], path: Path, code: str) -> T:
    """The file as ``model``.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileTooLarge``, ``FileUnreadable``, ``YamlMalformed`` (line and column), or ``code`` (members and rules).
    """
    text = read_text(path)
    try:
        value: Any = yaml.load(text, _Strict)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid"
        raise InvalidInput("YamlMalformed", f"{path}{where}: {problem}.", hint="Mend the YAML at that place.") from error
    except (ValueError, OverflowError) as error:
        # A date that there is not, a number that is none: PyYAML lets these through as they come.
        raise InvalidInput("YamlMalformed", f"{path}: {error}.", hint="Put the value in quotes.") from error
    if not isinstance(value, dict):
        what = "empty" if value is None else "no mapping of members"
        raise InvalidInput("YamlMalformed", f"{path}: the document is {what}.", hint=_members(model))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(model, path, code, error) from error


def read_text(path: Path) -> str:
    """The file's text; pipes and devices are read no further than a file may be long.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``FileTooLarge``, ``FileUnreadable``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise InvalidInput("FileTooLarge", f"{path}: over {MAX_FILE} bytes.", hint="Is it the right file? It should be YAML or SQL.")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"There is no file {path}.", hint="Name a file that exists.") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(
            "FileUnreadable",
            f"{path}: cannot be read as UTF-8 text.",
            cause=error.strerror if isinstance(error, OSError) else str(error),
            hint="Name a file that you may read, and save it as UTF-8.",
        ) from error


def _invalid(model: type[BaseModel], path: Path, code: str, error: ValidationError) -> InvalidInput:
    """Every problem as ``member: rule``, without the values, which may be secrets; for a misspelt member, which one was meant."""
    problems = error.errors(include_url=False, include_input=False)
    known = sorted(set(_names(model.model_json_schema())))
    told, hints = [], []
    for problem in problems[:_TOLD]:
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        told.append(f"{where}: {_WORDS.get(problem['type']) or problem['msg'].removeprefix('Value error, ')}")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
            hints.append(f"{problem['loc'][-1]}: did you mean {near[0]}?" if near else _members(model))
        elif problem["type"] == "missing":
            hints.append(_members(model))
        elif problem.get("ctx", {}).get("pattern") == NAME_PATTERN:
            hints.append(f"Names are lower-case letters, digits and single dashes, at most {MAX_NAME} characters.")
    more = f" (and {len(problems) - _TOLD} more)" if len(problems) > _TOLD else ""
    hint = " ".join(dict.fromkeys(hints)) or "Mend what is named; the files in demo/ are examples."
    return InvalidInput(code, f"{path}: {'; '.join(told)}{more}.", hint=hint)


def _names(schema: dict[str, Any]) -> Iterator[str]:
    """Names of the members of a JSON Schema and of its definitions."""
    yield from schema.get("properties", {})
    for part in schema.get("$defs", {}).values():
        yield from part.get("properties", {})


def _members(model: type[BaseModel]) -> str:
    return f"Its members are: {', '.join(model.model_json_schema()['properties'])}."
