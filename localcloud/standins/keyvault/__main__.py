"""Runs the Key Vault stand-in: ``python -m localcloud.standins.keyvault --config FILE``."""

from localcloud.standins.keyvault.server import run

run()
