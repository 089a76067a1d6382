"""``cleanroom audit report``: the page about a bundle."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.audit.chain import Bundle, build_bundle
from cleanroom.audit.files import write_bundle
from cleanroom.audit.report import render_report
from cleanroom.audit.verify import verify_bundle
from starters.cli import app
from tests.audit_records import Items
from tests.audit_world import AuditWorld


class Page(HTMLParser):
    """Checks that elements are closed, and collects tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["audit", "report", *words, "-o", "json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_page_says_what_happened_with_names(world: AuditWorld, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(bundle, tmp_path / "r.zip")
    names = [word for name, user in world.users.items() for word in ("--name", f"{user}={name}")]
    record = run("r.zip", "--trust", str(world.hardware.trust_file), *names)
    assert (record["file"], record["ok"], record["run"]) == ("r.html", True, world.run_id)
    page = Page((tmp_path / "r.html").read_text())
    text = " ".join(page.words)
    assert "VERIFIED" in text
    assert "NOT CONFIDENTIAL" in text
    assert re.search("requested by fabrikam", text)
    for owner in ("contosso", "litware"):
        assert re.search(f"{owner} approve 20", text), owner
    assert "FROM flights AS f" in text
    assert re.search(r"rows in dataset litware-delays", text)
    body = text.partition("Names name user ID")[0]
    assert not [user for user in world.users.values() if user in body]
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "table", "tr", "th", "td", "pre", "small"}
    assert page.tags <= allowed
    assert page.attributes <= {"lang", "charset", "class"}, "nothing that loads or runs"
    assert run("r.zip", code=2)["code"] == "FileExists"


def test_page_of_a_broken_bundle_names_the_link_and_calls_its_facts_unverified(
    world: AuditWorld, items: Items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = copy.deepcopy(list(items))
    for kind, _, body in changed:
        if kind == "receipt":
            body["receipt"]["rows"] += 1  # type: ignore[index]
    write_bundle(build_bundle(changed), tmp_path / "r.zip")
    run("r.zip", "--trust", str(world.hardware.trust_file), code=4)
    text = " ".join(Page((tmp_path / "r.html").read_text()).words)
    assert "BROKEN" in text
    assert "First broken link" in text
    assert "It is not verified" in text
    (tmp_path / "x.zip").write_bytes(b"nothing")
    run("x.zip", code=4)
    assert "BROKEN" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(("name", "words"), [("r.zip", "name their file with --trust"), ("x.zip", "x.zip is not an audit bundle")])
def test_a_bundle_that_is_not_accepted_has_a_remedy(
    name: str, words: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(bundle, tmp_path / "r.zip")
    (tmp_path / "x.zip").write_bytes(b"nothing")
    for command in ("report", "verify"):
        done = CliRunner().invoke(app, ["audit", command, name])
        assert done.exit_code == 4
        assert words in " ".join(done.stderr.split())


def test_text_of_a_bundle_is_escaped(world: AuditWorld, items: Items) -> None:
    changed = copy.deepcopy(list(items))
    for kind, _, body in changed:
        if kind == "event" and isinstance(body["data"], dict):
            body["data"]["message"] = "<script>alert(1)</script>\x1b[31m"  # type: ignore[index]
    forged = build_bundle(changed)
    verdict = verify_bundle(forged, world.trust)
    text = render_report(forged, verdict, {}, source="<b>.zip")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in " ".join(page.words)
