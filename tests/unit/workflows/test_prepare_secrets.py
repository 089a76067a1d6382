"""How ``Prepare`` obtains and grants the secrets of its datasets, without a server."""

from __future__ import annotations

from typing import Any

from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.messages.run import NOT_REMEMBERED, Reference, message_digest
from tests.unit.workflows.driver import HELD
from tests.unit.workflows.worlds import PROOF, TICKET, azure_job, prepare, staged

RELEASES = ("get_key_with_skr", "get_secret", "set_secret")
REFERENCES = (Reference(digest=message_digest(TICKET)), Reference(digest=message_digest(PROOF)))


def evidence(argument: Any) -> tuple[Any, Any]:
    return argument.ticket, argument.proof


def test_two_activities_per_dataset_get_references_to_ticket_and_proof() -> None:
    with prepare(build_job=azure_job()) as run:
        calls = [call for call in run.calls if call.name in RELEASES]
        assert sorted((call.name, call.summary.split()[-1]) for call in calls if call.name == "set_secret") == [
            ("set_secret", "azure"), ("set_secret", "orders"), ("set_secret", "totals"),
        ]  # fmt: skip
        assert len(calls) == 6
        assert all(evidence(call.argument) == REFERENCES for call in calls)
        assert {secret.secret_id for secret in run.result.secrets} == {
            "azure.key", *(f"{name}.{kind}" for name in ("orders", "totals") for kind in ("key", "connection"))
        }  # fmt: skip


def test_a_worker_that_does_not_know_the_run_gets_ticket_and_proof_in_full() -> None:
    unknown = PreconditionFailed(NOT_REMEMBERED, "on purpose")

    def restarted(answer: Any) -> Any:
        return lambda request: unknown if isinstance(request.ticket, Reference) else answer(request)

    answers = {
        "get_key_with_skr": restarted(lambda request: staged(request.dataset, "key")),
        "get_secret": restarted(lambda request: staged(request.dataset, "key", "connection")),
    }
    with prepare(build_job=azure_job(), **answers) as run:
        read = [call.argument for call in run.calls if call.name in ("get_key_with_skr", "get_secret")]
        assert len(read) == 6
        for dataset in ("azure", "orders", "totals"):
            assert [evidence(item) for item in read if item.dataset == dataset] == [REFERENCES, (TICKET, PROOF)]
        assert len(run.result.secrets) == 5


def test_another_refusal_is_not_asked_again() -> None:
    with prepare(get_secret=[Refused("RunClosed", "on purpose"), HELD]) as run:
        read = [call for call in run.calls if call.name == "get_secret"]
        assert [call.argument.dataset for call in read] == ["orders", "totals"]
        assert read[1].cancelled
