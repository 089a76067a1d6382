"""`cleanroom query check`: every problem of a draft, with its place; create, update and propose refuse the same drafts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.documents.query import QUERY_LABELS, Application, ApprovalScope, InputDataset, QueryDocument, encode_segments
from cleanroom.documents.specs import load_dataset_spec, load_query_spec
from cleanroom.errors import CleanRoomError, InvalidInput
from cleanroom.governance import Document
from cleanroom.messages.query import GenerateQueryRequest
from cleanroom.publishing.query_document import generate_query
from cleanroom.runs.reader import UserReader
from scripts.reference.yaml_files import DATASET_EXAMPLE, QUERY_EXAMPLE
from starters.cli import app
from starters.operations import queries
from starters.operations.session import Session
from tests.governance_documents import CONTRACT, Governance, use_profiles

runner = CliRunner()
GOOD = "SELECT f.origin AS origin, COUNT(*) AS flights FROM f JOIN p ON f.tailnum = p.tailnum GROUP BY f.origin"
SEGMENT = "- {executionSequence: 1, data: a}\n"
QUERY = "name: delays\ninputs: {f: contosso-flights, p: litware-planes}\noutput: litware-delays\n"


@pytest.fixture
def governance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Governance:
    """Governance with three datasets, in which a client that starts a workflow is an error of the test."""
    found = Governance()
    floors = {"minGroupSize": 7, "identityColumn": "tailnum", "dimensions": ["origin"]}
    found.publish("contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string", "delay": "number"}, privacy=floors)
    found.publish("litware-planes", "u-litware", "read", {"tailnum": "string", "seats": "long"}, allowedColumns=["tailnum"])
    found.publish("litware-delays", "u-litware", "write", {"origin": "string", "flights": "long"})
    use_profiles(tmp_path, monkeypatch, "fabrikam")

    async def temporal(session: Session, **options: Any) -> Any:
        raise AssertionError("a workflow was started")

    monkeypatch.setattr(Session, "temporal", temporal)
    monkeypatch.setattr(Session, "governance", lambda session: found)
    return found


def checked(text: str, **files: str) -> tuple[int, dict[str, Any]]:
    Path("query.yaml").write_text(text)
    for name, content in files.items():
        Path(f"{name}.sql").write_text(content)
    done = runner.invoke(app, ["query", "check", "query.yaml", "--output", "json"])
    return done.exit_code, json.loads(done.stdout)


def test_an_allowed_draft_shows_its_datasets_result_and_approvers(governance: Governance) -> None:
    exit_code, record = checked(QUERY + f"sql: {GOOD}\n")
    assert (exit_code, record["allowed"], record["findings"]) == (0, True, [])
    assert record["result_columns"] == record["output_columns"] == {"origin": "string", "flights": "long"}
    assert record["approvers"] == ["contosso", "litware"]
    assert record["inputs"][0] | {"columns": None} == {
        "view": "f", "dataset": "contosso-flights", "version": "2.10", "owner": "contosso", "columns": None, "min_group_size": 7,
        "identity": "tailnum", "dimensions": ["origin"], "measures": None,
    }  # fmt: skip
    assert "litware-planes" not in governance.member_documents
    table = runner.invoke(app, ["query", "check", "query.yaml"])
    assert "delays: allowed" in table.output


@pytest.mark.parametrize(
    ("change", "finding", "place"),
    [
        (("f.origin AS", "f.orgin AS"), ("UnknownColumn", "orgin"), True),
        (("f.origin AS", "f.delay AS"), ("NotGrouped", "origin"), True),
        (("COUNT(*) AS", "UPPER(COUNT(*)) AS"), (None, "flights"), False),
        (("GROUP BY", "GROUPED BY"), (None, ""), True),
        (("f.tailnum = p.tailnum", "f.tailnum = p.seats"), ("ColumnNotAllowed", "seats"), True),
        (("AS flights", "AS Flights"), ("OutputColumnMissing", "'flights'"), False),
        (("AS flights", "AS flights, 1 AS more"), ("OutputColumnNotInSink", "'more'"), False),
        (("COUNT(*) AS", "AVG(f.delay) AS"), ("OutputTypeMismatch", "flights"), False),
        (("COUNT(*) AS", "COUNT(DISTINCT f.tailnum), MAX(f.tailnum) AS"), (None, "tailnum"), True),
    ],
)  # fmt: skip
def test_each_problem_is_found_and_placed(
    change: tuple[str, str], finding: tuple[str | None, str], place: bool, governance: Governance
) -> None:
    exit_code, record = checked(QUERY + "sqlFile: q.sql\n", q=GOOD.replace(*change))
    assert (exit_code, record["allowed"], record["code"]) == (4, False, "QueryRefusedByGate")
    code, words = finding
    found = [item for item in record["findings"] if code in (None, item["code"]) and words in item["message"]]
    assert found, record["findings"]
    assert not place or (found[0]["file"], found[0]["line"]) == ("q.sql", 1)


def test_problems_of_output_and_floors_are_shown_at_once(governance: Governance) -> None:
    exit_code, record = checked(
        QUERY + f"sql: {GOOD.replace('f.origin AS origin', 'f.delay AS origin').replace('AS flights', 'AS number')}\n"
    )
    codes = {item["code"] for item in record["findings"]}
    assert {"OutputColumnMissing", "OutputColumnNotInSink", "OutputTypeMismatch"} <= codes
    assert len(codes) > 3
    table = runner.invoke(app, ["query", "check", "query.yaml"])
    assert (exit_code, table.exit_code) == (4, 4)
    assert all(code in table.output for code in codes)


def test_each_problem_is_printed_once_and_the_end_does_not_lead_back_here(governance: Governance) -> None:
    missing = QUERY.replace("contosso-flights", "nothing")
    for text, problem in ((missing, "'nothing' does not exist"), (QUERY, "nothing")):
        sql = GOOD.replace("GROUP BY", "WHERE f.nothing > 1 GROUP BY") if text == QUERY else GOOD
        checked(text + f"sql: {sql}\n")
        table = " ".join(runner.invoke(app, ["query", "check", "query.yaml"]).output.split())
        assert table.partition("cause:")[0].count(problem) == 1, table
        assert "one problem" in table
        assert "query check FILE" not in table
    _, record = checked(missing + f"sql: {GOOD}\n")
    assert [item["code"] for item in record["findings"]] == ["DatasetNotAccepted"]


def test_dataset_that_is_an_input_twice_is_refused(governance: Governance) -> None:
    """Two aggregations of one dataset would otherwise have two views, so that their difference is not refused."""
    exit_code, record = checked(QUERY.replace("litware-planes", "contosso-flights") + f"sql: {GOOD}\n")
    assert exit_code == 2
    assert "contosso-flights has two views" in record["message"]


def test_missing_and_wrong_datasets_are_shown_at_once(governance: Governance) -> None:
    text = QUERY.replace("contosso-flights", "litware-delays2").replace("output: litware-delays", "output: litware-planes2")
    exit_code, record = checked(text + "sql: SELECT FROM WHERE\n")
    assert [item["code"] for item in record["findings"]] == ["DatasetNotAccepted", "DatasetNotAccepted", "Unparsable"]
    assert (exit_code, record["code"]) == (6, "DatasetNotAccepted")
    exit_code, record = checked("name: q\ninputs: {f: litware-delays}\noutput: contosso-flights\nsql: SELECT f.origin AS origin FROM f\n")
    assert (exit_code, [item["code"] for item in record["findings"]]) == (4, ["AccessModeMismatch"] * 2)


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("sql: |\n  SELECT f.origin AS origin,\n    COUNT(*) AS flights\n  FROM f WHERE f.nothing > 1\n  GROUP BY f.origin\n", 7, 16),
        ("sql: SELECT f.nothing AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin\n", 4, 13),
        ('sql: "SELECT f.nothing AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin"\n', 4, 14),
        (
            "segments:\n- executionSequence: 1\n  data: |\n    SELECT f.nothing AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin\n",
            7,
            12,
        ),
        ("sqlFile: q.sql\n", 2, 8),
        ('<<: {sql: "SELECT f.nothing AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin"}\n', 1, 8),
        ("sql: >\n  SELECT f.nothing AS origin,\n  COUNT(*) AS flights FROM f GROUP BY f.origin\n", 1, 8),
    ],
    ids=["block", "plain", "quoted", "segment", "file", "merged", "folded"],
)
def test_places_are_those_of_the_editor(sql: str, line: int, column: int, governance: Governance) -> None:
    text = "-- delays\nSELECT f.nothing AS origin, COUNT(*) AS flights FROM f GROUP BY f.origin\n"
    _, record = checked("name: delays\ninputs: {f: contosso-flights}\noutput: litware-delays\n" + sql, q=text)
    item = next(item for item in record["findings"] if item["code"] == "UnknownColumn")
    assert (item["line"], item["column"]) == (line, column)
    assert item.get("member") == ("sql" if sql.startswith(("sql: >", "<<")) else None)
    table = runner.invoke(app, ["query", "check", "query.yaml"])
    assert f"{'q.sql' if 'sqlFile' in sql else 'query.yaml'}:{line}:{column}" in table.output.replace("\n", "")


@pytest.mark.parametrize(
    ("parameters", "by_day", "code"),
    [("{dateRange: true}", False, "DateRangeWithoutDays"), ("{}", True, "DaysWithoutDateRange"), ("{dateRange: true}", True, None)],
)
def test_dates_that_select_nothing_are_a_warning(parameters: str, by_day: bool, code: str | None, governance: Governance) -> None:
    more = {"partitionedBy": "day"} if by_day else {}
    governance.publish("contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string"}, **more)
    exit_code, record = checked(QUERY + f"parameters: {parameters}\nsql: {GOOD}\n")
    assert (exit_code, [item["code"] for item in record["warnings"] if "Date" in item["code"]]) == (0, [code] if code else [])


def test_the_examples_of_the_reference_are_valid_and_fit_each_other(governance: Governance) -> None:
    Path("dataset.yaml").write_text(DATASET_EXAMPLE)
    done = runner.invoke(app, ["dataset", "check", "dataset.yaml", "--output", "json"])
    assert (done.exit_code, json.loads(done.stdout)["remarks"]) == (0, [])
    members = load_dataset_spec(Path("dataset.yaml")).model_dump(mode="json", by_alias=True, exclude_none=True)
    more = {key: value for key, value in members.items() if key not in ("name", "format", "access", "schema", "store")}
    governance.publish("contosso-visits", "u-contosso", "read", members["schema"], **more)
    governance.publish("litware-spending", "u-litware", "write", {"city": "string", "customers": "long", "spent": "number"})
    exit_code, record = checked(QUERY_EXAMPLE)
    assert (exit_code, record["warnings"]) == (0, []), record["findings"]


# ------------------------------------------------------------------ one function for all

DRAFTS = [
    GOOD.replace("f.origin AS", "f.orgin AS"),
    GOOD.replace("GROUP BY", "GROUPED BY"),
    GOOD.replace("AS flights", "AS more"),
    "SELECT tailnum AS origin, 1L AS flights FROM f",
    "DROP TABLE f",
]


COMMANDS = {
    "create": queries.create_query,
    "update": queries.update_query,
    "propose": lambda session, spec: queries.propose_query(session, spec.name, spec),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("sql", [*DRAFTS, GOOD])
def test_commands_refuse_exactly_what_check_refuses(
    sql: str, command: Callable[[Session, Any], Any], governance: Governance, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_code, record = checked(QUERY + "sqlFile: q.sql\n", q=sql)
    spec = load_query_spec(Path("query.yaml"))
    session = Session.load("fabrikam", None, plaintext=True)

    async def state(*arguments: Any, **options: Any) -> Any:
        return SimpleNamespace()

    async def document(*arguments: Any, **options: Any) -> Document:
        data = QueryDocument(
            name=spec.name,
            application=Application(
                input_dataset=spec.input_datasets(),
                output_dataset=InputDataset(specification=spec.output, view="result"),
                query=encode_segments(spec.to_segments()),
            ),
            approval=ApprovalScope(collaboration=CONTRACT, proposer_id="u-fabrikam", datasets=(), parameters=spec.parameters),
        ).to_data()
        return Document(id=spec.name, state="Draft", version="2.1", contract_id=CONTRACT, data=data, labels=QUERY_LABELS)

    monkeypatch.setattr(queries, "read_state", state)
    monkeypatch.setattr(queries, "read_query_document", document)
    with pytest.raises((CleanRoomError, AssertionError)) as ended:
        asyncio.run(command(session, spec))
    if exit_code == 0:
        assert "a workflow was started" in str(ended.value)
        return
    error = ended.value
    assert isinstance(error, CleanRoomError)
    assert (error.code, error.exit_code, error.details) == (record["code"], exit_code, record["details"])
    request = GenerateQueryRequest(collaboration=CONTRACT, spec=spec, proposer_id="u-fabrikam")
    reader: Any = UserReader(governance, CONTRACT)  # type: ignore[arg-type]
    with pytest.raises(CleanRoomError) as refused:
        asyncio.run(generate_query(reader, request))
    assert refused.value.to_dict() == error.to_dict()


# ------------------------------------------------------------------ wrong files


@pytest.mark.parametrize(
    ("text", "code", "words", "hint"),
    [
        ("- a\n", "YamlMalformed", "a list, not a mapping", "Known members"),
        (QUERY + "sql: ''\n", "QuerySpecInvalid", "sql is empty", ""),
        (QUERY + "sql: [1]\n", "QuerySpecInvalid", "sql: Input should be a valid string", ""),
        (QUERY + "sqll: SELECT 1\n", "QuerySpecInvalid", "sqll: no such member", "did you mean sql?"),
        (QUERY.replace("f:", "my-view:") + "sql: x\n", "QuerySpecInvalid", "view 'my-view' must have 1 to 64 letters", ""),
        (QUERY.replace("p:", "F:") + "sql: x\n", "QuerySpecInvalid", "unique, ignoring case; rename one of: F, f", ""),
        (QUERY.replace("litware-delays", "litware-planes") + "sql: x\n", "QuerySpecInvalid", "litware-planes is also an input", ""),
        (QUERY.replace("contosso-flights", "Contosso Flights") + "sql: x\n", "QuerySpecInvalid", "not 'Contosso Flights'", "lower-case"),
        (QUERY + "sql: x\nparameters: {dateRange: true, earliest: 2013-02-30}\n", "YamlMalformed", "day is out of range", "quotes"),
        (QUERY + "sql: x\nparameters: {dateRange: true, earliest: '2013-02-30'}\n", "QuerySpecInvalid", "2013-02-30", ""),
        (QUERY + "sql: x\nparameters: {earliest: 2013-02-01}\n", "QuerySpecInvalid", "need dateRange: true", ""),
        (QUERY + f"segments:\n{SEGMENT}{SEGMENT}", "QuerySpecInvalid", "exactly one segment", ""),
        (QUERY + "sql: x\npreConditions: [{viewName: f}]\n", "QuerySpecInvalid", "minRowCount: is missing", ""),
        (QUERY + "sqlFile: none.sql\n", "FileNotFound", "none.sql", ""),
        (QUERY + "sqlFile: .\n", "FileUnreadable", "cannot be read", "not a folder"),
        ("name: delays\n\toutput: x\n", "YamlMalformed", "line 2", "not with tabs"),
    ],
)  # fmt: skip
def test_a_wrong_query_file_is_an_error_with_member_and_remedy(text: str, code: str, words: str, hint: str, governance: Governance) -> None:
    exit_code, error = checked(text)
    assert (error["code"], exit_code) == (code, InvalidInput.exit_code if code != "FileNotFound" else 3), error
    assert words in error["message"]
    assert error["hint"]
    assert hint in error["hint"]


def test_a_query_file_with_a_byte_order_mark_is_read(governance: Governance) -> None:
    Path("q.sql").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    Path("query.yaml").write_bytes(b"\xef\xbb\xbf" + (QUERY + "sqlFile: q.sql\n").encode())
    done = runner.invoke(app, ["query", "check", "query.yaml", "--output", "json"])
    assert (done.exit_code, json.loads(done.stdout)["allowed"]) == (0, True)
