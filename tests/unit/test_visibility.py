"""Search attributes, and untrusted text in Markdown, summaries and terminals."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.temporal import attributes
from cleanroom.temporal.markdown import DETAILS_LIMIT, code, code_block, details, escape, plain, prose, table

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x1b[0m\u202etxt.exe\u2066\u200b\x00\x07[x](javascript:alert(1))\n# head <img src=//evil> `a` |b|"


def test_search_attributes_fit_the_default_visibility_store() -> None:
    counted = Counter(entry.split("=")[1] for entry in attributes.REGISTRATION)
    assert counted["Keyword"] <= 10
    assert all(count <= 3 for kind, count in counted.items() if kind != "Keyword")
    assert len({key.name for key in attributes.ALL}) == len(attributes.ALL) == len(attributes.REGISTRATION)
    assert "CrPendingFor=KeywordList" in attributes.REGISTRATION


def test_start_attributes_omit_none() -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    made = attributes.start_attributes(
        kind="query", digest="sha256:" + "ab" * 32, pending_for=["litware", "contosso", "litware"], expires_at=at
    )
    assert made[attributes.DIGEST] == "abababababab"
    assert made[attributes.PENDING_FOR] == ["contosso", "litware"]
    assert attributes.OUTCOME not in made
    assert len(made) == 4


def test_updates_set_and_remove_attributes() -> None:
    updates = attributes.updates((attributes.STAGE, "a\x1b[31mb"), (attributes.PENDING_FOR, []), (attributes.OUTCOME, None))
    assert [update.value for update in updates] == ["ab", None, None]


@given(st.text())
def test_plain_text_is_one_short_line_without_control_characters(text: str) -> None:
    line = plain(text, 50)
    assert len(line) <= 50
    assert all(unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for character in line)
    assert plain(line, 50) == line


def test_hostile_text_is_shown_literally() -> None:
    assert plain(HOSTILE) == "redtxt.exe[x](javascript:alert(1)) # head <img src=//evil> `a` |b|"
    shown = escape(HOSTILE)
    assert "](" not in shown
    assert "<" not in shown.replace("&lt;", "")
    assert code("a`b\x1b[0m") == "`a'b`"


def test_only_text_between_backticks_becomes_code() -> None:
    assert prose("Run `cleanroom ps`, then *wait*.") == "Run `cleanroom ps`, then \\*wait\\*\\."
    assert prose("one ` alone") == escape("one ` alone")
    assert prose("`a` and ` alone") == "`a` and \\` alone"
    assert prose(HOSTILE).count("`") == 2
    assert "](" not in prose(HOSTILE)
    assert len(prose("x" * 900, 600).split("…")) == 2


@given(st.text(alphabet=st.sampled_from("ab <>[]()!`*_#|\\&~\n\x1b\u202e-.:"), max_size=60))
def test_escaped_text_contains_no_markdown(text: str) -> None:
    """Every character with a meaning is escaped or an entity."""
    shown = escape(text, 1000)
    rest = shown.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "")
    position = 0
    while position < len(rest):
        if rest[position] == "\\":
            position += 2
            continue
        assert rest[position] not in "<>[]()`*_#|&!"
        position += 1


def test_text_cannot_close_its_code_block() -> None:
    block = code_block("SELECT 1\n```\n# injected\n    FROM t\x1b[2J", "sql")
    assert block.count("```") == 2
    assert block.splitlines()[0] == "```sql"
    assert "    FROM t" in block


def test_tables_escape_cells_and_count_hidden_rows() -> None:
    shown = table(["who", "what"], [["a|b", "c"], *[["x", "y"]] * 60])
    assert "| a\\|b | c |" in shown
    assert shown.endswith("… and 11 more")


@pytest.mark.parametrize("text", ["x" * 100_000, "ä" * 100_000])
def test_details_are_cut_at_the_servers_limit(text: str) -> None:
    assert len(details(text, text).encode()) <= DETAILS_LIMIT + 50


def test_long_lists_are_cut_to_what_the_server_accepts_and_count_the_rest() -> None:
    names = [f"{number:03d}-{'x' * 36}" for number in range(200)]
    [update] = attributes.updates((attributes.PENDING_FOR, names))
    shown: list[str] = list(update.value or [])
    assert shown[:3] == names[:3]
    assert shown[-1] == f"+{200 - (len(shown) - 1)} more"
    assert 1800 < len(json.dumps(shown)) <= 2000
    assert attributes.clean(names[:40]) == names[:40]
