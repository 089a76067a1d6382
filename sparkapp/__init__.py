"""The program in a run's pods, called the payload.

It attests itself, reads its secrets, opens the datasets, checks consent, runs the approved query, writes the sealed
result, and reports. It trusts its measured environment (``JOB_CONFIG``) and governance (by the TLS roots in
``JOB_CONFIG``), and nothing else. The driver starts in :mod:`sparkapp.entry`; the image's entry point is
:mod:`sparkapp.launch`.
"""
