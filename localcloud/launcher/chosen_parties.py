"""The companies that a user chooses for a local cloud (``cleanroom up --party NAME:KIND``), and their record in the state folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cleanroom.errors import Conflict, InvalidInput
from cleanroom.identifiers import require_name
from localcloud.launcher.companies import DEMO, OPERATOR, SERVICES, Companies, Company, Kind
from localcloud.launcher.supervisor import write_json

DEFAULT_COLLABORATION = "local"
"""The collaboration of chosen companies, unless the user names it."""
RESERVED = frozenset({OPERATOR, "default", "consortium", *(account.name for account in SERVICES)})
"""Names of the local cloud's other profiles and identities."""
MAX_PARTIES = 12
"""Each company has a worker, which needs about 150 MB of memory."""
_FILE = "parties.json"


def parse_parties(texts: Sequence[str], collaboration: str | None = None) -> Companies:
    """Parse ``NAME:KIND`` of each company.

    Args:
        texts: One text per company.
        collaboration: ID of the contract.

    Raises:
        InvalidInput: ``PartyMalformed``, ``PartyKindUnknown``, ``InvalidName``, ``PartyNameReserved``, ``PartyRepeated``,
            ``NoOwner``, ``TooManyParties``.
    """
    found = [_parse(text) for text in texts]
    names = [company.name for company in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput("PartyRepeated", f"--party: {repeated[0]!r} is named {names.count(repeated[0])} times.", hint="Name it once.")
    if all(company.kind is Kind.ANALYST for company in found):
        raise InvalidInput(
            "NoOwner",
            f"--party: no company owns data. Given: {', '.join(texts)}.",
            hint="Give at least one company data on Azure or S3: NAME:azure or NAME:s3.",
        )
    if len(found) > MAX_PARTIES:
        raise InvalidInput("TooManyParties", f"--party: {len(found)} companies.", hint=f"A local cloud has at most {MAX_PARTIES}.")
    return Companies(require_name("--collaboration", collaboration or DEFAULT_COLLABORATION), tuple(found))


def _parse(text: str) -> Company:
    name, separator, kind = text.partition(":")
    kinds = ", ".join(Kind)
    if not separator:
        raise InvalidInput("PartyMalformed", f"--party: {text!r} is not NAME:KIND.", hint=f"KIND is one of {kinds}. Example: north:azure.")
    require_name("--party", name)
    if name in RESERVED:
        raise InvalidInput(
            "PartyNameReserved",
            f"--party: {name!r} is the name of another identity of the local cloud.",
            hint=f"Reserved names: {', '.join(sorted(RESERVED))}.",
        )
    try:
        return Company(name, Kind(kind))
    except ValueError:
        raise InvalidInput(
            "PartyKindUnknown", f"--party: {text!r} has the unknown kind {kind!r}.", hint=f"KIND is one of {kinds}."
        ) from None


def recorded_parties(state: Path) -> Companies:
    """Return the companies of the local cloud in ``state``: those of the demo if none were chosen."""
    try:
        found = json.loads((state / _FILE).read_text("utf-8"))
    except FileNotFoundError:
        return DEMO
    return Companies(found["collaboration"], tuple(Company(name, Kind(kind)) for name, kind in found["parties"].items()))


def record_parties(state: Path, companies: Companies) -> None:
    """Record the companies of the local cloud in ``state``. Idempotent.

    Raises:
        Conflict: ``PartiesDiffer`` if the folder has the state of other companies.
    """
    existing = recorded_parties(state)
    if existing == companies:
        return
    if (state / _FILE).exists() or (state / "ports.json").exists():
        raise Conflict(
            "PartiesDiffer",
            f"{state} has a local cloud of other companies: {described(existing)}.",
            hint="Omit --party and --collaboration to start it again, or choose another folder with --state.",
        )
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {"collaboration": companies.collaboration, "parties": {item.name: item.kind for item in companies.members}}
    write_json(state / _FILE, content)


def described(companies: Companies) -> str:
    """Return the companies as a user gives them."""
    return f"{' '.join(f'{item.name}:{item.kind}' for item in companies.members)}, collaboration {companies.collaboration}"
