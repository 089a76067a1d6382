"""Confidential VMs: platform ``snp-cvm``, PCR claims, the key that the runtime claim ``user-data`` binds."""

from __future__ import annotations

import base64
import copy
from typing import Any

from tests.conformance.governance.target import Guest, Target, expect, fresh


def contract_of(cgs: Target, machine: Guest, **changes: Any) -> str:
    """An accepted contract whose policy names PCR values of the machine."""
    pcrs = machine.attestation["evidence"]["pcrs"]
    claims = {"pcr0": pcrs["0"], "pcr11": [pcrs["11"], "other"], **changes}
    contract_id = cgs.accepted_contract()
    cgs.govern("set_clean_room_policy", {"contractId": contract_id, "type": "add", "policyType": "snp-cvm", "claims": claims})
    return contract_id


def test_virtual_machine_stores_and_reads_secrets_and_writes_events(cgs: Target) -> None:
    machine = cgs.virtual_machine()
    path = f"/app/contracts/{contract_of(cgs, machine)}"
    name = fresh("s")
    expect(cgs.call("PUT", f"{path}/secrets/{name}", json=machine.write({"value": "plain"})), 200)
    assert machine.unwrap(expect(cgs.call("POST", f"{path}/secrets/cleanroom_{name}", json=machine.read()), 200)) == b"plain"
    expect(cgs.call("PUT", f"{path}/events", json=machine.write({"step": 1})), 204)


def test_other_pcr_value_is_rejected(cgs: Target) -> None:
    machine = cgs.virtual_machine()
    for changes in ({"pcr0": "other"}, {"pcr0": base64.b64decode(machine.attestation["evidence"]["pcrs"]["0"]).hex()}, {"pcr23": []}):
        path = f"/app/contracts/{contract_of(cgs, machine, **changes)}/secrets/none"
        expect(cgs.call("POST", path, json=machine.read()), 400, "VerifySnpAttestationFailed")


def test_user_data_binds_the_key(cgs: Target) -> None:
    machine, other = cgs.virtual_machine(), cgs.virtual_machine()
    path = f"/app/contracts/{contract_of(cgs, machine)}/secrets/none"
    expect(cgs.call("POST", path, json=machine.read()), 404, "SecretNotFound")
    expect(cgs.call("POST", path, json={**machine.read(), "encrypt": other.read()["encrypt"]}), 400, "ReportDataMismatch")


def test_modified_vm_evidence_is_rejected(cgs: Target) -> None:
    machine = cgs.virtual_machine()
    path = f"/app/contracts/{contract_of(cgs, machine)}/secrets/none"
    for part in ("tpmQuote", "hclReport", "snpReport"):
        envelope = copy.deepcopy(machine.read())
        raw = bytearray(base64.b64decode(envelope["attestation"]["evidence"][part]))
        raw[120] ^= 1
        envelope["attestation"]["evidence"][part] = base64.b64encode(bytes(raw)).decode()
        expect(cgs.call("POST", path, json=envelope), 400, "VerifySnpAttestationFailed")
    envelope = copy.deepcopy(machine.read())
    envelope["attestation"]["evidence"]["pcrs"]["5"] = envelope["attestation"]["evidence"]["pcrs"]["6"]
    expect(cgs.call("POST", path, json=envelope), 400, "VerifySnpAttestationFailed")


def test_platform_must_match_the_evidence(cgs: Target) -> None:
    machine = cgs.virtual_machine()
    path = f"/app/contracts/{contract_of(cgs, machine)}/secrets/none"
    for platform in ("snp-caci", "", None):
        expect(cgs.call("POST", path, json={**machine.read(), "platform": platform}), 400, "VerifySnpAttestationFailed")


def test_consent_check_accepts_caci_evidence_only(cgs: Target) -> None:
    machine = cgs.virtual_machine()
    path = f"/app/contracts/{contract_of(cgs, machine)}/runtimeoptions/execution/status"
    expect(cgs.call("POST", path, json=machine.consent()), 400, "VerifySnpAttestationFailed")
