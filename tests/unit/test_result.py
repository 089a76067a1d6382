"""The receiver's seat: a result opens only with the receipt that the run's pod entered into governance's ledger and sealed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from cleanroom.datasets.download import download_result
from cleanroom.datasets.encryption import generate_dataset_key, seal_bytes
from cleanroom.datasets.result import receipt_path, result_digest, write_receipt
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import document_digest, object_context
from cleanroom.messages.run import Revoked, RunResult
from cleanroom.spark.job import ResultObject, ResultReceipt
from cleanroom.spark.run_events import RunEvent
from starters.operations import run_workflow
from starters.operations.results import read_receipt
from starters.operations.session import FoundWorkflow, Session
from tests.folder_store import FolderStore
from tests.governance_documents import CONTRACT, QUERY, Governance, proposed_query

DIGEST = "ab" * 32
TYPES: Any = {"first": "string", "second": "string"}


class Result:
    """The result of a run in three CSV objects without a header, sealed, with its receipt."""

    def __init__(self, root: Path, run_id: str = "r-1", *, sealed: bool = True) -> None:
        self.store = FolderStore(root)
        self.key = generate_dataset_key() if sealed else None
        self.receipt = self.write(run_id)

    def write(self, run_id: str, rows: int = 3) -> ResultReceipt:
        objects = tuple(self.put(f"c/{run_id}/part-00000-{index:03d}.csv", f"a{index},b{index}\n") for index in range(rows))
        receipt = receipt_of(run_id, objects)
        write_receipt(self.store, receipt, self.key, collaboration="c")
        return receipt

    def put(self, name: str, text: str) -> ResultObject:
        data = text.encode()
        stored = data if self.key is None else seal_bytes(data, self.key, object_context("c", "out", name))
        self.store.put(name, stored)
        return ResultObject(name=name, size=len(stored), sha256=hashlib.sha256(stored).hexdigest())

    def open(self, receipt: ResultReceipt | None = None) -> list[dict[str, Any]]:
        found = download_result(self.store, receipt or self.receipt, self.key, collaboration="c", result_format="csv", types=TYPES)
        return found.to_pylist()

    def refused(self, receipt: ResultReceipt) -> str:
        with pytest.raises(CleanRoomError) as caught:
            self.open(receipt)
        return caught.value.code


def receipt_of(run_id: str, objects: tuple[ResultObject, ...], **members: Any) -> ResultReceipt:
    """A receipt that agrees with itself: digest and rows fit the objects."""
    values = {
        "run_id": run_id,
        "query_digest": DIGEST,
        "job_digest": DIGEST,
        "dataset": "out",
        "columns": tuple(TYPES),
        "rows": len(objects),
    }
    return ResultReceipt(**{**values, **members}, objects=objects, digest=result_digest(objects))


@pytest.fixture(params=[True, False], ids=["sealed by us", "encrypted by the store"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    return Result(tmp_path, sealed=request.param)


def test_genuine_receipt_opens_the_rows_in_order(result: Result) -> None:
    assert result.open() == [{"first": f"a{index}", "second": f"b{index}"} for index in range(3)]


def test_objects_of_an_older_run_are_refused(result: Result) -> None:
    older = result.write("r-0")
    assert result.refused(receipt_of("r-1", older.objects)) == "ResultObjectOutsideRun"
    mixed = receipt_of("r-1", (*result.receipt.objects[:2], older.objects[2]))
    assert result.refused(mixed) == "ResultObjectOutsideRun"


@pytest.mark.parametrize(
    "name", ["c/r-1/../r-0/part-1.csv", "c/r-1/sub/part-1.csv", "c/r-1/_receipt", "c/r-10/part-1.csv", "other/r-1/part-1.csv"]
)
def test_object_outside_of_the_runs_own_folder_is_refused(result: Result, name: str) -> None:
    item = result.receipt.objects[0].model_copy(update={"name": name})
    assert result.refused(receipt_of("r-1", (item,))) == "ResultObjectOutsideRun"


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_truncated_list_is_refused(result: Result, kept: int) -> None:
    assert result.refused(receipt_of("r-1", result.receipt.objects[:kept])) == "ResultListIncomplete"


def test_one_object_twice_is_refused(result: Result) -> None:
    first = result.receipt.objects[0]
    assert result.refused(receipt_of("r-1", (*result.receipt.objects, first))) == "ResultObjectRepeated"


@pytest.mark.parametrize("columns", [("second", "first"), ("first",), ("first", "second", "third"), ("first", "first"), ()])
def test_other_columns_or_another_order_are_refused(result: Result, columns: tuple[str, ...]) -> None:
    assert result.refused(receipt_of("r-1", result.receipt.objects, columns=columns)) == "ResultColumnsMismatch"


def test_sealed_columns_are_compared_when_the_reader_expects_the_swapped_order(result: Result) -> None:
    """Even a dataset file with swapped columns does not open rows under the wrong names."""
    swapped = receipt_of("r-1", result.receipt.objects, columns=("second", "first"))
    with pytest.raises(CleanRoomError, match="SealedReceiptMismatch"):
        download_result(
            result.store, swapped, result.key, collaboration="c", result_format="csv", types={"second": "string", "first": "string"}
        )


@pytest.mark.parametrize("change", [{"rows": 4}, {"query_digest": "cd" * 32}, {"job_digest": "cd" * 32}, {"rows_read": {"x": 1}}])
def test_receipt_that_the_pod_did_not_seal_is_refused(result: Result, change: dict[str, Any]) -> None:
    assert result.refused(receipt_of("r-1", result.receipt.objects, **change)) == "SealedReceiptMismatch"


def test_objects_in_another_order_are_refused(result: Result) -> None:
    assert result.refused(receipt_of("r-1", result.receipt.objects[::-1])) == "SealedReceiptMismatch"


def test_object_that_the_pod_did_not_list_is_refused(result: Result) -> None:
    extra = result.put("c/r-1/part-00009-000.csv", "x,y\n")
    assert result.refused(receipt_of("r-1", (*result.receipt.objects, extra))) == "SealedReceiptMismatch"


def test_missing_or_replaced_sealed_receipt_is_refused(result: Result) -> None:
    path = receipt_path("c", "r-1")
    other = result.write("r-0")
    assert other.run_id == "r-0"
    mine, theirs = result.store.read(path), result.store.read(receipt_path("c", "r-0"))
    result.store.put(path, theirs)
    # The seal names its place. A store that encrypts has no such seal, so there the content differs.
    assert result.refused(result.receipt) == ("CiphertextInvalid" if result.key else "ResultListIncomplete")
    result.store.put(path, mine)
    assert len(result.open()) == 3
    result.store.delete(path)
    assert result.refused(result.receipt) == "SealedReceiptMissing"


def test_changed_digest_and_replaced_object_are_refused(result: Result) -> None:
    forged = result.receipt.model_copy(update={"digest": "0" * 64})
    assert result.refused(forged) == "ReceiptDigestMismatch"
    result.put(result.receipt.objects[0].name, "a0,b0\n" if result.key else "z0,b0\n")
    assert result.refused(result.receipt) == "ResultDigestMismatch"


# ---------------------------------------------------------------------- the receipt in the ledger


def objects_of(run_id: str) -> tuple[ResultObject, ...]:
    return (ResultObject(name=f"{CONTRACT}/{run_id}/part-00000-000.csv", size=1, sha256=DIGEST),)


class Receiver:
    """Litware, and a governance with one accepted query and the pod's entry."""

    def __init__(self, governance: Governance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.governance = governance
        self.digest = document_digest(str(governance.documents[QUERY].data))
        settings: Any = SimpleNamespace(collaboration=CONTRACT, profile="litware", parties={})
        self.session = Session(settings)
        monkeypatch.setattr(Session, "governance", lambda self: governance)

    def receipt(self, **members: Any) -> ResultReceipt:
        run_id = members.pop("run_id", "r-1")
        objects = members.pop("objects", objects_of(run_id))
        values = {"query_digest": self.digest, "dataset": "litware-delays", "columns": ("origin", "flights"), **members}
        return receipt_of(run_id, objects, **values)

    def enter(self, receipt: ResultReceipt, run_id: str = "r-1", **started: Any) -> None:
        event = RunEvent(
            id=3003, name="QUERY_COMPLETED", message="m", run_id=run_id, query_digest=DIGEST, job_digest=DIGEST, receipt=receipt
        )
        self.governance.events[f"run-{run_id}", f"{run_id}.query-completed"] = event.wire()
        self.governance.events[f"run-{run_id}", f"{run_id}.run-started"] = {"query": QUERY, **started}

    async def refused(self, run_id: str = "r-1") -> str:
        with pytest.raises(CleanRoomError) as caught:
            await read_receipt(self.session, run_id)
        return caught.value.code


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    governance = await proposed_query()
    governance.accept()

    async def no_workflow(session: Session, run_id: str) -> Any:
        raise AssertionError("nothing comes from the workflow")

    monkeypatch.setattr(run_workflow, "find_run", no_workflow)
    return Receiver(governance, monkeypatch)


@pytest.mark.parametrize("started", [{}, {"query": "other"}, {"query": 7}, {"query": "litware-delays"}])
async def test_receipt_is_the_pods_entry_in_the_ledger(receiver: Receiver, started: dict[str, Any]) -> None:
    """The name of the query in the ledger only says where to look first."""
    wanted = receiver.receipt()
    receiver.enter(wanted, **started)
    assert await read_receipt(receiver.session, "r-1") == wanted


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"run_id": "r-0"}, "ResultOfAnotherRun"),
        ({"query_digest": "cd" * 32}, "ResultOfAnotherQuery"),
        ({"dataset": "contosso-flights"}, "ResultOfAnotherDataset"),
        ({"columns": ("flights", "origin")}, "ResultColumnsMismatch"),
        ({"columns": ("origin",)}, "ResultColumnsMismatch"),
        ({"objects": objects_of("r-0")}, "ResultObjectOutsideRun"),
        ({"objects": objects_of("r-1") * 2}, "ResultObjectRepeated"),
    ],
)
async def test_receipt_that_does_not_fit_the_accepted_documents_is_refused(receiver: Receiver, members: dict[str, Any], code: str) -> None:
    receiver.enter(receiver.receipt(**members))
    assert await receiver.refused() == code


