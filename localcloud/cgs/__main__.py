"""``python -m localcloud.cgs --config FILE``"""

from localcloud.cgs.server import run

run()
