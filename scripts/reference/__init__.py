"""Generate the pages of ``docs/reference/`` and ``docs/schemas/`` from the code.

``python -m scripts.reference`` writes them; ``python -m scripts.reference --check`` fails when one is stale.
"""
