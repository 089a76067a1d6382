"""Readers of CSV and JSON lines in Python alone, for an installation without pyarrow.

They accept what the readers with Arrow accept in the usual spellings of values, and nothing else, so that whatever they accept can be read
by the pods. They are slower.
"""
