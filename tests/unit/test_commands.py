"""Commands that fail before they reach anything: the names of the contract, JSON errors with a code, a hint and a stable exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from starters.cli import app
from starters.entry import call

NAMES = {
    "dataset": {"publish", "upload", "show", "list"},
    "query": {"create", "update", "propose", "approve", "reject", "withdraw", "show", "list"},
    "run": {"start", "show", "watch", "cancel", "result"},
}
runner = CliRunner()


@pytest.mark.parametrize("noun", NAMES)
def test_the_verbs_of_the_contract(noun: str) -> None:
    for verb in NAMES[noun]:
        helped = runner.invoke(app, [noun, verb, "--help"])
        assert helped.exit_code == 0, verb
        assert "--output" in helped.output, verb


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        ("query create missing.yaml", "FileNotFound", 3),
        ("query create broken.yaml", "YamlMalformed", 2),
        ("query update wrong.yaml", "QuerySpecInvalid", 2),
        ("dataset publish broken.yaml", "YamlMalformed", 2),
        ("dataset upload missing.yaml rows.csv", "FileNotFound", 3),
        ("run start delays --start-date 99", "RunParametersInvalid", 2),
        ("query reject delays", "TemporalUnavailable", 7),
        ("run show r-1", "TemporalUnavailable", 7),
        ("query show delays --profile nobody --config here.toml", "ProfileNotFound", 3),
        ("query list", "SettingMissing", 6),
    ],
)
def test_errors(words: str, code: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CLEANROOM_CONFIG", "CLEANROOM_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    Path("broken.yaml").write_text("name: x\ninputs: {a: b\noutput: y\n")
    Path("wrong.yaml").write_text("name: x\nsql: 1\n")
    Path("here.toml").write_text('collaboration = "flights"\n')
    result = runner.invoke(app, [*words.split(), "--output", "json"])
    error = json.loads(result.stdout)
    assert (error["code"], result.exit_code) == (code, exit_code), error
    assert {"code", "message", "cause", "hint"} <= set(error)
    assert code != "YamlMalformed" or "line 3" in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run shw r-1 -o json", "No such command 'shw'"),
        ("run show --output=json", "run_id"),
        ("run start delays --run -o json", "--run"),
        ("run result r-1 --limit 0 --output json", "--limit"),
    ],
)
def test_usage_errors_are_json_where_json_is_asked_for(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call(app, words.split())
    error = json.loads(capsys.readouterr().out)
    assert (left.value.code, error["code"], message in error["message"]) == (2, "UsageError", True), error
    assert "--help" in error["hint"]


def test_usage_errors_are_words_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call(app, ["run", "shw"])
    told = capsys.readouterr()
    assert (left.value.code, told.out, "No such command" in told.err) == (2, "", True)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call(app, ["run", "show", "--help", "-o", "json"])
    assert left.value.code == 0
    assert "Usage" in capsys.readouterr().out
