"""Runs the Kubernetes stand-in: ``python -m localcloud.standins.kubernetes --config FILE``."""

from localcloud.standins.kubernetes.server import run

run()
