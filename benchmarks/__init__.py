"""Benchmarks, each with its targets. ``python -m benchmarks`` runs them and writes docs/performance.md."""
