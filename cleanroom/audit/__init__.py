"""Evidence of a run in one file: collected from governance and Temporal, hash-chained, verified offline.

:mod:`.chain` is the bundle and its links, :mod:`.files` its two forms on disk, :mod:`.export` collects, :mod:`.verify` judges.
"""

from cleanroom.audit.chain import Bundle, Manifest, Record, build_bundle
from cleanroom.audit.files import read_bundle, write_bundle
from cleanroom.audit.verdict import BundleCheck, BundleVerdict
from cleanroom.audit.verify import verify_bundle

__all__ = [
    "Bundle",
    "BundleCheck",
    "BundleVerdict",
    "Manifest",
    "Record",
    "build_bundle",
    "read_bundle",
    "verify_bundle",
    "write_bundle",
]
