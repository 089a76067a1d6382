"""``cleanroom attest verify``: judge an SEV-SNP attestation report, offline, and show every check."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleanroom.attestation import AttestationEvidence, Expectations, TrustStore, Verdict, verify_evidence
from cleanroom.attestation.documents import EvidenceDocument, read_document, standard_base64
from cleanroom.attestation.evidence import REPORT_DATA_SIZE
from cleanroom.attestation.report import REPORT_SIZE
from cleanroom.errors import InvalidInput, NotFound, Refused
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_json

app = typer.Typer(no_args_is_help=True, help="Attestation evidence: what a confidential guest proves about itself.")

MAX_FILE: Final = 4 * 1024 * 1024
_COSE_SIGN1_TAG: Final = 0xD2
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_VMPLS: Final = range(4)


@app.callback()
def _group() -> None:
    """Attestation evidence: what a confidential guest proves about itself."""


@app.command()
def verify(
    report: Annotated[Path, typer.Argument(help="The report: 1184 bytes, or hex or base64 of them, or the JSON of a whole evidence.")],
    chain: Annotated[
        Path | None,
        typer.Option(help="PEM with the leaf (VCEK or VLEK), its intermediate and AMD's root, in any order; or DER, or THIM JSON."),
    ] = None,
    uvm: Annotated[Path | None, typer.Option(help="Utility-VM endorsement (COSE_Sign1), as bytes or base64.")] = None,
    host_data: Annotated[list[str] | None, typer.Option(help="Host data that is accepted, 64 hex digits; repeat for several.")] = None,
    report_data: Annotated[str | None, typer.Option(help="Report data, 128 hex digits; 64 hex digits mean a SHA-256 and zeros.")] = None,
    measurement: Annotated[list[str] | None, typer.Option(help="Launch measurement that is accepted, 96 hex digits; repeatable.")] = None,
    vmpl: Annotated[int, typer.Option(help="Privilege level that requested the report, 0 to 3.")] = 0,
    at: Annotated[
        str | None, typer.Option(help="Instant for certificate validity, ISO 8601, UTC unless it says otherwise. Default: now.")
    ] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="AMD revocation list, DER or PEM; repeat for several.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="Trust file of a development root, beside AMD's; repeat for several.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Verify a report: certificates up to AMD's pinned roots, signature, TCB, chip, guest policy, and the values given here.

    Exit codes: 0 every check holds, 4 refused, 3 a file does not exist, 2 wrong usage.

    Example: cleanroom attest verify report.bin --chain chain.pem --uvm uvm.cose --host-data 73973b78…
    """
    with error_boundary(output):
        if vmpl not in _VMPLS:
            raise InvalidInput("VmplOutOfRange", f"--vmpl: {vmpl} is no privilege level of a guest.", hint="Give 0, 1, 2 or 3.")
        evidence = read_evidence(report, chain, uvm)
        expectations = Expectations(
            vmpl=vmpl,
            require_uvm=uvm is not None,
            host_data=_hex_set(host_data, 32, "--host-data"),
            measurements=_hex_set(measurement, 48, "--measurement"),
            report_data=_report_data(report_data),
            crls=tuple(_read(path) for path in crl or ()),
        )
        store = TrustStore.load(amd=True, root_files=trust or ())
        verdict = verify_evidence(evidence, trust=store, expectations=expectations, at=_instant(at))
    if output is Format.JSON:
        print_json(verdict.summary())
    else:
        show_verdict(verdict, Console())
    if not verdict.ok:
        raise typer.Exit(Refused.exit_code)


