"""Runs the Entra ID and ARM stand-in: ``python -m localcloud.standins.entra --config FILE``."""

from localcloud.standins.entra.server import run

run()
