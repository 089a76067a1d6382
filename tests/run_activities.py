"""Calls of the activities of one run in a :class:`tests.run_world.RunWorld`, as a workflow makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cleanroom.messages.run import (
    AuditEvent,
    ConfigureIdpRequest,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    GrantRequest,
    RevokeRequest,
    RunTicket,
    StagedSecret,
    StageRequest,
    SubmitRequest,
)
from tests.run_world import RunWorld

JANUARY, FEBRUARY = ("2013-01-01", "2013-01-31"), ("2013-02-01", "2013-02-28")
Act = Callable[[RunWorld, RunTicket], Any]


def stage(runs: RunWorld, ticket: RunTicket) -> Any:
    request = StageRequest(ticket=ticket, proof=runs.proof(ticket), dataset="litware-planes")
    return runs.call(runs.process.secrets.get_secret, request)


def stage_from_vault(runs: RunWorld, ticket: RunTicket) -> Any:
    request = StageRequest(ticket=ticket, proof=runs.proof(ticket), dataset="contosso-flights")
    return runs.call(runs.process.secrets.get_key_with_skr, request)


def grant(runs: RunWorld, ticket: RunTicket, **changes: Any) -> Any:
    dataset = next(item for item in runs.job(ticket).datasets if item.name == "litware-planes")
    secret = StagedSecret(dataset=dataset.name, kind="key", secret_id=dataset.key_secret_id or "").model_copy(update=changes)
    return runs.call(runs.process.secrets.set_secret, GrantRequest(ticket=ticket, proof=runs.proof(ticket), secrets=(secret,)))


def configure_idp(runs: RunWorld, ticket: RunTicket) -> Any:
    return runs.call(runs.process.secrets.configure_idp, ConfigureIdpRequest(ticket=ticket, proof=runs.proof(ticket)))


def issue_receipt(runs: RunWorld, ticket: RunTicket) -> Any:
    return runs.call(runs.process.secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=ticket, proof=runs.proof(ticket)))


def watch(runs: RunWorld, ticket: RunTicket) -> Any:
    request = ConsentWatchRequest(ticket=ticket, proof=runs.proof(ticket), interval_seconds=5)
    return runs.call(runs.process.secrets.watch_consent, request)


def submit(runs: RunWorld, ticket: RunTicket) -> Any:
    return runs.call(runs.process.spark.submit_job, SubmitRequest(ticket=ticket, job=runs.job(ticket)))


def revoke(runs: RunWorld, ticket: RunTicket) -> Any:
    return runs.call(runs.process.secrets.revoke_grants, RevokeRequest(ticket=ticket))


def record(runs: RunWorld, ticket: RunTicket, step: str = "RUN_FAILED", **members: Any) -> Any:
    return runs.call(runs.process.governance.record_event, AuditEvent(ticket=ticket, step=step, **members))


def delete(runs: RunWorld, ticket: RunTicket) -> Any:
    return runs.call(runs.process.spark.delete_job, ticket)


RELEASES: dict[str, Act] = {
    "get_secret": stage,
    "get_key_with_skr": stage_from_vault,
    "set_secret": grant,
    "configure_idp": configure_idp,
    "issue_consent_receipt": issue_receipt,
    "watch_consent": watch,
}
