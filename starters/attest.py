"""``cleanroom attest``: verify SEV-SNP attestation evidence offline. Also ``python -m starters.attest``."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleanroom.errors import InvalidInput, NotFound, Refused
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, out, print_json

if TYPE_CHECKING:
    from cleanroom.attestation import AttestationEvidence, Product, Tcb, Verdict


app = typer.Typer(no_args_is_help=True, help="Verify the attestation evidence of a confidential guest.")

MAX_FILE: Final = 4 * 1024 * 1024
_COSE_SIGN1_TAG: Final = 0xD2
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_VMPLS: Final = range(4)


# A Typer application with a single command has no subcommands unless it has a callback.
@app.callback()
def _group() -> None:
    """Verify the attestation evidence of a confidential guest."""


@app.command()
def verify(
    report: Annotated[
        Path,
        typer.Argument(
            help="The report (1,184 bytes, raw, hex or base64), or the JSON document of the whole evidence.", show_default=False
        ),
    ],
    chain: Annotated[
        Path | None,
        typer.Option(help="Certificate chain: leaf (VCEK or VLEK), intermediate and AMD root as PEM in any order, or DER, or THIM JSON."),
    ] = None,
    uvm: Annotated[Path | None, typer.Option(help="Endorsement of the utility VM (COSE_Sign1), raw or base64.")] = None,
    host_data: Annotated[list[str] | None, typer.Option(help="Accepted host data, 64 hex digits; repeatable.")] = None,
    report_data: Annotated[
        str | None, typer.Option(help="Expected report data, 128 hex digits. 64 hex digits are a SHA-256 digest, padded with zeros.")
    ] = None,
    measurement: Annotated[list[str] | None, typer.Option(help="Accepted launch measurement, 96 hex digits; repeatable.")] = None,
    vmpl: Annotated[int, typer.Option(help="Expected privilege level (VMPL) of the requester, 0 to 3.")] = 0,
    at: Annotated[
        str | None, typer.Option(help="Time at which the certificates must be valid: ISO 8601, UTC by default.", show_default="now")
    ] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="AMD certificate revocation list, DER or PEM; repeatable.")] = None,
    minimum_tcb: Annotated[
        list[str] | None,
        typer.Option(
            help="Oldest accepted firmware, reported and committed: PRODUCT=BOOTLOADER.TEE.SNP.MICROCODE (Turin: FMC first); repeatable. "
            "Products that are not listed are rejected.",
            show_default="any",
        ),
    ] = None,
    minimum_uvm_svn: Annotated[
        int | None, typer.Option(min=0, help="Minimum security version of the utility VM.", show_default="the product's own")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Accepted cloud provider (CSP_ID) of a VLEK certificate; repeatable.", show_default="any")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(help="Nonce of a confidential VM's TPM quote, in hex.", show_default="the one in the evidence")
    ] = None,
    trust: Annotated[
        list[Path] | None, typer.Option(help="Trust file of a development root, in addition to AMD's roots; repeatable.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Verify an SEV-SNP attestation report offline and show every check.

    The report may also be the JSON evidence of an Azure confidential VM (TPM quote, HCL report). Its PCR values are then shown.

    The checks cover the certificate chain up to AMD's pinned roots, the signature, the TCB, the chip, the guest policy, and the expected
    values that you pass as options.

    Exit codes: 0 all checks passed, 2 wrong usage, 3 file not found, 4 a check failed.

    Example: cleanroom attest verify report.bin --chain chain.pem --uvm uvm.cose
    """
    from cleanroom.attestation import Expectations, TrustStore, verify_cvm_evidence, verify_evidence
    from cleanroom.attestation.documents import read_cvm_document

    with error_boundary(output):
        if vmpl not in _VMPLS:
            raise InvalidInput("VmplOutOfRange", f"--vmpl: {vmpl} is not a privilege level.", hint="Use 0, 1, 2 or 3.")
        minimum = _minimum_tcb(minimum_tcb)
        expectations = Expectations(
            vmpl=vmpl,
            require_uvm=uvm is not None,
            host_data=_hex_set(host_data, 32, "--host-data"),
            measurements=_hex_set(measurement, 48, "--measurement"),
            report_data=_report_data(report_data),
            minimum_tcb=minimum,
            minimum_committed_tcb=minimum,
            minimum_uvm_svn=minimum_uvm_svn,
            csp_ids=frozenset(provider) if provider else None,
            crls=tuple(_read(path) for path in crl or ()),
        )
        store = TrustStore.load(amd=True, root_files=trust or ())
        cvm = read_cvm_document(_read(report)) if chain is None and uvm is None else None
        pcrs: Mapping[int, str] = {}
        if cvm is not None:
            wanted = None if nonce is None else _hex(nonce, tuple(range(1, 65)), "--nonce")
            found = verify_cvm_evidence(cvm, trust=store, expectations=expectations, at=_instant(at), nonce=wanted)
            verdict, pcrs = found.verdict, found.pcrs
        else:
            evidence = read_evidence(report, chain, uvm)
            verdict = verify_evidence(evidence, trust=store, expectations=expectations, at=_instant(at))
    if output is Format.JSON:
        print_json(verdict.summary() | ({"remarks": remarks} if (remarks := _remarks(verdict)) else {}) | ({"pcrs": pcrs} if pcrs else {}))
    else:
        show_verdict(verdict, Console())
        for index, value in pcrs.items():
            out.print(f"PCR {index:2}  {value}")
    if not verdict.ok:
        raise typer.Exit(Refused.exit_code)


