"""The command line without any service: names, help, lazy imports, usage errors, invalid input."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cleanroom.documents.specs import load_query_spec
from cleanroom.errors import CleanRoomError, InvalidInput
from cleanroom.settings import TemporalSettings, load_settings
from cleanroom.temporal.client import connect
from cleanroom.temporal.failures import SERVER
from cleanroom.temporal.keyring import Keyring
from starters.cli import app
from starters.commands import COMMANDS
from starters.local import restart_hints
from starters.operations import workflow_names as names
from starters.operations.local_cloud import find_state
from starters.terminal.entry import invoke
from starters.terminal.output import Format, Output
from tests.patience import PATIENCE

NAMES = {
    "dataset": {"publish", "upload", "show", "list"},
    "query": {"create", "update", "propose", "approve", "reject", "withdraw", "show", "list"},
    "run": {"start", "show", "watch", "cancel", "result"},
}
runner = CliRunner()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("noun", NAMES)
def test_required_verbs_have_help_and_an_output_option(noun: str) -> None:
    for verb in NAMES[noun]:
        helped = runner.invoke(app, [noun, verb, "--help"])
        assert helped.exit_code == 0, verb
        assert "--output" in helped.output, verb


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_summary_equals_the_commands_own_summary(name: str) -> None:
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"starters.{entry.module}"), entry.attribute)
    summary = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found).split("\n\n")[0].replace("\n", " ")
    assert entry.summary == summary


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (("--help",), {"temporalio", "cryptography", "httpx", "cleanroom.settings"}),
        (("query", "show", "x", "--config", "here.toml"), {"azure", "httpx", "sqlglot", "kubernetes", "boto3", "activities", "workflows"}),
        (("run", "show", "x", "--config", "here.toml"), {"azure", "httpx", "sqlglot", "kubernetes", "pyarrow", "activities", "workflows"}),
    ],
)
def test_command_imports_only_what_it_needs(words: tuple[str, ...], unwanted: set[str], tmp_path: Path) -> None:
    (tmp_path / "here.toml").write_text('[default]\ncollaboration = "flights"\n')
    script = (
        "import sys; from starters.terminal.entry import invoke; from starters.cli import app\n"
        f"try: invoke(app, {words!r})\nfinally: print(*sys.modules)"
    )
    environment = {**os.environ, "TEMPORAL_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=PATIENCE, cwd=tmp_path)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "starters.commands" in loaded, done.stderr
    assert ("temporalio.client" in loaded) is (words != ("--help",)), done.stderr
    assert not loaded & unwanted


def test_workflow_names_match_the_workflow_classes() -> None:
    from temporalio.workflow import _Definition

    from workflows.cleanup import Cleanup
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
        (Cleanup, names.CLEANUP),
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
        ("query reject delays --config set.toml", "PlaintextRefused", 6),
        ("codec-keys keyring.json --use other", "CodecKeyNotFound", 3),
        ("dataset check rows.csv", "YamlMalformed", 2),
        ("dataset init wrong.yaml", "SourceFormatMismatch", 2),
        ("logs cgs", "ClusterUnknown", 6),
        ("run show r-1", "SettingMissing", 6),
        ("run show r-1 --config set.toml", "TemporalUnavailable", 7),
        ("query show delays --profile unknown --config here.toml", "ProfileNotFound", 3),
        ("query list", "SettingMissing", 6),
        ("up --state here.toml", "StateNotAFolder", 2),
        ("down --state here.toml", "StateNotAFolder", 2),
        ("ps --state here.toml", "StateNotAFolder", 2),
        ("up --state /proc/none", "StateNotWritable", 2),
        ("audit verify .", "FileUnreadable", 2),
        ("codec-keys missing.json --add", "SecretFileNotFound", 3),
        ("codec-keys . --add", "SecretFileIsFolder", 2),
        ("codec-keys here.toml", "KeyringExists", 5),
        ("codec-server --keyring missing.json", "SecretFileNotFound", 3),
        ("codec-server --keyring missing.json --oidc-claim team=a", "CodecOidcIncomplete", 2),
        ("codec-server --keyring a --oidc-issuer b --oidc-audience c --oidc-jwks d --oidc-claim team", "CodecOidcClaimMalformed", 2),
    ],
)
def test_invalid_input_gives_a_json_error(words: str, code: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CLEANROOM_CONFIG", "CLEANROOM_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    Path("broken.yaml").write_text("name: x\ninputs: {a: b\noutput: y\n")
    Path("wrong.yaml").write_text("name: x\nsql: 1\n")
    Path("here.toml").write_text("")
    Path("set.toml").write_text('[default]\ncollaboration = "flights"\n')
    Path("rows.csv").write_text("a,b\n1,2\n")
    Keyring.generate().save(tmp_path / "keyring.json")
    result = runner.invoke(app, [*words.split(), "--output", "json"])
    error = json.loads(result.stdout)
    assert (error["code"], result.exit_code) == (code, exit_code), error
    assert {"code", "message", "cause", "hint"} <= set(error)
    assert code != "YamlMalformed" or "line 3" in error["message"] or "cleanroom dataset init rows.csv" in error["hint"]
    assert code != "CodecKeyNotFound" or "Its keys: " in error["hint"]


@pytest.mark.parametrize(
    "words",
    [
        "query approve q --yes",
        "query reject q",
        "query renew q",
        "query withdraw q",
        "run start q",
        "cleanup",
        "dataset publish shop.yaml",
        "query list",
        "run list",
        "run show r-1",
        "members",
        "consent on q",
        "ui",
        "collaboration show",
    ],
)
def test_a_command_in_a_folder_without_settings_says_how_to_get_them(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that it could send plain text, which is no way on."""
    monkeypatch.chdir(tmp_path)
    for name in ("CLEANROOM_CONFIG", "CLEANROOM_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    store = {"kind": "aws-s3", "bucket": "bucket", "connectionSecret": "secret:s3"}
    Path("shop.yaml").write_text(json.dumps({"name": "shop", "format": "csv", "schema": {"a": "string"}, "store": store}))
    error = json.loads(runner.invoke(app, [*words.split(), "--output", "json"]).stdout)
    if error["code"] == "TemporalUnavailable":
        assert "on one machine: `cleanroom up`" in error["hint"]
        return
    assert error["code"] == "SettingMissing", error
    assert "`cleanroom init NAME`" in error["hint"]
    assert "--plaintext" not in error["hint"]


def test_every_command_runs_coroutines_where_errors_of_temporal_are_mapped() -> None:
    """`cleanroom worker` has its own loop, and reconnects until it is stopped."""
    own_loop = {path.name for path in (ROOT / "starters").rglob("*.py") if "asyncio.run(" in path.read_text()}
    assert own_loop == {"session.py", "worker.py"}


async def test_a_connection_notes_its_server_for_later_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    await connect(TemporalSettings(), lazy=True)
    assert SERVER.get() == "127.0.0.1:1"


SENDING = (
    "query create query.yaml",
    "query update query.yaml",
    "query propose x",
    "query withdraw x",
    "query approve x --yes",
    "query reject x --yes",
    "run start x",
    "run conclude r-1",
    "dataset publish dataset.yaml",
)


@pytest.mark.parametrize("words", SENDING)
def test_command_without_a_keyring_sends_nothing_unless_plaintext_is_given(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    Path("query.yaml").write_text(QUERY + "sql: SELECT 1 AS n FROM a\n")
    Path("dataset.yaml").write_text((ROOT / "demo/litware-planes.yaml").read_text())
    text = '[default]\ncollaboration = "flights"\nkeys_dir = "keys"\n[default.parties]\nfabrikam = "user-of-fabrikam"\n'
    text += '[profile.fabrikam]\nparty = "fabrikam"\n'
    Path("here.toml").write_text(text)
    arguments = [*words.split(), "--profile", "fabrikam", "--config", "here.toml", "--output", "json"]
    refused = runner.invoke(app, arguments)
    assert (json.loads(refused.stdout)["code"], refused.exit_code) == ("PlaintextRefused", 6)
    allowed = runner.invoke(app, [*arguments, "--plaintext"])
    assert json.loads(allowed.stdout)["code"] != "PlaintextRefused"


def test_every_operation_that_sends_a_payload_requires_encryption() -> None:
    """Applies to operations that do not exist yet, too."""
    sends = {"start_workflow", "execute_workflow", "signal", "execute_update", "start_update", "signal_with_start"}
    found = []
    for file in sorted((ROOT / "starters").rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            calls = {node.func.attr for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
            if calls & sends and function.name != "execute":  # nested in _send_author_command
                found.append(function.name)
                assert "require_encryption" in calls, f"{file.name}: {function.name}"
    assert len(found) >= 5


QUERY = "name: x\ninputs: {a: b}\noutput: c\n"


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        (QUERY + "sql: SELECT 1\ninputs: {a: c}\n", "YamlMalformed", "line 5, column 1: duplicate member 'inputs'", "Correct the YAML"),
        (QUERY.replace("a: b", "a: b, 'a': c"), "YamlMalformed", "duplicate member 'a'", "Correct the YAML"),
        (QUERY + "sqlFiel: x\n", "QuerySpecInvalid", "sqlFiel: no such member", "did you mean sqlFile?"),
        (QUERY + "colour: red\n", "QuerySpecInvalid", "colour: no such member", "Known members: name, inputs"),
        ("sql: SELECT 1\n", "QuerySpecInvalid", "name: is missing; inputs: is missing; output: is missing", "Known members: name"),
        (QUERY.replace("x", "Big Name") + "sql: x\n", "QuerySpecInvalid", "name: String should match", "lower-case letters"),
        ("name: " + "[" * 5000, "YamlMalformed", "line 1, column 38: nested deeper than 32", "Correct the YAML"),
        ("x: &a {k: 1}\n" + QUERY + "sql: 1\n", "QuerySpecInvalid", "x: no such member", "sql"),
        ("name: 2013-99-99\n", "YamlMalformed", "month must be in 1..12", "quotes"),
        ("- a\n", "YamlMalformed", "not a mapping", "Known members"),
        ("", "YamlMalformed", "is empty", "Known members"),
        ("a\tb: 'c\n\td", "YamlMalformed", "line", "Correct the YAML"),
        ("name: \x01\n", "YamlMalformed", "special characters are not allowed", "Correct the YAML"),
        (QUERY + 'sqlFile: "a\\0b"\n', "FileUnreadable", "cannot be read", "Check the file's permissions"),
        (QUERY + "sqlFile: /dev/zero\n", "FileTooLarge", "larger than 1048576 bytes", "Check the path"),
    ],
)
def test_invalid_query_file_error_names_the_fault(text: str, code: str, message: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "query.yaml"
    file.write_text(text)
    with pytest.raises(CleanRoomError) as wrong:
        load_query_spec(file)
    error = wrong.value
    assert (error.code, error.exit_code) == (code, 2)
    assert message in error.message
    assert hint in (error.hint or "")


def test_query_file_may_use_yaml_merge_keys(tmp_path: Path) -> None:
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
def test_usage_error_is_json_with_output_json(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, words.split())
    error = json.loads(capsys.readouterr().out)
    assert (left.value.code, error["code"], message in error["message"]) == (2, "UsageError", True), error
    assert "--help" in error["hint"]


@pytest.mark.parametrize(
    ("words", "elsewhere"),
    [
        ("lint --sql x", ["`cleanroom query lint`"]),
        ("query start x", ["`cleanroom run start`"]),
        ("run doctor", ["`cleanroom doctor`"]),
        ("show x", ["`cleanroom query show`", "`cleanroom run show`", "`cleanroom dataset show`"]),
        ("frobnicate", []),
        ("secret list", []),
    ],
)
def test_a_command_of_another_group_is_named(words: str, elsewhere: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        invoke(app, [*words.split(), "--output", "json"])
    hint = json.loads(capsys.readouterr().out)["hint"]
    assert all(command in hint for command in elsewhere), hint
    assert ("There is" in hint) == bool(elsewhere)


@pytest.mark.parametrize("words", ["--profile fabrikam query list", "query --profile fabrikam list"])
def test_an_option_before_its_command_is_explained(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        invoke(app, [*words.split(), "--output", "json"])
    assert "Options stand after the command" in json.loads(capsys.readouterr().out)["hint"]


def test_usage_error_is_text_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, ["run", "shw"])
    printed = capsys.readouterr()
    assert (left.value.code, printed.out, "No such command" in printed.err) == (2, "", True)


def test_unanswered_confirmation_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    confirming = typer.Typer()
    confirming.command()(lambda: typer.confirm("approve?", abort=True, err=True))
    with pytest.raises(SystemExit) as left:
        invoke(confirming, [])
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
def test_every_command_runs_as_a_script(name: str, words: tuple[str, ...]) -> None:
    module = importlib.import_module(f"starters.{name}")
    script = getattr(module, "app", None)
    assert isinstance(script, typer.Typer)
    helped = runner.invoke(script, [*words, "--help"])
    assert helped.exit_code == 0, helped.output
    assert "--output" in helped.output


def test_interruption_is_a_json_error_with_output_json(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = typer.Typer()

    @waiting.command()
    def wait(output: Output = Format.TABLE) -> None:
        raise KeyboardInterrupt

    for words, code in (((), None), (("-o", "json"), "Interrupted")):
        with pytest.raises(SystemExit) as left:
            invoke(waiting, words)
        printed = capsys.readouterr().out
        assert (left.value.code, json.loads(printed)["code"] if printed else None) == (130, code)


def test_exited_services_come_with_the_restart_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    services = [{"name": "temporal", "state": "ready"}, {"name": "worker.litware", "state": "exited"}]
    assert "worker.litware has exited. Restart: [bold]cleanroom up[" in " ".join(restart_hints(Path(".cleanroom"), services))
    assert "cleanroom up --state other[" in " ".join(restart_hints(Path("other"), services))
    services[0]["state"] = "restarting"
    assert "temporal crashed, and will be started again." in " ".join(restart_hints(Path("other"), services))
    services[0]["state"] = "exited"
    assert "No service is running" in " ".join(restart_hints(Path("other"), services))


@pytest.mark.parametrize(
    ("states", "code"),
    [(["ready", "ready"], 0), (["ready", "exited"], 7), (["starting"], 7), ([], 3)],
    ids=["up", "one down", "start", "none"],
)
def test_ps_exits_with_an_error_when_a_service_is_down(monkeypatch: pytest.MonkeyPatch, states: list[str], code: int) -> None:
    services = [
        {"name": f"s{i}", "state": state, "pid": 1, "url": "", "log": "logs/s.log", "restarts": 0} for i, state in enumerate(states)
    ]
    monkeypatch.setattr("starters.local.list_local_cloud", lambda state: services)
    for words in ([], ["-o", "json"]):
        assert runner.invoke(app, ["ps", *words]).exit_code == code


def test_up_passes_the_companies_on_and_prints_the_error_of_the_launcher(tmp_path: Path) -> None:
    done = runner.invoke(app, ["up", "--state", str(tmp_path / "s"), "--party", "north:azur", "-o", "json"])
    assert (done.exit_code, json.loads(done.output)["code"]) == (2, "PartyKindUnknown")


@pytest.mark.parametrize("words", [["-h"], ["run", "-h"], ["run", "start", "-h"]], ids=" ".join)
def test_short_help_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, words)
    assert left.value.code == 0
    assert "Usage: " in capsys.readouterr().out


def test_version_is_the_one_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, ["--version"])
    assert left.value.code == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"cleanroom {project['version']}\n"


def test_state_folder_is_the_one_in_which_a_local_cloud_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_state(None) == Path(".cleanroom")
    Path(".cleanroom/demo").mkdir(parents=True)
    Path(".cleanroom/demo/services.json").touch()
    assert find_state(None) == Path(".cleanroom/demo")


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        invoke(app, ["run", "show", "--help", "-o", "json"])
    assert left.value.code == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "names", "hint"),
    [
        ('collaboration = "flights"\n', "collaboration in", "Move it to [default]"),
        ('[parties]\nann = "u"\n', "parties in", "Move it to [default.parties]"),
        ('[profiles.north]\nparty = "north"\n', "profiles in", "[profile.NAME]"),
    ],
    ids=["member", "table", "name of the table"],
)
def test_settings_that_no_profile_reads_are_an_error(
    text: str, names: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cleanroom.toml").write_text(text)
    done = runner.invoke(app, ["query", "list", "--config", "cleanroom.toml", "--output", "json"])
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code) == ("ConfigInvalid", 2)
    assert names in error["message"]
    assert hint in error["hint"]


@pytest.mark.parametrize("words", ["members", "query list", "dataset list"])
def test_a_profile_without_settings_leads_to_another_one(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cleanroom.toml").write_text('[profile.north]\ncollaboration = "c"\n[profile.north.governance]\nurl = "https://g"\n')
    done = runner.invoke(app, [*words.split(), "--output", "json"])
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code) == ("SettingMissing", 6)
    assert "is not set for profile 'default'" in error["message"]
    assert "--profile" in error["hint"]
    assert "`cleanroom init NAME`" in error["hint"]


@pytest.mark.parametrize(
    ("text", "field", "known"),
    [("[default.temporal]\naddress = 1\n", "temporal.address", "keyring_file"), ("[default]\nparti = 1\n", "parti", "parties")],
)
def test_an_unknown_setting_is_named_with_the_known_ones(text: str, field: str, known: str, tmp_path: Path) -> None:
    file = tmp_path / "cleanroom.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=f"the field {field} of profile 'default' is not valid: no such member") as caught:
        load_settings(path=file)
    assert known in (caught.value.hint or "").removeprefix("Known: ").split(". Edit")[0].split(", ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("query approve x --max-runs 0", "'--max-runs': Input should be greater than or equal to 1, not '0'."),
        ("query approve x --expires-days never", "'--expires-days': Input should be a valid number, not 'never'."),
        ("dataset preview x --rows=-4", "'--rows': Input should be greater than or equal to 1, not '-4'."),
        ("run start x --size huge", "'--size': 'huge' is not one of 'small', 'medium', 'large'."),
        ("query list --output xml", "'--output' / '-o': 'xml' is not one of 'table', 'json'."),
        ("query show", "Missing argument 'name'."),
    ],
)
def test_a_usage_error_names_option_and_value_and_the_help(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        invoke(app, words.split())
    printed = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2
    command = " ".join(words.split()[:2])
    assert f"{command} [OPTIONS]" in printed
    assert message in printed
    assert f"{command} --help`" in printed
