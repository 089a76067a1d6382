"""Commands that fail before they reach anything: the names of the contract, JSON errors with a code, a hint and a stable exit code."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cleanroom.documents.specs import load_query_spec
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, Refused
from starters.cli import app
from starters.commands import COMMANDS
from starters.local import restart_hints
from starters.operations import workflow_names as names
from starters.operations.local_cloud import find_state
from starters.operations.session import Session
from starters.terminal import output
from starters.terminal.entry import invoke
from starters.terminal.output import Format, Output, print_error, print_rows
from starters.terminal.result_view import chart_png, series

NAMES = {
    "dataset": {"publish", "upload", "show", "list"},
    "query": {"create", "update", "propose", "approve", "reject", "withdraw", "show", "list"},
    "run": {"start", "show", "watch", "cancel", "result"},
}
runner = CliRunner()
HOUSE = Path(__file__).parents[2]


@pytest.mark.parametrize("noun", NAMES)
def test_the_verbs_of_the_contract(noun: str) -> None:
    for verb in NAMES[noun]:
        helped = runner.invoke(app, [noun, verb, "--help"])
        assert helped.exit_code == 0, verb
        assert "--output" in helped.output, verb


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"starters.{entry.module}"), entry.attribute)
    told = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found).split("\n\n")[0].replace("\n", " ")
    assert entry.line == told


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (("--help",), {"temporalio", "cryptography", "httpx", "cleanroom.settings"}),
        (("query", "show", "x", "--config", "here.toml"), {"azure", "httpx", "sqlglot", "kubernetes", "boto3", "activities", "workflows"}),
        (("run", "show", "x", "--config", "here.toml"), {"azure", "httpx", "sqlglot", "kubernetes", "pyarrow", "activities", "workflows"}),
    ],
)
def test_a_command_imports_what_it_needs(words: tuple[str, ...], unwanted: set[str], tmp_path: Path) -> None:
    (tmp_path / "here.toml").write_text('collaboration = "flights"\n')
    script = (
        "import sys; from starters.terminal.entry import invoke; from starters.cli import app\n"
        f"try: invoke(app, {words!r})\nfinally: print(*sys.modules)"
    )
    environment = {**os.environ, "TEMPORAL_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(HOUSE)}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60, cwd=tmp_path)
    loaded = set(told.stdout.splitlines()[-1].split())
    assert "starters.commands" in loaded, told.stderr
    assert ("temporalio.client" in loaded) is (words != ("--help",)), told.stderr
    assert not loaded & unwanted


def test_workflows_and_their_messages_are_called_by_the_names_that_they_have() -> None:
    from temporalio.workflow import _Definition

    from workflows.conclude_run import ConcludeRun
    from workflows.publish_azure_dataset import PublishAzureDataset
    from workflows.publish_query import PublishQuery
    from workflows.publish_s3_dataset import PublishS3Dataset
    from workflows.run_query import RunQuery

    def definition(workflow: type) -> _Definition:
        return _Definition.must_from_class(workflow)

    query, run = definition(PublishQuery), definition(RunQuery)
    assert (query.name, run.name) == (names.PUBLISH_QUERY, names.RUN_QUERY)
    assert {names.APPROVE, names.REJECT} <= set(query.signals)
    assert {names.UPDATE, names.PROPOSE, names.WITHDRAW} <= set(query.updates)
    assert names.STATE in query.queries
    assert {names.STATUS, names.OUTCOME} <= set(run.queries)
    for workflow, name in (
        (PublishAzureDataset, names.PUBLISH_AZURE_DATASET), (PublishS3Dataset, names.PUBLISH_S3_DATASET), (ConcludeRun, names.CONCLUDE_RUN),
    ):  # fmt: skip
        assert definition(workflow).name == name
        assert names.TIMELINE in definition(workflow).queries


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
        ("up --state here.toml", "StateNotAFolder", 2),
        ("down --state here.toml", "StateNotAFolder", 2),
        ("ps --state here.toml", "StateNotAFolder", 2),
        ("up --state /proc/none", "StateNotWritable", 2),
        ("audit verify .", "FileUnreadable", 2),
        ("codec-keys missing.json --add k2", "SecretFileNotFound", 3),
        ("codec-keys . --add k2", "SecretFileIsFolder", 2),
        ("codec-keys here.toml", "KeyringExists", 5),
        ("codec-server --keyring missing.json", "SecretFileNotFound", 3),
        ("codec-server --keyring missing.json --oidc-claim team=a", "CodecOidcIncomplete", 2),
        ("codec-server --keyring a --oidc-issuer b --oidc-audience c --oidc-jwks d --oidc-claim team", "CodecOidcClaimMalformed", 2),
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


QUERY = "name: x\ninputs: {a: b}\noutput: c\n"


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        (QUERY + "sql: SELECT 1\ninputs: {a: c}\n", "YamlMalformed", "line 5, column 1: 'inputs' is given twice", "Mend"),
        (QUERY.replace("a: b", "a: b, 'a': c"), "YamlMalformed", "'a' is given twice", "Mend"),
        (QUERY + "sqlFiel: x\n", "QuerySpecInvalid", "sqlFiel: there is no such member", "did you mean sqlFile?"),
        (QUERY + "colour: red\n", "QuerySpecInvalid", "colour: there is no such member", "Its members are: name, inputs"),
        ("sql: SELECT 1\n", "QuerySpecInvalid", "name: is missing; inputs: is missing; output: is missing", "Its members are: name"),
        (QUERY.replace("x", "Big Name") + "sql: x\n", "QuerySpecInvalid", "name: String should match", "lower-case letters"),
        ("name: " + "[" * 5000, "YamlMalformed", "line 1, column 38: nested deeper than 32", "Mend"),
        ("x: &a {k: 1}\n" + QUERY + "sql: 1\n", "QuerySpecInvalid", "x: there is no such member", "sql"),
        ("name: 2013-99-99\n", "YamlMalformed", "month must be in 1..12", "quotes"),
        ("- a\n", "YamlMalformed", "no mapping", "Its members are"),
        ("", "YamlMalformed", "is empty", "Its members are"),
        ("a\tb: 'c\n\td", "YamlMalformed", "line", "Mend"),
        ("name: \x01\n", "YamlMalformed", "special characters are not allowed", "Mend"),
        (QUERY + 'sqlFile: "a\\0b"\n', "FileUnreadable", "cannot be read", "Name a file"),
        (QUERY + "sqlFile: /dev/zero\n", "FileTooLarge", "over 1048576 bytes", "right file"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, code: str, message: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "query.yaml"
    file.write_text(text)
    with pytest.raises(CleanRoomError) as wrong:
        load_query_spec(file)
    error = wrong.value
    assert (error.code, error.exit_code) == (code, 2)
    assert message in error.message
    assert hint in (error.hint or "")


def test_members_may_be_shared_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "query.yaml"
    file.write_text(QUERY + "sql: SELECT 1\npreConditions:\n- &one {viewName: a, minRowCount: 1}\n- {<<: *one, minRowCount: 2}\n")
    assert [item.min_row_count for item in load_query_spec(file).pre_conditions or ()] == [1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run shw r-1 -o json", "No such command 'shw'"),
        ("qery show x -o json", "Did you mean 'query'?"),
        ("run show --output=json", "run_id"),
        ("run start delays --run -o json", "--run"),
        ("run result r-1 --limit 0 --output json", "--limit"),
    ],
)
def test_usage_errors_are_json_where_json_is_asked_for(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, words.split())
    error = json.loads(capsys.readouterr().out)
    assert (left.value.code, error["code"], message in error["message"]) == (2, "UsageError", True), error
    assert "--help" in error["hint"]


def test_usage_errors_are_words_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, ["run", "shw"])
    told = capsys.readouterr()
    assert (left.value.code, told.out, "No such command" in told.err) == (2, "", True)


def test_a_question_that_nobody_answers_is_an_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    asking = typer.Typer()
    asking.command()(lambda: typer.confirm("approve?", abort=True, err=True))
    with pytest.raises(SystemExit) as left:
        invoke(asking, [])
    assert left.value.code == 130
    assert "Aborted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("up", ()), ("down", ()), ("ps", ()), ("demo", ()), ("worker", ()), ("ui", ()), ("codec_server", ()), ("keys", ("publish",)),
        ("secrets", ("set",)), ("local", ("ps",)), ("dataset", ("upload",)), ("query", ("propose",)), ("run", ("start",)),
        ("consent", ("off",)), ("collaboration", ("show",)), ("audit", ("verify",)), ("attest", ("verify",)),
    ],
)  # fmt: skip
def test_every_command_is_a_script_with_the_same_words(name: str, words: tuple[str, ...]) -> None:
    module = importlib.import_module(f"starters.{name}")
    script = getattr(module, "app", None)
    assert isinstance(script, typer.Typer)
    helped = runner.invoke(script, [*words, "--help"])
    assert helped.exit_code == 0, helped.output
    assert "--output" in helped.output


def test_people_are_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("starters.terminal.output.USER_NAMES", {})
    (tmp_path / "here.toml").write_text('collaboration = "flights"\n[default.parties]\nlitware = "738d85d9"\n')
    monkeypatch.setattr("starters.operations.session.USER_NAMES", output.USER_NAMES)
    Session.load(None, str(tmp_path / "here.toml"))
    print_error(Refused("ConsentDisabled", "disabled by: m[738d85d9]", cause="so says 738d85d9"), Format.JSON)
    error = json.loads(capsys.readouterr().out)
    assert (error["message"], error["cause"]) == ("disabled by: m[litware]", "so says litware")
    print_error(NotFound("UserDocumentNotFound", "no x"), Format.JSON)
    error = json.loads(capsys.readouterr().out)
    assert "query list" in error["hint"]


def test_an_interruption_is_an_error_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = typer.Typer()

    @waiting.command()
    def wait(output: Output = Format.TABLE) -> None:
        raise KeyboardInterrupt

    for words, code in (((), None), (("-o", "json"), "Interrupted")):
        with pytest.raises(SystemExit) as left:
            invoke(waiting, words)
        told = capsys.readouterr().out
        assert (left.value.code, json.loads(told)["code"] if told else None) == (130, code)


def test_what_a_terminal_cannot_show_is_replaced() -> None:
    script = "from starters.terminal.output import *; tolerant_streams(); out.print('▇▇ ✔ — Zürich …'); print_json({'name': 'Zürich'})"
    ascii_terminal = {**os.environ, "PYTHONIOENCODING": "ascii"}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ascii_terminal, timeout=60, check=True, cwd=HOUSE)
    assert told.stdout.decode("ascii").splitlines() == ["## + - Z?rich .", '{"name": "Z\\u00fcrich"}']


@pytest.mark.parametrize(
    ("redirected", "code", "told"),
    [
        ("| true", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 1, "OutputNotWritten"),
        ("-o json | true", 0, ""),
        ("-o json >/dev/full", 1, "OutputNotWritten"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_who_reads_may_leave(redirected: str, code: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(
        "import sys, typer\n"
        "from starters.terminal.output import *\n"
        "from starters.terminal.entry import main\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def rows(output: Output = Format.TABLE) -> None:\n"
        "    with error_boundary(output):\n"
        "        sys.stdin.read()\n"
        "        print_rows([{'name': 'x' * 70}] * 3000, output, columns=('name',))\n"
        "        print_status('done')\n"
        "main(app)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOUSE), "PYTHONUNBUFFERED": "1" if redirected == "| true" else ""}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} said.py {redirected}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert told in done.stderr
    assert code != 0 or redirected == "2>&-" or "done" in done.stderr


def test_rows_keep_their_names_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"run": "r-20260112-091500-a1b2c3", "query": "some-long-query-name", "state": "COMPLETED", "started": "2026-01-12T09:15:00+00:00"}
    ]
    columns = ("run", "query", "state", "started")
    monkeypatch.delenv("COLUMNS", raising=False)
    print_rows(rows, Format.TABLE, columns=columns)
    assert any(all(str(value) in line for value in rows[0].values()) for line in capsys.readouterr().out.splitlines()), "a pipe: one line"
    monkeypatch.setenv("COLUMNS", "60")
    # A console asks for its width when it is made, if the variable was set by then.
    monkeypatch.setattr("starters.terminal.output.out", Console(soft_wrap=True))
    print_rows(rows, Format.TABLE, columns=columns)
    narrow = capsys.readouterr().out.splitlines()
    assert narrow[0] == rows[0]["run"]
    assert "  query: some-long-query-name" in narrow


def test_what_has_exited_is_told_with_the_command_that_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    services = [{"name": "temporal", "state": "ready"}, {"name": "worker.litware", "state": "exited"}]
    assert "cleanroom worker litware[" in " ".join(restart_hints(Path(".cleanroom"), services))
    assert "--config other/cleanroom.toml" in " ".join(restart_hints(Path("other"), services))
    services[0]["state"] = "exited"
    assert "cleanroom up --state other[" in " ".join(restart_hints(Path("other"), services))
    assert find_state(None) == Path(".cleanroom")
    Path(".cleanroom/demo").mkdir(parents=True)
    Path(".cleanroom/demo/services.json").touch()
    assert find_state(None) == Path(".cleanroom/demo")


def test_charts_are_of_columns_that_there_are_in_files_that_can_be(tmp_path: Path) -> None:
    rows = [{"name": "a", "n": 1.5}, {"name": "b", "n": 2}]
    assert series(rows) == (["b", "a"], [2.0, 1.5], "n")
    with pytest.raises(InvalidInput, match="ChartColumnUnknown"):
        series(rows, "name")
    with pytest.raises(InvalidInput, match="ChartNotWritten"):
        chart_png(rows, tmp_path)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, ["run", "show", "--help", "-o", "json"])
    assert left.value.code == 0
    assert "Usage" in capsys.readouterr().out
