"""The auditor judges the Spark service's report by the run's trust document: every requirement of it, and the auditor's own lists."""

from __future__ import annotations

import copy
import datetime as dt
from typing import Any

import pytest

from cleanroom.attestation import Product
from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle
from cleanroom.trust import AttestationPolicy, MinimumTcb
from localcloud.standins.snp.minting import current_tcb
from localcloud.standins.snp.server import UVM_SVN
from tests.audit_world import AuditWorld

CURRENT = current_tcb(Product.MILAN)
NEWER = CURRENT.model_copy(update={"snp": CURRENT.snp + 1})


def with_policy(world: AuditWorld, **policy: Any) -> AuditWorld:
    """The same run under a trust document with these requirements."""
    other = copy.copy(world)
    other.member_documents = dict(world.member_documents)
    for name in ("ticket", "job", "receipt"):
        other.__dict__.pop(name, None)
    other.__dict__["trust_document"] = world.trust_document.model_copy(update={"attestation": AttestationPolicy(**policy)})
    other.accept_trust(other.trust_document)
    return other


def judge(world: AuditWorld, **options: Any) -> BundleVerdict:
    return verify_bundle(world.bundle(world.items()), world.trust, **options)


def minimum(**changes: Any) -> dict[str, Any]:
    return {"minimum_tcb": {Product.MILAN: MinimumTcb(**({"reported": CURRENT, "committed": CURRENT} | changes))}}


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (minimum(), None),
        (minimum(reported=NEWER), "TcbTooOld"),
        (minimum(committed=NEWER), "TcbTooOld"),
        ({"minimum_tcb": {}}, "TcbTooOld"),
        ({"minimum_uvm_svn": UVM_SVN}, None),
        ({"minimum_uvm_svn": UVM_SVN + 1}, "UvmSvnTooOld"),
        ({"minimum_report_version": 4}, "ReportVersionUnsupported"),
        # The clean room had the operator's lists; the auditor uses the auditor's own.
        ({"require_crl": True}, None),
    ],
)
def test_report_must_meet_the_requirements_of_the_runs_trust_document(world: AuditWorld, policy: dict[str, Any], code: str | None) -> None:
    verdict = judge(with_policy(world, **policy))
    assert verdict.ok is (code is None)
    if code is not None:
        assert verdict.first_broken is not None
        assert verdict.first_broken.id == "attestation"
        assert verdict.first_broken.detail.startswith(f"{code}: ")


def test_auditors_revocation_lists_are_used(world: AuditWorld) -> None:
    chain, at = world.hardware.hierarchy, world.now - dt.timedelta(days=1)
    assert judge(world, crls=[chain.crl(at=at)]).ok
    for crl, code in (
        (chain.crl([chain.intermediate.serial_number], at=at), "CertificateRevoked"),
        (chain.crl(at=at - dt.timedelta(days=90)), "RevocationStatusUnknown"),
    ):
        broken = judge(world, crls=[crl]).first_broken
        assert broken is not None
        assert (broken.id, broken.detail.partition(":")[0]) == ("attestation", code)
