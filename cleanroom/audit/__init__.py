"""Audit bundles: a run's evidence in one hash-chained file, collected from governance and Temporal and verified offline.

:mod:`.chain` defines the bundle and its chain, :mod:`.bodies` the bodies of its records, and :mod:`.files` its two
file formats. :mod:`.export` collects a bundle and :mod:`.verify` verifies it.
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
