"""The web gateway: payload decoding for Temporal's Web UI, login, and an authenticating reverse proxy."""
