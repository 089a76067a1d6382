"""The arrows of the diagrams: one module and one class per participant that is called.

An activity obtains what it needs with its own worker's credentials, distrusts its input, and returns references, never
secrets. Classes get their clients in the constructor (:mod:`workers` builds them).
"""
