"""Turn pydantic's validation errors into one-line messages that name the member and the rule, never the value."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cleanroom.errors import InvalidInput
from cleanroom.models import broken_rule

M = TypeVar("M", bound=BaseModel)


def parse_document(model: type[M], data: str, *, code: str, what: str) -> M:
    """Parse a JSON document.

    Args:
        model: The model of the document.
        data: Its JSON text.
        code: Error code if the text does not match the model.
        what: Name of the document in the error message, for example ``dataset flights``.

    Raises:
        InvalidInput: ``code``, with the member and the rule that it violates.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(code, f"{what}: {describe_validation(error)}.") from error


def describe_validation(error: ValidationError) -> str:
    """Describe the first problem as ``member: rule (and N more)``.

    The input value is left out: it may be a secret.
    """
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {broken_rule(first)}{more}"
