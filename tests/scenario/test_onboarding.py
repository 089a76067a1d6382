"""Commands of members and users on the local cloud."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.local_cloud import Cloud, World, command

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


def run(cloud: Cloud, profile: str, *words: str, code: int = 0) -> Any:
    """Run a command and return its JSON."""
    result = command(*words, "--profile", profile, "--config", str(cloud.state / "cleanroom.toml"), "--output", "json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_operator_acts_as_a_member_and_users_see_the_same_collaboration(cloud: Cloud) -> None:
    shown = [run(cloud, profile, "collaboration", "show") for profile in ("operator", "contosso", "fabrikam")]
    assert shown[0]["state"] == "Accepted"
    assert shown[0]["cleanRooms"] == shown[1]["cleanRooms"] == shown[2]["cleanRooms"]
    again = run(cloud, "operator", "collaboration", "create", "--host-data", shown[0]["cleanRooms"][0])
    assert {step["state"] for step in again["steps"]} == {"unchanged"}
    rows = run(cloud, "litware", "members")
    assert {row["party"] for row in rows if row["kind"] == "user"} >= {"contosso", "litware", "fabrikam"}
    assert run(cloud, "contosso", "invite", "mallory@contosso.example", code=6)["code"] == "NotAMember"


def test_only_the_owner_withdraws_and_gives_consent_to_a_dataset(cloud: Cloud, world: World) -> None:
    name = world.flights.name
    assert run(cloud, "litware", "consent", "off", name, code=4)["code"] == "NotUserDocumentApprover"
    assert run(cloud, "contosso", "consent", "off", name)["disabledBy"] == ["contosso"]
    assert run(cloud, "litware", "consent", "show", name)["status"] == "disabled"
    assert run(cloud, "contosso", "consent", "on", name)["status"] == "enabled"
