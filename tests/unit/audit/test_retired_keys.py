"""A bundle that contains the retirement of a signing key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle
from cleanroom.identifiers import retirement_document_id
from cleanroom.statements.keys import KEY_LABELS, RetirementDocument
from tests.audit_world import AuditWorld

LATER = "2.1000000"


def verdict_with_retirement(folder: Path, name: str, version: str, *, by: str = "") -> BundleVerdict:
    """Verify a genuine bundle, with a retirement of the key of ``name`` that was accepted as ``version``."""
    world = AuditWorld(folder)
    user, kid = world.users[name], world.keys[name].public.kid
    document_id = retirement_document_id(user, 1)
    body = RetirementDocument(user_id=user, retires=(kid,), keys=()).to_data()
    world.accept(document_id, body, by or name, (by or name,), KEY_LABELS)
    world.documents[document_id] = world.documents[document_id].model_copy(update={"version": version})
    return verify_bundle(world.bundle(world.items()), world.trust)


@pytest.mark.parametrize("name", ["litware", "fabrikam"])
def test_what_was_recorded_before_the_retirement_verifies_and_the_retirement_is_noted(tmp_path: Path, name: str) -> None:
    verdict = verdict_with_retirement(tmp_path, name, LATER)
    assert verdict.ok, verdict.first_broken
    assert any("retired key" in note for note in verdict.notes)


@pytest.mark.parametrize(("name", "kind"), [("litware", "decision"), ("fabrikam", "request")])
def test_what_was_recorded_after_the_retirement_does_not_verify(tmp_path: Path, name: str, kind: str) -> None:
    verdict = verdict_with_retirement(tmp_path, name, "2.1")
    assert verdict.first_broken is not None
    assert verdict.first_broken.kind == kind
    assert "ApproverKeyRetired" in verdict.first_broken.detail


def test_a_retirement_by_another_user_means_nothing(tmp_path: Path) -> None:
    verdict = verdict_with_retirement(tmp_path, "litware", "2.1", by="fabrikam")
    assert "ApproverKeyRetired" not in str(verdict.first_broken)


def test_a_seal_by_a_retired_key_does_not_verify(tmp_path: Path) -> None:
    verdict = verdict_with_retirement(tmp_path, "contosso", LATER)
    assert verdict.first_broken is not None
    assert (verdict.first_broken.id, "ApproverKeyRetired" in verdict.first_broken.detail) == ("seal", True)
