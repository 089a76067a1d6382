"""A genuine audit bundle verifies, unless the auditor trusts other roots, host data or keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cleanroom.attestation import TrustStore
from cleanroom.audit.chain import Bundle
from cleanroom.audit.files import bundle_json, bundle_zip, parse_bundle, write_bundle
from cleanroom.audit.verify import read_and_verify, verify_bundle
from cleanroom.identifiers import sha256_hex
from localcloud.standins.snp.server import DevelopmentHardware
from tests.audit_records import CLEAN_ROOM_HOST, SPARK_HOST
from tests.audit_world import AuditWorld


def test_genuine_bundle_verifies_in_both_forms(world: AuditWorld, bundle: Bundle, tmp_path: Path) -> None:
    for name in ("run.json", "run.zip"):
        write_bundle(bundle, tmp_path / name)
        _, verdict = read_and_verify(tmp_path / name, world.trust, spark_host_data=[SPARK_HOST], clean_room_host_data=[CLEAN_ROOM_HOST])
        assert verdict.ok, verdict.first_broken
        assert (verdict.sealed_by, verdict.development, verdict.notes) == (world.users["contosso"], True, ())
        ids = {check.id for check in verdict.checks}
        assert ids >= {
            "chain",
            "seal",
            "request",
            "approvals",
            "consent",
            "attestation",
            "job",
            "policies",
            "grants",
            "receipt",
            "clean-room",
        }


def test_next_record_contains_the_sha256_of_each_line(bundle: Bundle, written: bytes) -> None:
    lines = written.split(b"\n")[2:-2]
    assert len(lines) == len(bundle.records)
    for line, following in zip(lines, bundle.records[1:], strict=False):
        assert sha256_hex(line.removesuffix(b",")) == following.previous
    assert sha256_hex(lines[-1]) == bundle.manifest.head
    assert json.loads(written)["manifest"]["head"] == bundle.manifest.head


def test_equal_bundles_yield_equal_files(bundle: Bundle) -> None:
    assert bundle_zip(bundle) == bundle_zip(parse_bundle(bundle_zip(bundle)))
    assert parse_bundle(bundle_json(bundle)) == parse_bundle(bundle_zip(bundle)) == bundle


def test_development_attestation_fails_without_the_development_root(world: AuditWorld, bundle: Bundle) -> None:
    verdict = verify_bundle(bundle, TrustStore.amd())
    assert not verdict.ok
    assert verdict.first_broken is not None
    assert (verdict.first_broken.id, verdict.first_broken.kind) == ("attestation", "report")


@pytest.mark.parametrize(("option", "id"), [("spark_host_data", "attestation"), ("clean_room_host_data", "clean-room")])
def test_host_data_not_accepted_by_the_auditor_fails(world: AuditWorld, bundle: Bundle, option: str, id: str) -> None:
    verdict = verify_bundle(bundle, world.trust, **{option: ["00" * 32]})  # type: ignore[arg-type]
    assert verdict.first_broken is not None
    assert verdict.first_broken.id == id
    assert "HostData" in verdict.first_broken.detail


def test_signing_key_unknown_to_the_auditor_fails(world: AuditWorld, bundle: Bundle) -> None:
    known = {world.users[name]: [key.public.kid] for name, key in world.keys.items()}
    verdict = verify_bundle(bundle, world.trust, keys=known)
    assert verdict.ok
    assert verdict.signers == {user: tuple(kids) for user, kids in known.items()}
    other = verify_bundle(bundle, world.trust, keys={world.users["litware"]: ["another"]})
    assert other.first_broken is not None
    assert (other.first_broken.id, other.first_broken.kind) == ("keys", "key")
    assert not verify_bundle(bundle, world.trust, keys={"unknown-user": ["kid"]}).ok


def test_completely_forged_bundle_fails_attestation_only(world: AuditWorld, tmp_path: Path) -> None:
    """Keys, documents and hardware are consistent, but the auditor trusts none of them."""
    forged = AuditWorld(tmp_path, hardware=DevelopmentHardware(tmp_path / "snp")).bundle()
    verdict = verify_bundle(forged, world.trust)
    assert verdict.first_broken is not None
    assert verdict.first_broken.id == "attestation"
    assert {check.id for check in verdict.checks if not check.passed} == {"attestation", "clean-room"}
