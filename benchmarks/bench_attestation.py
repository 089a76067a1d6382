"""How long a verdict takes, against the bare signature operations that it contains.

    python benchmarks/bench_attestation.py [--rounds N] [--json]

*bare* is the time of the signature verifications alone, with keys and certificates parsed before: the report's ECDSA P-384 signature, the
chain's two RSA-PSS links, the root's signature on itself; a cold verdict makes exactly these four. Three verdicts are set against it:

* *cold*: nothing is known; base64, PEM, X.509, every signature and every check. Only a process's first verdict of a product is like that.
* *first*: a chip never seen. Its leaf is parsed and verified; AMD's intermediate and root were verified with another chip's chain before.
* *again*: a chip and TCB whose chain this trust store has verified; the report's signature and all checks remain.

The target is a ratio of at most 2. Real vectors are used when CLEANROOM_VECTORS names them, else a chain with keys of AMD's sizes is
minted. Each time is the lower quartile of many, measured in turns: what a busy neighbour takes of the processor's caches is no work of a
verdict's.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cleanroom.attestation import AttestationEvidence, Expectations, Product, TrustedRoot, TrustStore, parse_report, verify_evidence
from cleanroom.attestation.endorsements import read_endorsements
from cleanroom.attestation.parsed import AMD_PSS, forget_parsed, parse_certificates
from cleanroom.attestation.trust import spki_sha256
from localcloud.standins.snp.minting import LeafPlan, mint_hierarchy

NAME = "milan-v3-caci-tav"


def load() -> tuple[AttestationEvidence, Callable[[], TrustStore]]:
    """Evidence, and a maker of empty trust stores that believe it."""
    folder = Path(os.environ.get("CLEANROOM_VECTORS", "../shared/vectors")) / "snp" / NAME
    if folder.is_dir():
        return AttestationEvidence.of((folder / "report.bin").read_bytes(), (folder / "chain.pem").read_bytes()), TrustStore.amd
    made = mint_hierarchy(LeafPlan(product=Product.MILAN, chip_id=bytes(range(1, 65)), rsa_bits=4096))
    root = TrustedRoot(spki_sha256=spki_sha256(made.root), product=made.product, development=True)
    return AttestationEvidence.of(made.report(), made.chain_pem()), lambda: TrustStore([root])


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    evidence, new_trust = load()
    everything, report_alone = bare_operations(evidence)
    at, expectations, shared = datetime.now(UTC), Expectations(), new_trust()

    def judge(trust: TrustStore) -> None:
        verify_evidence(evidence, trust=trust, expectations=expectations, at=at).require()

    judge(shared)
    leaf, *authorities = read_endorsements(evidence.endorsements)
    store = shared

    def nothing_known() -> None:
        nonlocal store
        forget_parsed()
        store = new_trust()

    def without_leaf() -> None:
        """Leave what a verdict on another chip of the same product leaves behind."""
        judge(shared)
        shared.chains.clear()
        shared.links.forget((leaf, authorities[0]))
        forget_parsed()
        parse_certificates(authorities)

    def nothing() -> None:
        pass

    found = microseconds(
        {
            "bare": (nothing, everything),
            "bare_report": (nothing, report_alone),
            "cold": (nothing_known, lambda: judge(store)),
            "first": (without_leaf, lambda: judge(shared)),
            "again": (nothing, lambda: judge(shared)),
        },
        arguments.rounds,
    )
    bare, bare_report, cold, first, again = found.values()
    rows = {
        "bare_us": bare,
        "bare_report_signature_us": bare_report,
        "cold_us": cold,
        "first_us": first,
        "again_us": again,
        "cold_ratio": cold / bare,
        "first_ratio": first / bare,
        "again_ratio": again / bare,
        "again_to_report_signature_ratio": again / bare_report,
        "verdicts_per_second": 1e6 / again,
    }
    if arguments.json:
        print(json.dumps({name: round(value, 2) for name, value in rows.items()}))
        return
    for name, value in rows.items():
        print(f"{name:34} {value:10.2f}")


if __name__ == "__main__":
    main()
