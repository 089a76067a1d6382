"""Runs the governance stand-in: ``python -m localcloud.standins.cgs --config FILE``."""

from localcloud.standins.cgs.server import run

run()
