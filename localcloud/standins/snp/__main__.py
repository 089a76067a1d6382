"""Runs the SNP hardware stand-in: ``python -m localcloud.standins.snp --config FILE``."""

from localcloud.standins.snp.server import run

run()
