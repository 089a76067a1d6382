"""The commands of docs/getting-started.md: their number, and everything that needs no server."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cleanroom.documents.specs import load_dataset_spec, load_query_spec
from localcloud.launcher.chosen_parties import parse_parties
from starters.cli import app
from tests.three_companies import section, write_data

MAX_COMMANDS, MAX_FILES = 12, 3


def test_companies_need_few_commands_and_files() -> None:
    found = section()
    assert 0 < len(found.commands) <= MAX_COMMANDS
    assert 0 < len(found.files) <= MAX_FILES
    assert {command[0] for command in found.commands} == {"cleanroom"}


@pytest.mark.parametrize("number", range(MAX_COMMANDS))
def test_every_command_and_its_options_exist(number: int) -> None:
    commands = section().commands
    if number >= len(commands):
        pytest.skip("the section has fewer commands")
    # The options are parsed first, then --help ends the command.
    done = CliRunner().invoke(app, [*commands[number][1:], "--help"])
    assert done.exit_code == 0, done.output
    options = [word for word in commands[number] if word.startswith("--")]
    assert all(option in done.output for option in options)


def test_files_are_valid_and_inferred_ones_fit_the_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    found = section()
    for name, text in found.files.items():
        Path(name).write_text(text)
    write_data(tmp_path)
    offline = [command for command in found.commands if command[1:3] == ("dataset", "init")]
    assert len(offline) == 2
    for command in offline:
        done = CliRunner().invoke(app, list(command[1:]))
        assert done.exit_code == 0, done.output
    specs = {name: load_dataset_spec(Path(f"{name}.yaml")) for name in ("north", "south", "matches")}
    assert {name: spec.privacy.min_group_size for name, spec in specs.items() if name != "matches"} == {"north": 20, "south": 20}
    query = load_query_spec(Path("overlap.yaml"))
    assert set(query.inputs.values()) | {query.output} == set(specs)
    parties = parse_parties([value for option, value in zip(found.commands[0], found.commands[0][1:], strict=False) if option == "--party"])
    assert {item.name for item in parties.members} == set(found.commands[1][2:])
