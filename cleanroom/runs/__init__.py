"""What must hold in governance before a run gets anything, and the job that follows from it.

:mod:`cleanroom.runs.verification` lists what the clean room verifies before a release. :mod:`cleanroom.runs.authority` has
the checks; the Spark service and the audit use the same ones with their own reader
(:class:`cleanroom.runs.reader.GovernanceReader`).
"""
