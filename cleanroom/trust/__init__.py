"""What decides trust in a collaboration, and where it comes from.

The members of the consortium accept a :class:`TrustDocument` in governance. Every attested worker reads it there, and takes
nothing that it decides from its settings. Where governance is, the worker knows from a :class:`Bootstrap` file, whose digest
stands in the worker's measured command line. The reasons are in docs/decisions/009-settings-decide-nothing.md.
"""

from cleanroom.trust.bootstrap import Bootstrap, attested_settings, drop_root_variables, read_bootstrap
from cleanroom.trust.document import AttestationPolicy, DevelopmentTrust, MinimumTcb, TrustDocument, trust_document_id
from cleanroom.trust.source import AcceptedTrust, TrustSource, accepted_trust

__all__ = [
    "AcceptedTrust",
    "AttestationPolicy",
    "Bootstrap",
    "DevelopmentTrust",
    "MinimumTcb",
    "TrustDocument",
    "TrustSource",
    "accepted_trust",
    "attested_settings",
    "drop_root_variables",
    "read_bootstrap",
    "trust_document_id",
]