def read_evidence(report: Path, chain: Path | None, uvm: Path | None) -> AttestationEvidence:
    """Evidence from files. Their contents are not judged here, except that an evidence JSON must be one.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``ChainMissing``, ``EvidenceMalformed``, ``FileUnreadable``, ``FileTooLong``.
    """
    data = _read(report)
    is_document = len(data) != REPORT_SIZE and data.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{")
    document = read_document(data) if is_document else EvidenceDocument("")
    if chain is None and document.endorsements is None:
        raise InvalidInput("ChainMissing", "A report alone proves nothing.", hint="Give its certificates with --chain CHAIN.pem.")
    uvm_data = _read(uvm) if uvm is not None else (document.uvm_endorsements or "").encode("utf-8", "replace") or None
    raw = _report_bytes(document.report.encode("utf-8", "replace") if is_document else data)
    return AttestationEvidence(
        evidence=base64.b64encode(raw).decode(),
        endorsements=base64.b64encode(_read(chain)).decode() if chain is not None else document.endorsements or "",
        uvm_endorsements=base64.b64encode(_cose_bytes(uvm_data)).decode() if uvm_data is not None else None,
        endorsed_tcb=document.endorsed_tcb,
    )


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict as a table: a headline, one row a check, and what the first failure means."""
    said = [str(verdict.product or "unknown product"), f"report version {verdict.version or 'unknown'}"]
    if verdict.leaf:
        said.append(str(verdict.leaf))
    headline = Text("VERIFIED" if verdict.ok else "REFUSED", style="bold green" if verdict.ok else "bold red")
    headline.append(f"  {', '.join(said)}, at {verdict.at:%Y-%m-%d %H:%M:%S} UTC", style="default")
    console.print(headline)
    if verdict.development:
        console.print("NOT CONFIDENTIAL: this verdict rests on a development root.", style="bold yellow")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "check", "found"):
        table.add_column(heading, no_wrap=True)
    longest = max((len(check.id) for check in verdict.checks), default=0)
    room = max(console.width - longest - len("FAILED") - 8, 20)
    for check in verdict.checks:
        mark = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
        table.add_row(mark, check.id, Text(check.actual if len(check.actual) <= room else f"{check.actual[: room - 1]}…"))
    console.print(table)
    for check in verdict.failures:
        console.print(Text.assemble((str(check.reason), "bold red"), f"  {check.message}"), soft_wrap=True)
        if check.expected not in check.message:
            console.print(Text(f"  expected {check.expected}\n  found    {check.actual}"), soft_wrap=True)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"There is no file {path}.") from error
    except OSError as error:
        raise InvalidInput("FileUnreadable", f"{path} cannot be read.", cause=error.strerror) from error
    if len(data) > MAX_FILE:
        raise InvalidInput("FileTooLong", f"{path} is longer than {MAX_FILE} bytes.")
    return data


def _report_bytes(data: bytes) -> bytes:
    """The report from its raw bytes, or from hex, base64 or base64url text; anything else is left for the verifier to refuse."""
    if len(data) == REPORT_SIZE:
        return data
    text = b"".join(data.split())
    if re.fullmatch(rb"(0x)?([0-9a-fA-F]{2})+", text):
        return bytes.fromhex(text.decode().removeprefix("0x"))
    return _from_base64(text) or data


def _from_base64(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(standard_base64(text.decode("ascii")), validate=True)
    except ValueError:
        return None


def _cose_bytes(data: bytes) -> bytes:
    if data[:1] == bytes((_COSE_SIGN1_TAG,)):
        return data
    return _from_base64(data) or data


def _hex(value: str, sizes: tuple[int, ...], option: str) -> bytes:
    try:
        data = bytes.fromhex(value.strip().lower().removeprefix("0x"))
    except ValueError as error:
        raise InvalidInput("HexMalformed", f"{option}: {value!r} is no hex.") from error
    if len(data) not in sizes:
        digits = " or ".join(str(2 * size) for size in sizes)
        raise InvalidInput("HexLength", f"{option}: {value!r} has {2 * len(data)} hex digits, {digits} are needed.")
    return data


def _hex_set(values: list[str] | None, size: int, option: str) -> frozenset[str] | None:
    return frozenset(_hex(value, (size,), option).hex() for value in values) if values else None


def _report_data(value: str | None) -> bytes | None:
    return None if value is None else _hex(value, (REPORT_DATA_SIZE, 32), "--report-data").ljust(REPORT_DATA_SIZE, b"\0")


def _instant(value: str | None) -> datetime:
    if value is None:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(value.strip().upper())  # RFC 3339 allows a small t and z
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput("InstantMalformed", f"--at: {value!r} is no ISO 8601 time.", hint="For example 2026-11-23T09:30:00Z.") from error


if __name__ == "__main__":
    main(app)
