"""The trust document in force, as the verification of a run needs it: with the job's environment and the verifier of services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cleanroom.errors import Refused
from cleanroom.runs.assembly import JobEnvironment
from cleanroom.runs.proof import ServiceVerifier
from cleanroom.trust import AcceptedTrust, Bootstrap, TrustSource


@dataclass(frozen=True)
class TrustInForce:
    """One accepted trust document and what follows from it."""

    trust: AcceptedTrust
    environment: JobEnvironment
    services: ServiceVerifier = field(compare=False)

    def require_same(self, other: TrustInForce) -> None:
        """Require that this document, under which a run was verified, is still in force.

        Raises:
            Refused: ``TrustDocumentChanged``.
        """
        if other.trust.digest != self.trust.digest:
            raise Refused(
                "TrustDocumentChanged",
                f"the run was verified under trust document {self.trust.id}, and {other.trust.id} is in force now.",
                hint="Start a new run.",
            )


class RunTrust:
    """Reads the trust document for the verification of runs.

    Args:
        source: The contract's trust documents.
        bootstrap: Where governance is; a part of every job.
        crls: Returns the revocation lists, which the operator refreshes and AMD signs.
    """

    def __init__(self, source: TrustSource, bootstrap: Bootstrap, crls: Callable[[], Sequence[bytes]] = tuple) -> None:
        self._source = source
        self._bootstrap = bootstrap
        self._crls = crls

    async def in_force(self) -> TrustInForce:
        """Read the document in force; see :meth:`cleanroom.trust.TrustSource.in_force`."""
        return self._derived(await self._source.in_force())

    async def accepted(self) -> tuple[TrustInForce, ...]:
        """Read every accepted document, oldest first. Only what a run may have been given under them follows from older ones."""
        return tuple(self._derived(each) for each in await self._source.accepted())

    def _derived(self, trust: AcceptedTrust) -> TrustInForce:
        environment = JobEnvironment.of(trust, self._bootstrap.governance_url, self._bootstrap.governance_roots)
        return TrustInForce(trust, environment, ServiceVerifier(trust.document, self._crls()))
