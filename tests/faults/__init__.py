"""The fault matrix: every activity and every request of every workflow, with every fault, and the same end after each.

:mod:`tests.faults.cells` generates the matrix from a recording, :mod:`tests.faults.cloud` runs it, :mod:`tests.faults.proxy` injects
faults on the wire. docs/durability.md shows the outcomes.
"""
