"""``python -m localcloud.standins.entra --config FILE``"""

from localcloud.standins.entra.server import run

run()
