"""Forged inputs from the position of a hostile operator of the Temporal server."""
