"""Datasets at rest: sealing, the owner's key store, source files, upload and download (design.md 7)."""
