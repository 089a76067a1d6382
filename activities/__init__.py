"""Activities: the arrows of the sequence diagrams. One module and one class per called participant.

An activity uses only the credentials of its worker, verifies its input, and returns references instead of secrets. Classes get
their clients in the constructor; :mod:`workers.boundaries` creates them.
"""
