"""What verifying a bundle gives: every check with the record it is about, and the first broken link."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cleanroom.audit.chain import Record


class BundleCheck(BaseModel):
    """One check. ``index`` is the record's place, None where a record is wanted that is not there."""

    model_config = ConfigDict(frozen=True)

    id: str
    subject: str
    passed: bool
    detail: str = ""
    index: int | None = None
    kind: str = ""


class BundleVerdict(BaseModel):
    """The outcome. ``development`` says that an attestation rests on a development root: nothing about it is confidential."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    run_id: str = ""
    query: str = ""
    state: str = ""
    head: str = ""
    records: int = 0
    sealed_by: str | None = None
    signers: dict[str, tuple[str, ...]] = {}
    """User id to the thumbprints (RFC 7638) of the keys that the bundle holds for them: to be compared with a source of one's own."""
    development: bool = False
    checks: tuple[BundleCheck, ...] = ()
    notes: tuple[str, ...] = ()
    first_broken: BundleCheck | None = None


class Checks:
    """Collects checks in order."""

    def __init__(self) -> None:
        self.rows: list[BundleCheck] = []
        self.notes: list[str] = []
        self.development = False
        self.signers: dict[str, tuple[str, ...]] = {}

    def add(self, id: str, record: Record | None, passed: bool, detail: str = "", *, subject: str = "") -> bool:
        """Enter one check and return whether it passed."""
        index, kind = (record.index, record.kind) if record is not None else (None, "")
        shown = subject or (record.subject if record is not None else "")
        self.rows.append(BundleCheck(id=id, subject=shown, passed=passed, detail=detail, index=index, kind=kind))
        return passed

    def missing(self, kind: str, subject: str) -> None:
        """A record that must be there is not."""
        self.rows.append(BundleCheck(id="complete", subject=subject, passed=False, detail=f"no {kind} record for it", kind=kind))

    def first_broken(self) -> BundleCheck | None:
        """What is missing first of all, then the failed check of the earliest record."""
        failed = [row for row in self.rows if not row.passed]
        return min(failed, key=lambda row: -1 if row.index is None else row.index) if failed else None
