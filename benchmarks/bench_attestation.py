"""Measures a verdict against the bare signature operations that it contains.

*bare* is the time of the signature verifications alone, with parsed keys and certificates: the report's ECDSA P-384 signature, the two
RSA-PSS links of the chain, and the root's signature of itself. A cold verdict makes exactly these four. Three verdicts are measured:

* *cold*: nothing is cached. It includes base64, PEM, X.509, every signature and every check. Each process makes one per product.
* *first*: a new chip. Its leaf is parsed and verified; AMD's intermediate and root were verified with another chip's chain before.
* *again*: a chip and TCB whose chain this verifier has cached. The report's signature and all checks remain.

The target is a ratio of at most 2. Uses real vectors if CLEANROOM_VECTORS names them, else mints a chain with keys of AMD's sizes. Each
time is the lower quartile of many rounds, measured in turns, so that other load on the machine affects all of them alike.
"""

from __future__ import annotations

import base64
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from benchmarks.framework import Benchmark, at_most, reported
from cleanroom.attestation import AttestationEvidence, Expectations, Product, TrustedRoot, TrustStore, Verifier, parse_report
from cleanroom.attestation.amd_certificate import AMD_PSS
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.trust import spki_sha256
from localcloud.standins.snp.minting import LeafPlan, mint_hierarchy

NAME, SAME_PRODUCT = "milan-v3-caci-tav", "milan-v2-automata-b"


class Sample(NamedTuple):
    """Evidence, evidence of another chip of the same product, and the roots of both."""

    evidence: AttestationEvidence
    same_product: AttestationEvidence
    trust: TrustStore


def load() -> Sample:
    """Read real evidence, or mint some where the vectors are absent."""
    folder = Path(os.environ.get("CLEANROOM_VECTORS", "../shared/vectors")) / "snp"
    if folder.is_dir():
        first, second = (
            AttestationEvidence.of((folder / name / "report.bin").read_bytes(), (folder / name / "chain.pem").read_bytes())
            for name in (NAME, SAME_PRODUCT)
        )
        return Sample(first, second, TrustStore.amd())
    plan = LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=4096)
    made = mint_hierarchy(plan)
    other = made.with_leaf(replace(plan, chip_id=bytes(range(2, 66))))
    root = TrustedRoot(spki_sha256=spki_sha256(made.root), product=made.product, development=True)
    first, second = (AttestationEvidence.of(each.report(), each.chain_pem()) for each in (made, other))
    return Sample(first, second, TrustStore([root]))


def bare_operations(evidence: AttestationEvidence) -> tuple[Callable[[], None], Callable[[], None]]:
    """(all four signature verifications, the report's alone), everything else done beforehand."""
    leaf, intermediate, root = (x509.load_der_x509_certificate(der) for der in read_endorsements(evidence.endorsements))
    report = parse_report(base64.b64decode(evidence.evidence))
    r, s = (int.from_bytes(half, "little") for half in (report.signature_r, report.signature_s))
    signature, leaf_key = encode_dss_signature(r, s), leaf.public_key()
    links = [
        (parent.public_key(), child.signature, child.tbs_certificate_bytes)
        for child, parent in ((leaf, intermediate), (intermediate, root), (root, root))
    ]
    assert isinstance(leaf_key, ec.EllipticCurvePublicKey)

    def report_alone() -> None:
        leaf_key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))

    def everything() -> None:
        for key, link_signature, body in links:
            key.verify(link_signature, body, AMD_PSS, hashes.SHA384())  # type: ignore[union-attr,call-arg]
        report_alone()

    return everything, report_alone


def microseconds(cases: dict[str, tuple[Callable[[], object], Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Lower quartile of the CPU time of each case's work in µs, each run after its untimed preparation.

    CPU time, since wall time would measure who else is busy; and the cases take turns, since a neighbour on the same core slows that too.
    """
    times: dict[str, list[int]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (before, work) in cases.items():
            before()
            start = time.thread_time_ns()
            work()
            times[name].append(time.thread_time_ns() - start)
    return {name: statistics.quantiles(each, n=4)[0] / 1000 for name, each in times.items()}


def measure(rounds: int = 300) -> dict[str, float]:
    """Return the times and their ratios."""
    sample = load()
    everything, report_alone = bare_operations(sample.evidence)
    warm = Verifier(sample.trust)
    at, expectations, verifier = datetime.now(UTC), Expectations(), warm

    def judge(chosen: Verifier, evidence: AttestationEvidence = sample.evidence) -> None:
        chosen.verify(evidence, expectations=expectations, at=at).require()

    def new_verifier() -> None:
        nonlocal verifier
        verifier = Verifier(sample.trust)

    def product_known() -> None:
        new_verifier()
        judge(verifier, sample.same_product)

    def nothing() -> None:
        pass

    judge(warm)
    bare, bare_report, cold, first, again = microseconds(
        {
            "bare": (nothing, everything),
            "bare report": (nothing, report_alone),
            "cold": (new_verifier, lambda: judge(verifier)),
            "first": (product_known, lambda: judge(verifier)),
            "again": (nothing, lambda: judge(warm)),
        },
        rounds,
    ).values()
    return {
        "cold verdict, against all four signatures": cold / bare,
        "first verdict of a chip, against all four signatures": first / bare,
        "repeated verdict, against the report's signature": again / bare_report,
        "all four signatures": bare,
        "cold verdict": cold,
        "verdicts per second, repeated": 1e6 / again,
    }


BENCHMARK = Benchmark(
    "a verdict, against the signature operations that it contains",
    measure,
    [
        at_most("cold verdict, against all four signatures", 2, "x"),
        at_most("first verdict of a chip, against all four signatures", 2, "x"),
        at_most("repeated verdict, against the report's signature", 2, "x"),
        reported("all four signatures", "µs"),
        reported("cold verdict", "µs"),
        reported("verdicts per second, repeated"),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
