"""Worker processes, one per trust boundary. Start one with ``cleanroom worker <profile>`` or ``python -m workers <profile>``."""
