"""``cleanroom attest verify``: exit codes, input formats, JSON and table."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cleanroom.attestation.cvm import CLEAN_ROOM_NONCE
from localcloud.standins.snp.cvm import DevelopmentVirtualMachine
from localcloud.standins.snp.server import DevelopmentHardware
from starters.attest import app
from tests.unit.attestation.conftest import vector_ids


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture
def tav(vectors: Path) -> tuple[Path, ...]:
    folder = vectors / "snp" / "milan-v3-caci-tav"
    return folder / "report.bin", Path("--chain"), folder / "chain.pem"


def test_json_output_has_verdict_and_checks(tav: tuple[Path, ...]) -> None:
    result = run(*tav, "--output", "json")
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert (value["ok"], value["product"], value["version"]) == (True, "Milan", 3)
    assert all({"id", "passed", "expected", "actual"} <= set(check) for check in value["checks"])
    assert all(isinstance(check["actual"], str) for check in value["checks"])


@pytest.mark.parametrize("name", vector_ids())
def test_exit_code_equals_the_verdict_of_each_vector(vectors: Path, name: str) -> None:
    folder = vectors / "snp" / name
    meta = json.loads((folder / "meta.json").read_text())
    if not (folder / "chain.pem").exists():
        assert run(folder / "report.bin", "--chain", folder / "report.bin", "--output", "json").exit_code == 4
        return
    at = "2024-12-01T00:00:00Z" if "vlek" in name else "2026-11-23T12:00:00Z"
    vmpl = meta["report"]["vmpl"]
    result = run(folder / "report.bin", "--chain", folder / "chain.pem", "--vmpl", vmpl, "--at", at, "--output", "json")
    value = json.loads(result.stdout)
    good = meta["report"]["version"] > 1 and not meta["report"]["policy_bits"]["debug"]
    assert value["ok"] is good
    assert result.exit_code == (0 if good else 4)


def test_expected_values_are_compared_with_the_report(vectors: Path, tav: tuple[Path, ...]) -> None:
    folder = vectors / "caci" / "milan-v3-caci-cleanroom-signing"
    report = vectors / "snp" / folder.name / "report.bin"
    chain = vectors / "snp" / folder.name / "chain.pem"
    expected = json.loads((vectors / "snp" / folder.name / "meta.json").read_text())["report"]
    uvm = vectors / "uvm" / "svn103-d0c9e2be-5c9f4dd2c502.cose"
    good = ("--uvm", uvm, "--host-data", f"0X{expected['host_data'].upper()}", "--report-data", expected["report_data"], "--vmpl", 0)
    assert run(report, "--chain", chain, *good).exit_code == 0
    assert run(report, "--chain", chain, "--report-data", expected["report_data"][:64]).exit_code == 0
    for at in ("2026-11-23", "2026-11-23T12:00:00.5z", "2026-11-23t12:00:00+05:30"):
        assert run(report, "--chain", chain, "--at", at).exit_code == 0
    for wrong in (
        ("--host-data", "00" * 32),
        ("--report-data", "00" * 64),
        ("--uvm", vectors / "uvm" / "svn101-5feee30d-7ae383f53082.cose"),
        ("--uvm", report),
        ("--vmpl", 1),
        ("--at", "2010-01-01"),
        ("--measurement", "00" * 48),
        ("--crl", report),
    ):
        assert run(report, "--chain", chain, *wrong, "--output", "json").exit_code == 4, wrong


def test_report_is_accepted_as_hex_and_base64(tmp_path: Path, tav: tuple[Path, ...]) -> None:
    raw = tav[0].read_bytes()
    encoded = base64.b64encode(raw), base64.encodebytes(raw), base64.urlsafe_b64encode(raw), base64.b64encode(raw).rstrip(b"=")
    for text in (raw.hex(), raw.hex().upper() + "\n", "0x" + raw.hex(), *map(bytes.decode, encoded)):
        file = tmp_path / "report.txt"
        file.write_text(text)
        assert run(file, *tav[1:]).exit_code == 0


def test_endorsement_is_accepted_as_base64_and_evidence_as_json(vectors: Path, tmp_path: Path, tav: tuple[Path, ...]) -> None:
    uvm = tmp_path / "uvm.txt"
    uvm.write_bytes(base64.encodebytes((vectors / "uvm" / "svn101-5feee30d-7ae383f53082.cose").read_bytes()))
    assert run(*tav, "--uvm", uvm).exit_code == 0
    assert run(vectors / "caci" / "milan-v3-caci-cleanroom-signing" / "snp_evidence.json").exit_code == 0


def test_evidence_is_read_from_every_known_document_format(vectors: Path, tmp_path: Path, tav: tuple[Path, ...]) -> None:
    name = "milan-v3-caci-cleanroom-signing"
    evidence = json.loads((vectors / "caci" / name / "snp_evidence.json").read_text())
    raw = base64.b64decode(evidence["evidence"])
    sample = {
        "attestation": evidence["evidence"],
        "platformCertificates": evidence["endorsements"],
        "uvmEndorsements": evidence["uvm_endorsements"],
    }
    parts = {
        "SnpReport": base64.urlsafe_b64encode(raw).decode(),
        "VcekCertChain": base64.urlsafe_b64encode(base64.b64decode(evidence["endorsements"])).decode().rstrip("="),
        "Endorsements": _url({"Uvm": [base64.urlsafe_b64encode(base64.b64decode(evidence["uvm_endorsements"])).decode()]}),
    }
    file = tmp_path / "document.json"
    for document in (
        evidence,
        evidence | {"uvm_endorsements": None, "endorsed_tcb": "db18000000000004"},
        evidence | {"uvm_endorsements": base64.urlsafe_b64encode(base64.b64decode(evidence["uvm_endorsements"])).decode().rstrip("=")},
        {"platform": "snp-caci", "attestation": evidence, "sign": {"publicKey": ""}},
        {"node_id": "00", "format": "AMD_SEV_SNP_v1", "raw": evidence["evidence"], **{key: evidence[key] for key in list(evidence)[1:]}},
        sample,
        {"report": sample, "publicKey": ""},
        {"report": {"snpCACI": sample}},
        {"report": _url(parts), "runtimeData": {"data": "", "dataType": "JSON"}},
        json.loads((vectors / "caci" / "milan-v3-caci-cleanroom-maa" / "maa-request.json").read_text()),
    ):
        for text in (json.dumps(document).encode(), b"\xef\xbb\xbf" + json.dumps(document, indent=1).encode()):
            file.write_bytes(text)
            assert run(file).exit_code == 0, document
    for bare in ({"report": raw.hex()}, {"evidence": evidence["evidence"]}, {"attestation": evidence["evidence"]}):
        file.write_text(json.dumps(bare))
        assert json.loads(run(file, "--output", "json").stdout)["code"] == "ChainMissing"
        assert run(file, "--chain", vectors / "snp" / name / "chain.pem").exit_code == 0
    for other in ({}, {"report": 5}, {"report": {"report": {"report": sample}}}, {**evidence, "endorsements": 5}, {"report": _url([])}):
        file.write_text(json.dumps(other))
        result = run(file, *tav[1:], "--output", "json")
        assert result.exit_code in {2, 4}, other
        assert isinstance(result.exception, SystemExit)


def _url(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("content", [b"", b"\0", b"x" * 1183, b"{", b"\xff" * 5000, b"-----BEGIN CERTIFICATE-----"])
def test_hostile_file_is_refused_without_a_traceback(tmp_path: Path, tav: tuple[Path, ...], content: bytes) -> None:
    file = tmp_path / "hostile"
    file.write_bytes(content)
    for result in (
        run(file, "--chain", tav[2], "--output", "json"),
        run(tav[0], "--chain", file, "--output", "json"),
        run(*tav, "--uvm", file, "--output", "json"),
    ):
        assert result.exit_code in {2, 4}
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_missing_file_exits_with_3_and_wrong_usage_with_2(tmp_path: Path, tav: tuple[Path, ...]) -> None:
    for missing in (("nope", "--chain", tav[2]), (tav[0], "--chain", "nope"), (*tav, "--uvm", "nope"), (*tav, "--trust", "nope")):
        result = run(*missing, "--output", "json")
        assert result.exit_code == 3
        assert json.loads(result.stdout)["category"] == "not-found"
    for wrong in (
        (),
        (tav[0],),
        (*tav, "--vmpl", 4),
        (*tav, "--vmpl", -1),
        (*tav, "--vmpl", "x"),
        (*tav, "--host-data", "00"),
        (*tav, "--host-data", "zz"),
        (*tav, "--report-data", "00" * 63),
        (*tav, "--at", "yesterday"),
        (*tav, "--at", "0001-01-01T00:00:00+10:00"),
        (*tav, "--output", "xml"),
        (tmp_path, "--chain", tav[2]),
    ):
        assert run(*wrong).exit_code == 2, wrong


def test_table_names_the_failed_check_within_80_columns(tav: tuple[Path, ...]) -> None:
    result = run(*tav, "--vmpl", "2")
    assert result.exit_code == 4
    assert "REFUSED" in result.stdout
    assert "VmplMismatch" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:30])) <= 80


def test_development_root_is_announced_and_requires_its_trust_file(tmp_path: Path, hardware: DevelopmentHardware) -> None:
    evidence = tmp_path / "evidence.json"
    evidence.write_text(hardware.evidence(bytes(32), bytes(64)).model_dump_json())
    refused = run(evidence, "--output", "json")
    assert refused.exit_code == 4
    assert [check["reason"] for check in json.loads(refused.stdout)["checks"] if not check["passed"]] == ["RootNotTrusted"]
    accepted = run(evidence, "--trust", hardware.trust_file)
    assert accepted.exit_code == 0
    assert "NOT CONFIDENTIAL" in accepted.stdout


def test_minimum_firmware_and_provider_are_options(vectors: Path, tav: tuple[Path, ...]) -> None:
    assert run(*tav, "--minimum-tcb", "Milan=4.0.24.219").exit_code == 0
    for value in ("Milan=4.0.24.220", "Genoa=0.0.0.0"):
        result = run(*tav, "--minimum-tcb", value, "--output", "json")
        assert result.exit_code == 4
        assert {check["reason"] for check in json.loads(result.stdout)["checks"] if not check["passed"]} == {"TcbTooOld"}
    for value in ("Milan=4.0.24", "Milan=4.0.24.256", "Naples=1.1.1.1", "Milan", "Turin=1.2.3.4"):
        assert run(*tav, "--minimum-tcb", value).exit_code == 2
    folder = vectors / "snp" / "milan-v2-caci-kms"
    old = (folder / "report.bin", "--chain", folder / "chain.pem", "--at", "2026-11-23T12:00:00Z")
    assert run(*old).exit_code == 0
    assert run(*old, "--minimum-tcb", "Milan=3.0.8.116").exit_code == 4
    uvm = vectors / "uvm" / "svn103-d0c9e2be-5c9f4dd2c502.cose"
    signing = vectors / "snp" / "milan-v3-caci-cleanroom-signing"
    endorsed = (signing / "report.bin", "--chain", signing / "chain.pem", "--uvm", uvm)
    assert run(*endorsed, "--minimum-uvm-svn", "103").exit_code == 0
    assert run(*endorsed, "--minimum-uvm-svn", "104").exit_code == 4


def test_host_data_of_the_allow_all_policy_is_remarked_upon(vectors: Path, tav: tuple[Path, ...]) -> None:
    folder = vectors / "snp" / "milan-v2-caci-kms"
    result = run(folder / "report.bin", "--chain", folder / "chain.pem", "--at", "2026-11-23T12:00:00Z", "--output", "json")
    assert "every container" in json.loads(result.stdout)["remarks"][0]
    table = run(folder / "report.bin", "--chain", folder / "chain.pem", "--at", "2026-11-23T12:00:00Z").stdout
    assert "NOT CONFIDENTIAL" in table


def test_evidence_of_a_confidential_vm_is_verified(hardware: DevelopmentHardware, tmp_path: Path) -> None:
    evidence = DevelopmentVirtualMachine(hardware).evidence(bytes(64))
    file = tmp_path / "cvm.json"
    for text in (evidence.model_dump_json(by_alias=True), json.dumps({"attestation": evidence.model_dump(mode="json", by_alias=True)})):
        file.write_text(text)
        result = run(file, "--trust", hardware.trust_file, "--output", "json")
        assert result.exit_code == 0, result.output
        value = json.loads(result.stdout)
        assert value["development"]
        assert value["pcrs"]
    assert run(file, "--trust", hardware.trust_file, "--nonce", CLEAN_ROOM_NONCE.hex()).exit_code == 0
    assert run(file, "--trust", hardware.trust_file, "--nonce", "00" * 32).exit_code == 4
    assert run(file).exit_code == 4
    file.write_text(json.dumps({"evidence": {"tpmQuote": "x"}}))
    assert run(file).exit_code == 2
