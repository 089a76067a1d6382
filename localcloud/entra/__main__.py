"""``python -m localcloud.entra --config FILE``"""

from localcloud.entra.server import run

run()