def read_evidence(report: Path, chain: Path | None, uvm: Path | None) -> AttestationEvidence:
    """Read attestation evidence from files; its verification is a separate step.

    Args:
        report: The report, or the JSON document of the whole evidence.
        chain: Certificate chain; required unless the document contains it.
        uvm: Endorsement of the utility VM; overrides the document's.

    Raises:
        NotFound: ``FileNotFound``.
        InvalidInput: ``ChainMissing``, ``EvidenceMalformed``, ``FileUnreadable``, ``FileTooLong``.
    """
    from cleanroom.attestation import AttestationEvidence
    from cleanroom.attestation.documents import EvidenceDocument, read_document
    from cleanroom.attestation.report import REPORT_SIZE

    data = _read(report)
    is_document = len(data) != REPORT_SIZE and data.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{")
    document = read_document(data) if is_document else EvidenceDocument("")
    if chain is None and document.endorsements is None:
        raise InvalidInput("ChainMissing", "a report cannot be verified without its certificates.", hint="Pass them with --chain FILE.")
    uvm_data = _read(uvm) if uvm is not None else (document.uvm_endorsements or "").encode("utf-8", "replace") or None
    raw = _report_bytes(document.report.encode("utf-8", "replace") if is_document else data)
    return AttestationEvidence(
        evidence=base64.b64encode(raw).decode(),
        endorsements=base64.b64encode(_read(chain)).decode() if chain is not None else document.endorsements or "",
        uvm_endorsements=base64.b64encode(_cose_bytes(uvm_data)).decode() if uvm_data is not None else None,
        endorsed_tcb=document.endorsed_tcb,
    )


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict: a headline, one row per check, and an explanation of each failure."""
    facts = [str(verdict.product or "unknown product"), f"report version {verdict.version or 'unknown'}"]
    if verdict.leaf:
        facts.append(str(verdict.leaf))
    headline = Text("VERIFIED" if verdict.ok else "REFUSED", style="bold green" if verdict.ok else "bold red")
    headline.append(f"  {', '.join(facts)}, at {verdict.at:%Y-%m-%d %H:%M:%S} UTC", style="default")
    console.print(headline)
    if verdict.development:
        console.print("NOT CONFIDENTIAL: the certificate chain ends at a development root.", style="bold yellow")
    for remark in _remarks(verdict):
        console.print(remark, style="bold yellow")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "check", "found"):
        table.add_column(heading, no_wrap=True)
    # One line per check: values are cut to the width that the longest check ID leaves.
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


def _remarks(verdict: Verdict) -> list[str]:
    """Return what a reader must know although no check failed."""
    from cleanroom.attestation import ALLOW_ALL_HOST_DATA

    if verdict.report is not None and verdict.report.host_data.hex() in ALLOW_ALL_HOST_DATA:
        return ["NOT CONFIDENTIAL: the host data is that of the policy that allows every container."]
    return []


def _minimum_tcb(values: list[str] | None) -> dict[Product, Tcb] | None:
    from cleanroom.attestation.products import parse_tcb, product_from_name

    if not values:
        return None
    found: dict[Product, Tcb] = {}
    for value in values:
        name, _, text = value.partition("=")
        product = product_from_name(name)
        try:
            if product is None:
                raise ValueError(f"{name[:60]!r} is not Milan, Genoa or Turin")
            found[product] = parse_tcb(text, product)
        except ValueError as error:
            raise InvalidInput("TcbMalformed", f"--minimum-tcb: {error}.", hint="For example: Milan=4.0.24.219.") from error
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError as error:
        raise NotFound("FileNotFound", f"file {path} does not exist.") from error
    except OSError as error:
        raise InvalidInput("FileUnreadable", f"cannot read {path}.", cause=error.strerror) from error
    if len(data) > MAX_FILE:
        raise InvalidInput("FileTooLong", f"{path} is larger than {MAX_FILE} bytes.")
    return data


def _report_bytes(data: bytes) -> bytes:
    """Decode hex, base64 or base64url. Anything else is returned unchanged, and fails in the verification."""
    from cleanroom.attestation.report import REPORT_SIZE

    if len(data) == REPORT_SIZE:
        return data
    text = b"".join(data.split())
    if re.fullmatch(rb"(0x)?([0-9a-fA-F]{2})+", text):
        return bytes.fromhex(text.decode().removeprefix("0x"))
    return _from_base64(text) or data


def _from_base64(text: bytes) -> bytes | None:
    from cleanroom.attestation.documents import standard_base64

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
        raise InvalidInput("HexMalformed", f"{option}: {value!r} is not hexadecimal.", hint="Use the digits 0-9 and a-f.") from error
    if len(data) not in sizes:
        digits = " or ".join(str(2 * size) for size in sizes)
        raise InvalidInput(
            "HexLength",
            f"{option}: {value!r} has {2 * len(data)} hex digits instead of {digits}.",
            hint="Check that the value is complete.",
        )
    return data


def _hex_set(values: list[str] | None, size: int, option: str) -> frozenset[str] | None:
    return frozenset(_hex(value, (size,), option).hex() for value in values) if values else None


def _report_data(value: str | None) -> bytes | None:
    from cleanroom.attestation.evidence import REPORT_DATA_SIZE

    return None if value is None else _hex(value, (REPORT_DATA_SIZE, 32), "--report-data").ljust(REPORT_DATA_SIZE, b"\0")


def _instant(value: str | None) -> datetime:
    if value is None:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(value.strip().upper())  # RFC 3339 allows lower-case "t" and "z"
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "InstantMalformed", f"--at: {value!r} is not an ISO 8601 time.", hint="For example: 2026-11-23T09:30:00Z."
        ) from error


if __name__ == "__main__":
    main(app)
