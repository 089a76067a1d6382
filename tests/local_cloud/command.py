"""``python -m tests.local_cloud.command`` is ``cleanroom``, except that a local cloud leaves crashed services ended.

Tests kill services, and start them again when the test needs them.
"""

from __future__ import annotations

from starters.cli import main
from starters.operations import local_cloud

if __name__ == "__main__":
    local_cloud.RESTARTS = 0
    main()
