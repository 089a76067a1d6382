"""Temporal workflows: one module and one class per sequence diagram, and the parts that they share."""
