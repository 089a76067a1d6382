"""Bundles whose trust document was removed, replaced, or never accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle
from cleanroom.identifiers import document_digest
from cleanroom.trust import TrustDocument
from tests.audit_records import Items, clone, index_of
from tests.audit_world import AuditWorld

Change = Callable[[AuditWorld, dict[str, Any]], None]


def with_document(document: TrustDocument, body: dict[str, Any]) -> None:
    body["document"]["data"] = document.to_data()
    body["digest"] = document_digest(document.to_data())


def _other_image(world: AuditWorld, body: dict[str, Any]) -> None:
    pods = world.trust_document.pods.model_copy(update={"layers": ("9" * 64,)})
    with_document(world.trust_document.model_copy(update={"pods": pods}), body)


def _other_service(world: AuditWorld, body: dict[str, Any]) -> None:
    with_document(world.trust_document.model_copy(update={"spark_service_host_data": ("77" * 32,)}), body)


def _edited_text(world: AuditWorld, body: dict[str, Any]) -> None:
    body["document"]["data"] += " "


def _proposed(world: AuditWorld, body: dict[str, Any]) -> None:
    body["document"]["state"] = "Proposed"


def _without_votes(world: AuditWorld, body: dict[str, Any]) -> None:
    body["document"]["finalVotes"] = [{"memberId": "operator", "vote": False}]


def _of_another_contract(world: AuditWorld, body: dict[str, Any]) -> None:
    body["document"]["contractId"] = "other"


def verdict_of(world: AuditWorld, items: Items) -> BundleVerdict:
    return verify_bundle(world.bundle(items), world.trust)


def test_genuine_bundle_names_the_document_and_its_votes(world: AuditWorld) -> None:
    verdict = verdict_of(world, world.items())
    assert verdict.ok
    (check,) = [check for check in verdict.checks if check.id == "trust"]
    assert check.subject == "trust-flights-1"
    assert "operator" in check.detail


@pytest.mark.parametrize("change", [_other_image, _other_service, _edited_text, _proposed, _without_votes, _of_another_contract])
def test_bundle_with_another_trust_document_fails(world: AuditWorld, items: Items, change: Change) -> None:
    changed = clone(items)
    change(world, changed[index_of(changed, "trust")][2])
    verdict = verdict_of(world, changed)
    assert verdict.first_broken is not None
    assert (verdict.first_broken.id, verdict.first_broken.kind) == ("trust", "trust")


def test_bundle_without_its_trust_document_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    del changed[index_of(changed, "trust")]
    verdict = verdict_of(world, changed)
    assert not verdict.ok
    assert any(not check.passed and "trust document" in f"{check.detail} {check.subject} {check.kind}" for check in verdict.checks)
