"""Generates, verifies and publishes dataset and query documents."""
