"""Finds secrets where they must not be: known secrets, places that others can read, and the scanner that compares them."""
