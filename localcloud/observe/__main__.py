"""Run the page's server."""

from localcloud.observe.server import main

main()
