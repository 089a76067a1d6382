"""The processes: one worker a trust boundary. Start one with ``cleanroom worker <profile>`` or ``python -m workers <profile>``."""
