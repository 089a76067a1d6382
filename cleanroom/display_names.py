"""Names of collaborators in texts for people: services, statements and documents have user IDs.

The names are those of the settings of the process that shows the text. An ID that is a part of a document's ID, such as
``approver-key.<user ID>``, stays: commands take the document's ID as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cleanroom.errors import CleanRoomError


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Replace user IDs in ``text`` by names.

    Args:
        text: Text for a person.
        names: Names by user ID.
    """
    known = "|".join(re.escape(user) for user in sorted(names, key=len, reverse=True) if user in text) if text else ""
    return re.sub(rf"(?<![\w.-])(?:{known})(?![\w-]|\.\w)", lambda found: names[found[0]], text) if known else text


def error_with_names(error: CleanRoomError, names: Mapping[str, str]) -> CleanRoomError:
    """Return a copy of ``error`` with names instead of user IDs in message, cause, hint and responsible party."""
    value = error.to_dict()
    texts = ("message", "cause", "hint", "party")
    return CleanRoomError.from_dict(value | {key: with_names(value[key], names) for key in texts if value[key]})