async def test_receipt_of_a_query_that_is_not_accepted_is_refused(receiver: Receiver) -> None:
    held = receiver.governance.documents[QUERY]
    receiver.governance.documents[QUERY] = held.model_copy(update={"state": "Proposed"})
    receiver.enter(receiver.receipt())
    assert await receiver.refused() == "ResultOfAnotherQuery"


async def test_completed_workflow_without_an_entry_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def completed(session: Session, run_id: str) -> Any:
        described: Any = SimpleNamespace(status=WorkflowExecutionStatus.COMPLETED)
        nothing: Any = None
        return FoundWorkflow(nothing, nothing, described)

    monkeypatch.setattr(run_workflow, "find_run", completed)
    assert await receiver.refused() == "ResultNotInLedger"
    receiver.governance.events["run-r-1", "r-1.query-completed"] = json.loads("[]")
    assert await receiver.refused() in ("RunEventMalformed", "ResultOfAnotherRun")


async def test_the_receipt_of_a_completed_run_is_awaited(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read is answered by a node that does not have the entry yet."""

    class Handle:
        async def result(self) -> RunResult:
            return RunResult(run_id="r-1", query=QUERY, state="COMPLETED", revoked=Revoked(secrets=0, grants=0, seen="2.90"))

    async def completed(session: Session, run_id: str) -> Any:
        described: Any = SimpleNamespace(status=WorkflowExecutionStatus.COMPLETED)
        nothing: Any = None
        handle: Any = Handle()
        return FoundWorkflow(nothing, handle, described)

    expected: list[str] = []

    def expect(session: Session, seen: str) -> None:
        expected.append(seen)
        receiver.enter(receiver.receipt())

    monkeypatch.setattr(run_workflow, "find_run", completed)
    monkeypatch.setattr(Session, "expect", expect)
    assert (await read_receipt(receiver.session, "r-1")).run_id == "r-1"
    assert expected == ["2.90"]
