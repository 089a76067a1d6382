"""Renders an audit bundle and its verdict as one HTML page for people: readable without this program, printable, without scripts."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from html import escape

from pydantic import ValidationError

from cleanroom.audit.bodies import ConsentBody, DocumentBody, ExportBody, OutcomeBody, ReceiptBody, RequestBody, RevocationBody
from cleanroom.audit.chain import Bundle
from cleanroom.audit.parsed_bundle import ParsedBundle
from cleanroom.audit.verdict import BundleCheck, BundleVerdict, Checks
from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import parse_query
from cleanroom.errors import CleanRoomError
from cleanroom.runs.decisions import parse_decision_document
from cleanroom.statements import Decision, RunRequest
from cleanroom.statements.signing import peek

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #18212f; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 1.8rem; border-bottom: 1px solid #ccd3de; }
table { border-collapse: collapse; width: 100%; font-size: .92em; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; }
th { color: #556; font-weight: 600; } tr + tr td { border-top: 1px solid #eef1f6; } td { overflow-wrap: anywhere; }
pre { background: #f5f7fa; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88em; }
.verdict { font-weight: 700; padding: .1rem .6rem; border-radius: 4px; color: #fff; }
.ok { background: #1d7a3d; } .broken { background: #a01818; }
.note { background: #fff4d6; padding: .5rem .8rem; } .failed { color: #a01818; font-weight: 600; } small { color: #556; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; } tr, pre { break-inside: avoid; } }
"""


def render_report(bundle: Bundle | None, verdict: BundleVerdict, names: Mapping[str, str], *, source: str) -> str:
    """Return the page.

    Args:
        bundle: The bundle; None if the file is not one. Its facts are shown as facts only if the verdict is good.
        verdict: The result of its verification.
        names: Names of users by user ID.
        source: Name of the bundle's file.
    """
    parsed = None
    if bundle is not None and bundle.records:
        with suppress(ValidationError):
            parsed = ParsedBundle(bundle, Checks())
    page = _Page(names)
    headline = f"Run {verdict.run_id} of query {verdict.query}" if verdict.run_id else f"Audit bundle {source}"
    word, style = ("VERIFIED", "ok") if verdict.ok else ("BROKEN", "broken")
    page.raw(f'<h1>{escape(headline)}</h1><p><span class="verdict {style}">{word}</span> {escape(_summary(verdict))}</p>')
    if verdict.development:
        page.raw('<p class="note">NOT CONFIDENTIAL: the attestation rests on a development root, so the operator could read the data.</p>')
    if verdict.first_broken is not None:
        page.raw(f'<p class="failed">First broken link: {escape(_broken_link(page, verdict.first_broken))}</p>')
        page.raw("<p>What follows is what the file says. It is not verified.</p>")
    if parsed is not None:
        _facts(page, parsed)
    page.table("Checks", ("", "check", "record", "about", "found"), map(_check_row, verdict.checks))
    page.table("Signing keys", ("user", "thumbprint"), ((user, ", ".join(kids)) for user, kids in verdict.signers.items()))
    page.table("Notes", ("",), ((note,) for note in verdict.notes))
    known = sorted((name, user) for user, name in names.items())
    page.table("Names", ("name", "user ID in governance"), known, ids=True)
    title = escape(headline)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
    return f"{head}<body>{page.text}<p><small>{escape(source)}, hash chain {escape(verdict.head)}</small></p></body></html>\n"


def _summary(verdict: BundleVerdict) -> str:
    failed = sum(not item.passed for item in verdict.checks)
    checks = f"{len(verdict.checks)} checks passed" if verdict.ok else f"{failed} of {len(verdict.checks)} checks failed"
    return f"{verdict.records} records, {checks}."


def _check_row(item: BundleCheck) -> tuple[object, ...]:
    return "ok" if item.passed else "FAILED", item.id, "" if item.index is None else item.index, item.subject, item.detail


def _broken_link(page: _Page, broken: BundleCheck) -> str:
    where = f"record {broken.index}" if broken.index is not None else "a missing record"
    return f"{where}, {page.named(broken.subject)}: {page.named(broken.detail)}"


