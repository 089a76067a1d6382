"""Messages of the current code fit the workers of the recorded earlier release, which refuse members that they do not know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from pydantic import BaseModel, Field
from temporalio.exceptions import ApplicationError

from cleanroom.messages.base import Message
from cleanroom.temporal.converter import CleanRoomPayloadConverter
from tests.histories.release import MEMBERS, messages

ADVICE = """
During an upgrade, workers of two versions send messages to each other, and owners upgrade their workers on their own.
- If a release has the recorded messages: give a new member a default, and leave it out while it has it: Field(default=None,
  exclude_if=lambda value: value is None). Set it only when every worker of the collaboration understands it. Keep every member.
- If no release has them: record them again: python -m tests.histories.release
"""


def incompatible(recorded: Mapping[str, Sequence[str]], current: Mapping[str, type[BaseModel]]) -> list[str]:
    """Return what the workers of the earlier release would not understand, or miss."""
    found = []
    for name, members in recorded.items():
        fields = current[name].model_fields if name in current else {}
        found += [f"{name}.{member} is missing" for member in members if member not in fields]
        for member in fields.keys() - set(members):
            field = fields[member]
            if field.is_required() or field.exclude_if is None:
                found.append(f"{name}.{member} is new, and is always sent")
    return sorted(found)


def test_messages_fit_the_workers_of_the_earlier_release() -> None:
    found = incompatible(json.loads(MEMBERS.read_text("utf-8")), messages())
    assert not found, "\n".join((*found, ADVICE))


def test_new_and_missing_members_are_found() -> None:
    class Sent(Message):
        kept: int
        required: int
        always: str = ""
        when_set: str | None = Field(default=None, exclude_if=lambda value: value is None)

    assert incompatible({"Sent": ["kept", "gone"], "Other": ["a"]}, {"Sent": Sent}) == [
        "Other.a is missing",
        "Sent.always is new, and is always sent",
        "Sent.gone is missing",
        "Sent.required is new, and is always sent",
    ]


def test_a_member_that_is_left_out_reaches_an_earlier_receiver() -> None:
    class Earlier(Message):
        kept: int

    class Later(Message):
        kept: int
        when_set: str | None = Field(default=None, exclude_if=lambda value: value is None)

    convert = CleanRoomPayloadConverter()
    assert convert.from_payload(convert.to_payload(Later(kept=1)), Earlier) == Earlier(kept=1)
    with pytest.raises(ApplicationError):
        convert.from_payload(convert.to_payload(Later(kept=1, when_set="x")), Earlier)
