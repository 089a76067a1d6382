"""Remembers the card of each query that the owner approved, in the owner's own folder, to show later what has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cleanroom.secret import write_secret_file

if TYPE_CHECKING:
    from cleanroom.publishing.approval_card import ApprovalCard


class EarlierApproval(NamedTuple):
    """The version that the owner approved before, and the body of its card."""

    version: str
    digest: str
    body: tuple[str, ...]


def _file(keys_dir: Path, collaboration: str, query: str) -> Path:
    name = hashlib.sha256(json.dumps([collaboration, query]).encode()).hexdigest()[:32]
    return keys_dir.expanduser() / "approved-queries" / f"{name}.json"


def remember_approval(keys_dir: Path, collaboration: str, card: ApprovalCard) -> None:
    """Store the card of a query that the owner has approved."""
    value = {"query": card.name, "version": card.version, "digest": card.digest, "body": card.body()}
    write_secret_file(_file(keys_dir, collaboration, card.name), json.dumps(value, indent=1).encode())


def earlier_approval(keys_dir: Path, collaboration: str, query: str) -> EarlierApproval | None:
    """Return the owner's last approval of a query of this name, or None. An unreadable file counts as none."""
    try:
        value = json.loads(_file(keys_dir, collaboration, query).read_text(encoding="utf-8"))
        return EarlierApproval(str(value["version"]), str(value["digest"]), tuple(map(str, value["body"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