class _Page:
    """Collects the HTML. Everything from the bundle is escaped, and user IDs become names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.text = ""

    def raw(self, html: str) -> None:
        self.text += html

    def named(self, value: object) -> str:
        text = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in str(value))
        for user, name in self._names.items():
            text = text.replace(user, name)
        return text

    def table(self, title: str, columns: Iterable[str], rows: Iterable[tuple[object, ...]], *, ids: bool = False) -> None:
        """Add a table, unless it has no rows."""
        lines = ["".join(self._cell(str(value) if ids else self.named(value)) for value in row) for row in rows]
        if lines:
            head = "".join(f"<th>{escape(column)}</th>" for column in columns)
            self.text += f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def _cell(self, text: str) -> str:
        style = ' class="failed"' if text == "FAILED" else ""
        return f"<td{style}>{escape(text)}</td>"


def _facts(page: _Page, bundle: ParsedBundle) -> None:
    facts: list[tuple[object, object]] = []
    for request in bundle.all(RequestBody):
        with suppress(CleanRoomError):
            asked = peek(RunRequest, request.body.request)
            parameters = asked.parameters.model_dump(mode="json", exclude_none=True)
            facts.append(("requested by", asked.signer))
            facts += [("parameters", json.dumps(parameters))] if parameters else []
    for outcome in bundle.all(OutcomeBody):
        facts += [("started", _time(outcome.body.started_at)), ("ended", f"{_time(outcome.body.closed_at)}: {outcome.body.state}")]
        if outcome.body.failure is not None:
            facts.append(("failure", f"{outcome.body.failure.get('code', '')} {outcome.body.failure.get('message', '')}"))
    for receipt in bundle.all(ReceiptBody):
        result = receipt.body.receipt
        facts.append(("result", f"{result.rows:,} rows in dataset {result.dataset}: {', '.join(result.columns)}"))
        facts += [("rows read", ", ".join(f"{view}: {count:,}" for view, count in result.rows_read.items()))] if result.rows_read else []
        facts += [("left out by privacy floors", f"{result.suppressed_rows:,} rows")] if result.suppressed_rows is not None else []
        facts.append(("digest of the result", result.digest))
    for revocation in bundle.all(RevocationBody):
        facts.append(
            ("access ended", f"{_time(revocation.body.at)}: {revocation.body.grants} grants and {revocation.body.secrets} secrets")
        )
    export: ExportBody = bundle.export
    facts.append(("exported", f"{_time(export.exported_at)} by {export.exported_by}"))
    page.table("What happened", ("", ""), facts)
    page.table("Decisions of the owners", ("owner", "decision", "valid until", "runs", "reason"), _decisions(bundle))
    page.table("Datasets", ("dataset", "owner", "version"), _datasets(bundle))
    query = bundle.document(export.query)
    if query is not None:
        with suppress(CleanRoomError):
            segments = parse_query(str(query.body.document.get("data", "")), document_id=export.query).application.segments()
            page.raw("<h2>Query</h2>" + "".join(f"<pre>{escape(page.named(segment.data))}</pre>" for segment in segments.segments))
    page.table("Consent checks", ("time", "step", "result"), (
        (_time(item.body.at), item.body.step, f"{item.body.status} {item.body.message}".strip()) for item in bundle.all(ConsentBody)
    ))  # fmt: skip
    page.table("Ledger", ("time", "entry", "by", "message"), (
        (_time(item.body.at), item.body.member("name") or item.body.id, item.body.member("source") or "", item.body.member("message") or "")
        for item in bundle.events()
    ))  # fmt: skip


def _decisions(bundle: ParsedBundle) -> Iterable[tuple[object, ...]]:
    for item in bundle.all(DocumentBody, "decision"):
        with suppress(CleanRoomError):
            decision = peek(Decision, parse_decision_document(str(item.body.document.get("data", ""))))
            runs = "unlimited" if decision.max_runs is None else decision.max_runs
            yield decision.signer, decision.decision, _time(decision.expires), runs, decision.reason


def _datasets(bundle: ParsedBundle) -> Iterable[tuple[object, ...]]:
    for item in bundle.all(DocumentBody, "document"):
        document = item.body.document
        with suppress(CleanRoomError):
            parse_dataset(str(document.get("data", "")), document_id=item.record.subject)
            yield item.record.subject, document.get("proposerId", ""), document.get("version", "")


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
