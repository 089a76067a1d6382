"""The program in the pod: attest, get secrets, open datasets, check consent, run the approved query, write the sealed result, report.

It trusts its own measured environment (``JOB_CONFIG``), governance (by TLS roots in it) and nothing else. ``entry`` is where it starts.
"""
