"""A run's authority: what must be true in governance before anything is released, and the job that follows from it.

Both the clean room and the Spark service convince themselves with this package, each with its own way to read governance
(:class:`cleanroom.runs.reader.GovernanceReader`); neither takes the word of whoever operates Temporal.
"""
