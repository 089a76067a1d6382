"""A set-up command that is killed at any request to governance, and repeated: the same result as of one that was not killed.

`make test-kills` kills before and after every request. Without it, commands are killed after each request that writes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from starters.operations.collaboration import accept, admit_user, create_collaboration, invite_user, list_members, show_collaboration
from starters.operations.consent import read_consent, set_consent
from starters.operations.keys import publish_key, retire_key
from starters.operations.session import Session
from tests.governance_shell import HOST_DATA, Shell, make_shell
from tests.killed_commands import EVERYWHERE, Requests

_ = make_shell
NUMBERS = itertools.count(1)


@contextmanager
def counted(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count the requests to governance; yields the method of each."""
    send, methods = httpx.AsyncClient.send, list[str]()

    async def counted_send(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        methods.append(f"{request.method} {request.url.path}")
        answer: httpx.Response = await requests.pass_through(request.method, lambda: send(client, request, **options))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(httpx.AsyncClient, "send", counted_send)
        yield methods


@dataclass(frozen=True)
class Case:
    """One command."""

    profile: str
    command: Callable[[Session, str], Coroutine[Any, Any, Any]]
    """Called with a name that no other repetition uses."""
    seen: Callable[[Session, str], Coroutine[Any, Any, Any]]
    """What governance holds afterwards, without names that differ between repetitions."""
    before: Callable[[Shell, str], None] = lambda shell, name: None


def _create(session: Session, name: str) -> Coroutine[Any, Any, Any]:
    return create_collaboration(session, name, "delays", [HOST_DATA], "https://issuer.example/oidc")


async def _collaboration(session: Session, name: str) -> Any:
    shown = await show_collaboration(session, name)
    return {key: shown[key] for key in ("state", "data", "cleanRooms", "openPolicyProposals", "issuer", "execution")}


def _invite(session: Session, name: str) -> Coroutine[Any, Any, Any]:
    return invite_user(session, f"{name}@x.example", invitation_id=name, tenant=None, service_principal=False)


async def _invitations(session: Session, name: str) -> Any:
    rows = [row for row in await list_members(session) if name in row["name"]]
    return [(row["kind"], row["status"]) for row in rows]


async def _users(session: Session, name: str) -> Any:
    return sorted((row["kind"], row["party"], row["status"]) for row in await list_members(session) if row["kind"] != "member")


async def _consent(session: Session, name: str) -> Any:
    found = await read_consent(session, name)
    return found["status"], found["disabledBy"]


async def _keys(session: Session, name: str) -> Any:
    """The key that the collaborator signs with is published, and this changes nothing."""
    published = await publish_key(session)
    assert published["kid"] == session.key().public.kid
    return published["state"]


def _publish_key(shell: Shell, name: str) -> None:
    asyncio.run(publish_key(Session.load("contosso", str(shell.config))))


CASES = {
    "collaboration create": Case("operator", _create, _collaboration),
    "invite": Case("operator", _invite, _invitations),
    "consent off": Case("contosso", lambda session, name: set_consent(session, name, enabled=False), _consent, Shell.publish),
    "key publish": Case("contosso", lambda session, name: publish_key(session), _keys),
    "key retire": Case("contosso", lambda session, name: retire_key(session), _keys, _publish_key),
}
FRESH = {"key publish", "key retire"}
"""Commands that a user executes once or a few times."""


@pytest.mark.parametrize("command", CASES)
def test_a_set_up_command_that_is_killed_can_be_repeated(command: str, make_shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case, shell = CASES[command], _founded(make_shell)

    def attempt(kill_at: int | None, *, after: bool) -> tuple[Any, list[str]]:
        nonlocal shell
        if command in FRESH and kill_at is not None:
            shell = _founded(make_shell)
        name = f"k-{next(NUMBERS)}"
        case.before(shell, name)
        requests = Requests(kills=kill_at is not None, kill_at=kill_at, after=after)
        with counted(requests, monkeypatch) as methods:
            asyncio.run(requests.run(case.command(_session(shell, case), name)))
        if requests.dead:
            # The repetition is another process.
            asyncio.run(case.command(_session(shell, case), name))
        return asyncio.run(case.seen(_session(shell, case), name)), methods

    expected, methods = attempt(None, after=False)
    assert expected
    kills = [(number, after) for number in range(len(methods)) for after in (False, True)]
    if not EVERYWHERE:
        kills = [(number, True) for number, method in enumerate(methods) if _writes(method)]
    assert kills
    for number, after in kills:
        seen, _ = attempt(number, after=after)
        assert seen == expected, (methods[number], "after" if after else "before")


def test_accepting_and_admitting_can_be_repeated_after_a_kill(make_shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both steps of one user, killed after each write."""
    for kill_at in range(8):
        shell: Shell = make_shell("operator")
        shell.run("collaboration", "create")
        shell.run("invite", "user@contosso.example", "--invitation", "i")
        requests = Requests(kills=True, kill_at=kill_at, after=True)
        steps = (("contosso", accept), ("operator", admit_user))
        for profile, step in steps:
            session = Session.load(profile, str(shell.config))
            with counted(requests, monkeypatch):
                asyncio.run(requests.run(step(session, "i")))
            asyncio.run(step(Session.load(profile, str(shell.config)), "i"))
            requests.kills = not requests.dead
            requests.dead = False
        operator = Session.load("operator", str(shell.config))
        assert asyncio.run(_users(operator, "")) == [("user", "contosso", "Active")]
        if requests.kills or (not EVERYWHERE and kill_at >= 3):
            break


def _writes(method: str) -> bool:
    """Whether a request may have an effect; the proxy of a member reads with POST, too."""
    return not method.startswith("GET")


def _founded(make: Any) -> Shell:
    shell: Shell = make("operator")
    shell.found("contosso")
    return shell


def _session(shell: Shell, case: Case) -> Session:
    return Session.load(case.profile, str(shell.config))
