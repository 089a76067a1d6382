"""``python -m localcloud.snp --config FILE``"""

from localcloud.snp.server import run

run()
