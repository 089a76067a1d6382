"""``python -m localcloud.keyvault --config FILE``"""

from localcloud.keyvault.server import run

run()
