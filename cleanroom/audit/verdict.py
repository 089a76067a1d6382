"""The result of verifying a bundle: every check with its record, and the first broken link."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cleanroom.audit.chain import Record


class BundleCheck(BaseModel):
    """A check. ``index`` is the place of its record, or None if the record is missing."""

    model_config = ConfigDict(frozen=True)

    id: str
    subject: str
    passed: bool
    detail: str = ""
    index: int | None = None
    kind: str = ""


class BundleVerdict(BaseModel):
    """The verdict on a bundle. ``development`` says that an attestation rests on a development root, so the run was not confidential."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    run_id: str = ""
    query: str = ""
    state: str = ""
    head: str = ""
    records: int = 0
    sealed_by: str | None = None
    signers: dict[str, tuple[str, ...]] = {}
    """Thumbprints (RFC 7638) of the keys in the bundle, by user ID. Compare them with an independent source."""
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
        """Add a check and return whether it passed."""
        index, kind = (record.index, record.kind) if record is not None else (None, "")
        shown = subject or (record.subject if record is not None else "")
        self.rows.append(BundleCheck(id=id, subject=shown, passed=passed, detail=detail, index=index, kind=kind))
        return passed

    def missing(self, kind: str, subject: str) -> None:
        """Add a failed check for a required record that is missing."""
        self.rows.append(BundleCheck(id="complete", subject=subject, passed=False, detail=f"no {kind} record for it", kind=kind))

    def first_broken(self) -> BundleCheck | None:
        """Return the first failed check: a missing record if there is one, else the check of the earliest record."""
        failed = [row for row in self.rows if not row.passed]
        return min(failed, key=lambda row: -1 if row.index is None else row.index) if failed else None
