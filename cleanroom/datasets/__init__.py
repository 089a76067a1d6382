"""Datasets at rest: encryption, the owner's key store, source files, upload and download."""
