"""``python -m localcloud.kubernetes --config FILE``"""

from localcloud.kubernetes.server import run

run()
